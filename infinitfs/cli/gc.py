"""`infinitfs gc`: give back the space of what nothing refers to.

Above: `main.py`. Below: the running mount over `mount/control.py`, or `mount/admin.py` where there is none.
Invariant: a volume that is mounted here is collected by its mount, never beside it.
"""

from typing import Any

import click

from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.invocation import Invocation
from infinitfs.cli.options import named, passphrase_sources


@click.command("gc", cls=Command, example="infinitfs gc drive")
@named("volume")
@passphrase_sources
@pass_invocation
def gc(invocation: Invocation, name: str) -> None:
    """Delete stored packs of a volume in which nothing is needed any more."""
    from infinitfs.config.sizes import format_size
    from infinitfs.mount.control import ask, mounted

    record = invocation.store.volumes.get(name)
    if record.volume in mounted(invocation.paths):
        report = next(iter(ask(invocation.paths, record.volume, "collect")))
        packs, freed = report["packs"], report["bytes"]
    else:
        packs, freed = _collect(invocation, name)
    data: dict[str, Any] = {"volume": name, "packs": packs, "bytes": freed}
    invocation.answer(data, f'Freed {packs} packs, {format_size(freed)}, of volume "{name}".')


def _collect(invocation: Invocation, name: str) -> tuple[int, int]:
    from infinitfs.cli.account import open_volume
    from infinitfs.mount.admin import collect_garbage

    opened = open_volume(invocation, name)
    report = collect_garbage(invocation.paths, opened.record, opened.identity, opened.account)
    return report.packs, report.bytes
