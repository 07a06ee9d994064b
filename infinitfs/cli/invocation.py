"""One run of the program: what is configured, who runs it, and where its answers go.

Above: every command has one as its first argument. Below: `config/` and `keys/`, imported when first needed.
Invariant: data goes to standard output, everything else to standard error; with `--json` standard output
carries nothing but JSON. A passphrase is looked for once a user.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from infinitfs.cli import terminal
from infinitfs.errors import AlreadyExists, NotFound, WrongKey

if TYPE_CHECKING:
    from infinitfs.config.model import UserRecord
    from infinitfs.config.paths import Paths
    from infinitfs.config.store import Collection, Store
    from infinitfs.keys.identity import Identity


@dataclass
class Invocation:
    """The shared options of a command line and what they open."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    json: bool = False
    debug: bool = False
    passphrase_file: str | None = None
    passphrase_command: str | None = None
    may_ask: bool = True
    _identities: "dict[str, Identity]" = field(default_factory=dict)

    @cached_property
    def paths(self) -> "Paths":
        from infinitfs.config.paths import Paths

        return Paths.from_environment(self.environ)

    @cached_property
    def store(self) -> "Store":
        from infinitfs.config.store import Store

        return Store(self.paths)

    @property
    def login(self) -> str:
        """The login name, empty where the system knows none (a container's bare user id)."""
        import getpass

        try:
            return getpass.getuser()
        except (KeyError, OSError):
            return ""

    def user(self, as_name: str | None) -> "UserRecord":
        """The user that `--as`, the environment, the login or being the only one picks."""
        return self.store.pick_user(as_name, self.environ, self.login)

    def passphrase(self, ask: Callable[[], str]) -> str | None:
        """The passphrase of the sources given, else what `ask` answers where there is a terminal, else
        None."""
        from infinitfs.keys.passphrase import PassphraseOptions, find_passphrase

        options = PassphraseOptions(file=self.passphrase_file, command=self.passphrase_command)
        return find_passphrase(options, self.environ, ask if self.may_ask and terminal.interactive() else None)

    def identity(self, user: "UserRecord") -> "Identity":
        """The user's key pair, opened. Raises NotFound without a private half here, WrongPassphrase."""
        if user.name not in self._identities:
            self._identities[user.name] = self._open_identity(user)
        return self._identities[user.name]

    def _open_identity(self, user: "UserRecord") -> "Identity":
        from infinitfs.keys.identity import Identity, is_protected

        if user.private is None:
            raise NotFound(
                what=f'The private key of user "{user.name}"',
                remedy=f"`infinitfs user export {user.name} --full` where it is, and import that file here",
            )
        passphrase = None
        if is_protected(user.private):
            passphrase = self.passphrase(lambda: terminal.ask_secret(f'Passphrase of user "{user.name}": '))
            if passphrase is None:
                raise WrongKey(
                    problem=f'The private key of user "{user.name}" needs its passphrase: '
                    "use --passphrase-file, --passphrase-command or $INFINITFS_PASSPHRASE."
                )
        return Identity.from_record(user.private, passphrase)

    # --- answers ---

    def note(self, text: str) -> None:
        """Something to know beside the answer, on standard error."""
        print(text, file=sys.stderr)

    def answer(self, data: Mapping[str, Any], text: str) -> None:
        """The one answer of a command: `data` with `--json`, else `text`."""
        print(_as_json(data) if self.json else text)

    def answer_fields(self, data: Mapping[str, Any]) -> None:
        """The one answer of a command that shows a thing: its fields that are not empty, one a line."""
        shown = {field.replace("_", " "): value for field, value in data.items() if value not in ("", [], None)}
        width = max(map(len, shown), default=0)
        lines = [f"{field:<{width}}  {_as_text(value)}" for field, value in shown.items()]
        self.answer(data, "\n".join(lines))

    def answer_table(self, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
        """One answer a row: a JSON line each, or a table of `columns` (field -> heading), its values as
        text."""
        if self.json:
            for row in rows:
                print(_as_json(row))
            return
        cells = [[str(row.get(column, "")) for column in columns] for row in rows]
        if not cells:
            return
        table = [list(columns.values()), *cells]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print("  ".join(padded).rstrip())


def check_new(collection: "Collection[Any]", noun: str, name: str) -> None:
    """Raise InvalidName or AlreadyExists before any work is done for a record that could not be kept."""
    if collection.path(name).exists():
        raise AlreadyExists(kind=noun, name=name)


def _as_json(data: Mapping[str, Any]) -> str:
    import json

    return json.dumps(data)


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
