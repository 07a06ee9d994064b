"""Where a passphrase comes from.

Role: finds the one passphrase that a command or a service was given. Above: `cli/` and `mount/`, which pass
the options, the environment and a prompt. Below: files and one process.
Invariant: a passphrase is never an argument of a command line, and never empty.

In this order: the options `--passphrase-file` or `--passphrase-command`; the environment
`INFINITFS_PASSPHRASE`, `INFINITFS_PASSPHRASE_FILE` or `INFINITFS_PASSPHRASE_COMMAND`; systemd's
`$CREDENTIALS_DIRECTORY/passphrase` (see systemd.exec(5), LoadCredential=); a prompt. Two options, or two of
these variables, are a UsageError; an option overrides the environment, as everywhere.
"""

import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infinitfs.errors import UsageError

COMMAND_TIMEOUT = 60.0
"""Seconds that a passphrase command may take: enough for a person to unlock a password store."""

_MAX_SIZE = 64 << 10
_VARIABLES = ("INFINITFS_PASSPHRASE", "INFINITFS_PASSPHRASE_FILE", "INFINITFS_PASSPHRASE_COMMAND")


@dataclass(frozen=True, slots=True)
class PassphraseOptions:
    """The options of a command: a path, and a command line that prints the passphrase."""

    file: str | None = None
    command: str | None = None


def find_passphrase(
    options: PassphraseOptions,
    environ: Mapping[str, str],
    prompt: Callable[[], str] | None,
    *,
    timeout: float = COMMAND_TIMEOUT,
) -> str | None:
    """The passphrase of the first source there is, without its trailing newline; None where there is no
    source.

    An empty answer to `prompt` is None too: who is asked may choose none. Raises UsageError where two sources
    contradict each other, or where one cannot be read, fails, or is empty.
    """
    if options.file is not None and options.command is not None:
        raise UsageError(problem="Two passphrase sources: use either --passphrase-file or --passphrase-command.")
    if options.file is not None:
        return _from_file(Path(options.file))
    if options.command is not None:
        return _from_command(options.command, timeout)
    variables = [name for name in _VARIABLES if environ.get(name)]
    if len(variables) > 1:
        raise UsageError(problem=f"Two passphrase sources: unset either {variables[0]} or {variables[1]}.")
    if variables:
        value = environ[variables[0]]
        if variables[0].endswith("_FILE"):
            return _from_file(Path(value))
        if variables[0].endswith("_COMMAND"):
            return _from_command(value, timeout)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(problem=f"${variables[0]} is not text in UTF-8: check the passphrase source.") from None
        return value
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory) / "passphrase"
        if credential.exists():
            return _from_file(credential)
    return (prompt() or None) if prompt is not None else None


def _clean(data: bytes, source: str) -> str:
    if len(data) > _MAX_SIZE:
        raise UsageError(problem=f"{source} is longer than a passphrase can be: check the passphrase source.")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(problem=f"{source} is not text in UTF-8: check the passphrase source.") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise UsageError(problem=f"{source} is empty: put the passphrase there, or use no passphrase source.")
    return text


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise UsageError(
            problem=f'The passphrase file "{path}" cannot be read ({error.strerror}): correct the path.'
        ) from None
    return _clean(data, f'The passphrase file "{path}"')


def _from_command(command: str, timeout: float) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(problem=f"The passphrase command is malformed ({error}): check quotes.") from None
    if not words:
        raise UsageError(problem="The passphrase command is empty: name one that prints the passphrase.")
    # No shell. Standard input belongs to the command that the user runs, so this one gets none.
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=timeout, check=False)
    except OSError as error:
        raise UsageError(
            problem=f'The passphrase command "{words[0]}" cannot be run ({error.strerror}): correct it.'
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            problem=f'The passphrase command "{words[0]}" took over {timeout:g} s: run it by hand first.'
        ) from None
    if done.returncode != 0:
        raise UsageError(
            problem=f'The passphrase command "{words[0]}" failed ({done.returncode}): run it by hand first.'
        )
    return _clean(done.stdout, f'The output of the passphrase command "{words[0]}"')
