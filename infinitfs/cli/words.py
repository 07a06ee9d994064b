"""What can be typed in the place of an argument: for a shell's completion, and as what a record can hold.

Above: `base.py`, which gives every command's parameters a type of this module. Below: click, `config/`.
Invariant: what a parameter stands for is said once, by its metavar: a folder, a file, or the name of a record. Bytes
that are no text are refused before a command begins, but where they only name what is opened or run here and now.
"""

import os
from contextlib import suppress
from typing import Any

import click
from click.shell_completion import CompletionItem

from infinitfs.errors import InfinitfsError

_PLACES = {"DIR": "dir", "FILE": "file"}
_RECORDS = {"USER": "users", "CREDENTIALS": "credentials", "STORAGE": "storages", "VOLUME": "volumes"}
_NOUNS = {"user": "users", "credentials": "credentials", "storage": "storages", "volume": "volumes", "gc": "volumes"}
_NEW = frozenset({"create", "add", "import", "fetch"})  # verbs whose NAME is none that there is
_ANY_BYTES = frozenset({"COMMAND", "SRC", "DST"})  # as may a FILE


class Text(click.types.StringParamType):
    """What may end up in a record, a unit or the name of a database."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from infinitfs.config.paths import check_text

        return check_text(super().convert(value, param, ctx))


class Word(Text):
    """A text that stands for one of `kinds`, or for each of them in turn where it may be repeated."""

    def __init__(self, kinds: list[str]) -> None:
        self._kinds = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self._kinds == ["FILE"]:
            return value
        if self._kinds == ["DIR"]:  # which counts from here
            from pathlib import Path

            super().convert(str(Path(value).absolute()), param, ctx)
        return super().convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before = ctx.params.get(param.name or "") if param.nargs == -1 else ()
        kind = self._kinds[min(len(before or ()), len(self._kinds) - 1)]
        if kind in _PLACES:
            return [CompletionItem(incomplete, type=_PLACES[kind])]
        return [CompletionItem(name) for name in _names(kind, ctx) if name.startswith(incomplete)]


def _names(kind: str, ctx: click.Context) -> list[str]:
    from infinitfs.config.paths import Paths
    from infinitfs.config.store import Store

    _, *words = ctx.command_path.split()
    collection = _RECORDS.get(kind) or _NOUNS.get(words[0], "volumes" if words[0] == "mount" else "")
    if not collection or (kind == "NAME" and words[-1] in _NEW):
        return []
    with suppress(InfinitfsError):
        names: list[str] = getattr(Store(Paths.from_environment(os.environ)), collection).names()
        return names
    return []


def give_words(parameters: list[click.Parameter]) -> None:
    """Let every parameter of plain text whose metavar is known complete, and take bytes that are no text only where
    they may be any."""
    for parameter in parameters:
        if type(parameter.type) is not click.types.StringParamType:
            continue
        kinds = (parameter.metavar or "").strip("[]").split()
        if kinds and all(kind in _PLACES or kind in _RECORDS or kind == "NAME" for kind in kinds):
            parameter.type = Word(kinds)
        elif not _ANY_BYTES.intersection(kinds):
            parameter.type = Text()
