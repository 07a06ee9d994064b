"""Infinit's own command lines: `infinit-user --create ...` is `infinitfs user create ...`.

Above: the scripts `infinit-user`, `infinit-credentials`, `infinit-storage`, `infinit-volume`. Below:
`main.py`.
Invariant: a translation of the verb's flag and nothing else; every other word reaches the command as it was
typed.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from infinitfs.cli.main import run

VERBS = {
    "user": ("create", "list", "show", "export", "import", "delete"),
    "credentials": ("add", "list", "show", "check", "rotate", "delete"),
    "storage": ("create", "list", "show", "check", "policy", "delete"),
    "volume": ("create", "mount", "list", "show", "fetch", "status", "delete"),
}


def user() -> NoReturn:
    """`infinit-user`."""
    _run("user")


def credentials() -> NoReturn:
    """`infinit-credentials`."""
    _run("credentials")


def storage() -> NoReturn:
    """`infinit-storage`."""
    _run("storage")


def volume() -> NoReturn:
    """`infinit-volume`."""
    _run("volume")


def translate(noun: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of `infinitfs` for those of Infinit's `noun` program. The first verb found is the verb;
    without one the noun's own help says which there are."""
    for place, argument in enumerate(arguments):
        verb = argument.removeprefix("--")
        if argument.startswith("--") and verb in VERBS[noun]:
            rest = [*arguments[:place], *arguments[place + 1 :]]
            return ["mount", *rest] if verb == "mount" else [noun, verb, *rest]
    return [noun, *arguments]


def _run(noun: str) -> NoReturn:
    run(translate(noun, sys.argv[1:]))
