"""The live view of `infinitfs status --watch`.

Above: `status.py`, which brings the states. Below: rich.
Invariant: nothing is wider than the terminal, and the terminal is as it was before when the view ends.
"""

from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infinitfs.cli.status import State, details, duration

_COLOURS = {"ready": "green", "draining": "yellow", "read-only": "cyan", "offline": "red"}
_MOVING = ("up", "down", "waiting", "stored", "cache", "requests", "cost", "errors", "trouble")


def watch(looks: Iterable[list[dict[str, Any]]]) -> None:
    """Show each look at the mounts in the place of the one before. Ends with `looks`, or with what they raise."""
    before: dict[str, State] = {}
    looked = monotonic()
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        for states in looks:
            now = monotonic()
            live.update(view(states, before, now - looked), refresh=True)
            before, looked = {state["volume_id"]: state for state in states}, now


def view(states: list[dict[str, Any]], before: Mapping[str, State], passed: float) -> RenderableType:
    """What is shown of the mounts; `before` is the last look at each, by volume id, `passed` seconds ago."""
    if not states:
        return Text("Nothing is mounted.")
    parts: list[RenderableType] = []
    for state in states:
        parts += [_mount(state), Text(), _operations(state, before.get(state["volume_id"]), passed), Text()]
    return Group(*parts)


def _mount(state: State) -> RenderableType:
    shown = details(state)
    title = Text.assemble((shown["volume"], "bold"), "  ", shown["mountpoint"], overflow="ellipsis", no_wrap=True)
    about = Text.assemble((shown["state"], _COLOURS.get(shown["state"], "")), f", mounted {shown['mounted']}")
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(title, about)
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="dim", no_wrap=True)
    fields.add_column(overflow="fold")
    for name in _MOVING:
        if shown[name]:
            fields.add_row(name, Text(shown[name], style="red" if name == "trouble" else ""))
    return Group(head, fields)


def _operations(state: State, before: State | None, passed: float) -> RenderableType:
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    table.add_column("operation", min_width=11)
    for name in ("a second", "mean of now", "mean", "slowest", "count", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    earlier = before.get("operations", {}) if before else {}
    counted = sorted(state.get("operations", {}).items(), key=lambda item: -item[1]["count"])
    for name, timing in counted:
        then = earlier.get(name, {"count": 0, "seconds": 0.0})
        more = timing["count"] - then["count"] if before else 0
        now = duration((timing["seconds"] - then["seconds"]) / more) if more else ""
        table.add_row(
            name,
            f"{more / passed:,.0f}" if more else "",
            now,
            duration(timing["seconds"] / timing["count"]),
            duration(timing["slowest"]),
            f"{timing['count']:,}",
            str(timing["failures"] or ""),
        )
    return table
