"""Mount options as fstab(5) writes them: `-o read-only,cache-size=50GB,nofail`.

Above: `mount.py`, whose long options they are. Below: click.
Invariant: an option that is not understood is refused by name, so that none is lost in silence.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import click

from infinitfs.cli.base import Command
from infinitfs.errors import UsageError

# Meant for who calls mount(8), or always so here: no read moves a file's access time.
_IGNORED = re.compile(
    "defaults|(no)?auto|(no)?user|users|owner|group|nofail|_netdev|comment|u?helper|async|x-.*|X-.*"
    "|(no)?(atime|diratime|relatime|strictatime|lazytime)"
)
_FLAGS = {"dev": "dev", "nodev": "dev", "suid": "suid", "nosuid": "suid", "exec": "noexec", "noexec": "noexec"}
_OTHER = frozenset({"name", "mountpoint", "help"})  # what and where is said elsewhere


class MountCommand(Command):
    """A command whose every long option can be given with `-o`, too. What stays behind `-o` is for the kernel: dev,
    suid, noexec."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._expanded(args)))

    def _expanded(self, arguments: Sequence[str]) -> Iterator[str]:
        rest = iter(arguments)
        for argument in rest:
            if argument == "--":
                yield argument
                yield from rest
            elif argument == "-o":
                yield from self._long(next(rest, ""))
            elif argument.startswith("-o"):
                yield from self._long(argument[2:])
            else:
                yield argument

    def _long(self, text: str) -> Iterator[str]:
        """Long options for a list separated by commas; a comma in a value is written `\\,`."""
        takes_value = {
            name.removeprefix("--"): not option.is_flag
            for option in self.params
            if isinstance(option, click.Option)
            for name in option.opts
            if name.startswith("--") and name.removeprefix("--") not in _OTHER
        }
        flags: dict[str, bool] = {}
        for part in re.split(r"(?<!\\),", text):
            name, given, value = part.replace("\\,", ",").partition("=")
            option = name.replace("_", "-")
            if not part or _IGNORED.fullmatch(name):
                continue
            if name in _FLAGS:
                flags[_FLAGS[name]] = name == _FLAGS[name]
            elif name in ("ro", "rw"):
                flags["ro"] = name == "ro"
            elif option not in takes_value:
                raise UsageError(problem=f'There is no mount option "{name}": `infinitfs mount --help` lists them all.')
            elif takes_value[option] != bool(given):
                need = "needs a value" if takes_value[option] else "takes no value"
                raise UsageError(problem=f'The mount option "{name}" {need}.')
            else:
                yield f"--{option}={value}" if given else f"--{option}"
        for flag, wanted in flags.items():
            if wanted:
                yield from ["--read-only"] if flag == "ro" else ["-o", flag]


def flags_option(function: Any) -> Any:
    """`-o OPTIONS`, for a `MountCommand`: `flags` are those for the kernel."""
    return click.option(
        "-o",
        "flags",
        metavar="OPTIONS",
        multiple=True,
        help="Options as fstab writes them: ro, dev, suid, noexec and all of these without dashes, e.g. "
        "ro,cache-size=50GB.",
    )(function)
