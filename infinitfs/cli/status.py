"""`infinitfs status`: what the mounts of this machine are doing.

Above: `main.py` and `volume.py`. Below: `mount/control.py`.
Invariant: asking changes nothing and needs no key.
"""

from typing import Any

import click

from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.invocation import Invocation

_COLUMNS = {
    "volume": "VOLUME",
    "mountpoint": "MOUNTED AT",
    "state": "STATE",
    "waiting": "WAITING",
    "last_stored": "LAST STORED",
    "cache": "CACHE",
    "errors": "ERRORS",
}


@click.command("status", cls=Command, example="infinitfs status ~/drive\ninfinitfs status --json")
@click.argument("directory", metavar="[DIR]", required=False)
@pass_invocation
def status(invocation: Invocation, directory: str | None) -> None:
    """Show the state of the mount at DIR, or of every mount of this machine."""
    from infinitfs.cli.mount import absolute
    from infinitfs.mount.control import find_mount, mounted

    if directory is not None:
        state = read_status(invocation, find_mount(invocation.paths, absolute(directory)))
        invocation.answer_fields(state if invocation.json else status_fields(state))
        return
    states = [read_status(invocation, volume_id) for volume_id in mounted(invocation.paths)]
    if not states:
        invocation.note("Nothing is mounted.")
    invocation.answer_table(states if invocation.json else map(status_fields, states), _COLUMNS)


def read_status(invocation: Invocation, volume_id: str) -> dict[str, Any]:
    """The status of a mounted volume, with the fields of `mount.session.Status`."""
    from infinitfs.mount.control import ask

    return next(iter(ask(invocation.paths, volume_id, "status")))


def status_fields(state: dict[str, Any]) -> dict[str, str]:
    """A status as a person reads it."""
    from infinitfs.config.sizes import format_size

    reads = state["cache_hits"] + state["cache_misses"]
    hits = f", {state['cache_hits'] / reads:.0%} hits" if reads else ""
    return {
        "volume": state["volume"],
        "mountpoint": state["mountpoint"],
        "state": state["state"],
        "waiting": f"{format_size(state['backlog_bytes'])} in {state['backlog_packs']} packs",
        "last_stored": state["last_stored"] or "never",
        "cache": f"{format_size(state['cache_bytes'])} of {format_size(state['cache_limit'])}{hits}",
        "uploaded": format_size(state["uploaded_bytes"]),
        "downloaded": format_size(state["downloaded_bytes"]),
        "errors": str(state["errors"]),
        "trouble": state["trouble"] or "",
        "process": str(state["pid"]),
    }
