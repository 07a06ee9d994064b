"""Options that several commands share, as decorators.

Above: the nouns. Below: click.
Invariant: an option of one name means the same everywhere; a required one that is missing is named, with
the option that gives it.
"""

import functools
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from infinitfs.cli.invocation import Invocation
from infinitfs.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def named(noun: str) -> Callable[[F], Callable[..., Any]]:
    """`--name N` or one positional N, given to the command as `name`."""

    def decorate(function: F) -> Callable[..., Any]:
        @click.argument("positional_name", metavar="[NAME]", required=False)
        @click.option("--name", "-n", metavar="NAME", help=f"The {noun}'s name; the positional does the same.")
        @functools.wraps(function)
        def wrapper(*args: Any, name: str | None, positional_name: str | None, **kwargs: Any) -> Any:
            if name is not None and positional_name is not None and name != positional_name:
                raise UsageError(problem=f'Two {noun} names given, "{positional_name}" and "{name}": give one.')
            chosen = require(name or positional_name, f"{noun.capitalize()} name", "--name")
            return function(*args, name=chosen, **kwargs)

        return wrapper

    return decorate


def acting_user(function: F) -> F:
    """`--as USER`, given to the command as `as_name`."""
    return click.option(
        "--as",
        "as_name",
        metavar="USER",
        help="The user to act as [default: $INFINITFS_USER, your login name].",
    )(function)


def passphrase_sources(function: F) -> F:
    """`--passphrase-file` and `--passphrase-command`, kept in the invocation."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        setattr(ctx.ensure_object(Invocation), str(parameter.name), value)

    for option, metavar, text in (
        ("--passphrase-command", "COMMAND", "Take the passphrase from what COMMAND prints."),
        ("--passphrase-file", "FILE", "Take the passphrase from FILE."),
    ):
        function = click.option(option, metavar=metavar, expose_value=False, callback=remember, help=text)(function)
    return function


class Size(click.ParamType[int]):
    """A number of bytes: `2TB`, `512MiB`, `1000`."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from infinitfs.config.sizes import parse_size

        return value if isinstance(value, int) else parse_size(value)


def require(value: str | None, what: str, option: str) -> str:
    """`value`, or a UsageError that names the option to use."""
    if not value:
        raise UsageError(problem=f"{what} unspecified (use {option})")
    return value


def now() -> str:
    """The time of a record's creation: RFC 3339 in UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_private_file(path: str, data: bytes) -> None:
    """Write a new file that only its owner reads, and that survives a power cut. Raises UsageError where it exists or
    cannot be made; then it is not there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
        except OSError:
            Path(path).unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise UsageError(problem=f'The file "{path}" exists already: name another one.') from None
    except OSError as error:
        raise UsageError(problem=f'The file "{path}" cannot be written ({error.strerror}).') from None


def read_file(path: str) -> bytes:
    """The bytes of a file a user named, of standard input for `-`. Raises UsageError where it cannot be
    read."""
    try:
        with click.open_file(path, "rb") as file:
            data: bytes = file.read()
            return data
    except OSError as error:
        raise UsageError(problem=f'The file "{path}" cannot be read ({error.strerror}).') from None
