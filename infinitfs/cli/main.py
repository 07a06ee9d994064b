"""`infinitfs`: the entry point.

Above: the `infinitfs` script, `python -m infinitfs.cli.main`, and `compat.py`. Below: one module a noun, imported when
it is used.
Invariant: however it is started, no core file is left, and the numbers of the standard streams belong to nothing else.
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

import click

from infinitfs import __version__
from infinitfs.cli.base import Root
from infinitfs.config.secrecy import no_core

COMMANDS = {
    "user": ("infinitfs.cli.user:user", "Key pairs that own credentials and open volumes."),
    "credentials": ("infinitfs.cli.credentials:credentials", "Credentials of a storage service."),
    "storage": ("infinitfs.cli.storage:storage", "Buckets or local folders that keep sealed bytes."),
    "volume": ("infinitfs.cli.volume:volume", "Encrypted drives on a storage."),
    "mount": ("infinitfs.cli.mount:mount", "Mount a volume at a folder."),
    "unmount": ("infinitfs.cli.mount:unmount", "Unmount a folder once everything in it is stored."),
    "status": ("infinitfs.cli.status:status", "What the mounts of this machine are doing."),
    "copy": ("infinitfs.cli.copy:copy", "Copy inside a mounted folder, without moving data."),
    "gc": ("infinitfs.cli.gc:gc", "Give back the space of what nothing needs any more."),
    "benchmark": ("infinitfs.cli.benchmark:benchmark", "How far a region is, what a storage and a mount give."),
    "doctor": ("infinitfs.cli.doctor:doctor", "What stands in the way, and what to do about it."),
    "systemd": ("infinitfs.cli.systemd:systemd", "Units that mount a volume at every start."),
    "quickstart": ("infinitfs.cli.quickstart:quickstart", "From nothing to a mounted folder."),
    "completion": ("infinitfs.cli.completion:completion", "What a shell needs to complete command lines."),
}


@click.group(cls=Root, commands_in=COMMANDS)
@click.version_option(__version__, prog_name="infinitfs", message="%(prog)s %(version)s")
def root() -> None:
    """A private drive on storage nobody has to trust.

    Start with `infinitfs quickstart DIR`, or make a user, credentials, a storage and a volume, and mount it.
    """


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program on `arguments`, or those of the command line, and exit."""
    no_core()
    _open_streams()
    root.main(arguments, prog_name="infinitfs")


def _open_streams() -> None:
    """A standard stream that was closed leads nowhere: its number is taken before another file gets it. The name of a
    file is printed with the bytes that it has."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  # for as long as this runs
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


if __name__ == "__main__":
    run()
