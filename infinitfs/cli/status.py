"""`infinitfs status`: what the mounts of this machine are doing.

Above: `main.py`, and `doctor.py`, `quickstart.py`, `volume.py`, which ask the same. Below: `mount/control.py`,
`mount/metrics.py`, `watch.py`.
Invariant: asking changes nothing, needs no key, and never waits for a mount that says nothing. A mount of another
version may tell less: what is not told is not shown.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.invocation import Invocation
from infinitfs.errors import MountSilent, NotFound, UsageError

_PATIENCE = 10.0  # seconds
_COLUMNS = {
    "volume": "VOLUME",
    "mountpoint": "MOUNTED AT",
    "state": "STATE",
    "waiting": "WAITING",
    "stored": "STORED",
    "up": "UP",
    "down": "DOWN",
    "errors": "ERRORS",
}
_OPERATIONS = {
    "operation": "OPERATION",
    "count": "COUNT",
    "mean": "MEAN",
    "slowest": "SLOWEST",
    "failures": "FAILED",
}

State = Mapping[str, Any]


@click.command(
    "status",
    cls=Command,
    example="infinitfs status\n"
    "infinitfs status ~/drive\n"
    "infinitfs status ~/drive --watch\n"
    "infinitfs status --prometheus",
)
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("--watch", "watching", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@click.option("--prometheus", is_flag=True, help="Print metrics in the text format of Prometheus.")
@pass_invocation
def status(invocation: Invocation, directory: str | None, watching: bool, prometheus: bool) -> None:
    """Show the state of the mount at DIR, or of every mount of this machine."""
    if prometheus and (watching or invocation.json):
        raise UsageError(problem="--prometheus excludes --watch and --json: give one.")
    if watching:
        _watch(invocation, directory)
        return
    silent: list[MountSilent] = []
    states = read_states(invocation, directory, silent)
    if prometheus:
        from infinitfs.mount import metrics

        print(metrics.prometheus(states), end="")
    elif directory is None:
        if not states and not silent:
            invocation.note("Nothing is mounted.")
        invocation.answer_table(states if invocation.json else map(overview, states), _COLUMNS)
    elif invocation.json:
        print(json.dumps(states[0]))
    else:
        invocation.answer_fields(details(states[0]))
        print()
        invocation.answer_table(operations(states[0]), _OPERATIONS)
    if silent:
        raise silent[0]


def read_states(invocation: Invocation, directory: str | None, silent: list[MountSilent]) -> list[dict[str, Any]]:
    """The status of the mount at a folder, or of all there are; of those, `silent` gets what is to be said of one that
    does not answer. Raises NotFound, MountSilent."""
    from infinitfs.cli.mount import absolute
    from infinitfs.mount.control import find_mount, mounted

    if directory is not None:
        return [read_status(invocation, find_mount(invocation.paths, absolute(directory)))]
    states = []
    for volume_id in mounted(invocation.paths):
        try:
            states.append(read_status(invocation, volume_id))
        except NotFound:  # it has ended since
            continue
        except MountSilent as error:
            silent.append(MountSilent(reason=f"of the volume {volume_id}: {error.fields['reason']}"))
    return states


def read_status(invocation: Invocation, volume_id: str) -> dict[str, Any]:
    """The status of a mounted volume, with the fields of `mount.session.Status`."""
    from infinitfs.mount.control import ask

    return next(iter(ask(invocation.paths, volume_id, "status", patience=_PATIENCE)))


def _watch(invocation: Invocation, directory: str | None) -> None:
    from time import sleep

    from infinitfs.cli.watch import watch

    def look() -> Iterator[list[dict[str, Any]]]:
        while True:
            yield read_states(invocation, directory, [])
            sleep(1)

    try:
        if invocation.json:
            for states in look():
                for state in states:
                    print(json.dumps(state), flush=True)
        elif sys.stdout.isatty():
            watch(look())
        else:
            raise UsageError(problem="--watch needs a terminal: for a program, add --json.")
    except KeyboardInterrupt:  # how it is meant to end
        return


# --- a status as a person reads it ---


def overview(state: State) -> dict[str, str]:
    """One line of a table of mounts."""
    return {
        "volume": state["volume"],
        "mountpoint": state["mountpoint"],
        "state": state["state"],
        "waiting": waiting(state),
        "stored": age(state["last_stored"]),
        "up": rate(state.get("upload_rate")),
        "down": rate(state.get("download_rate")),
        "errors": str(state["errors"]),
    }


def details(state: State) -> dict[str, str]:
    """All about one mount, but for its operations; empty where nothing is known."""
    from infinitfs.config.sizes import format_size

    stored = f"position {state['position']}, {age(state['last_stored'])}" if state["last_stored"] else "nothing yet"
    moved = {way: format_size(state[f"{way}loaded_bytes"]) for way in ("up", "down")}
    return {
        "volume": state["volume"],
        "mountpoint": state["mountpoint"],
        "state": state["state"],
        "trouble": state["trouble"] or "",
        "waiting": waiting(state),
        "stored": stored,
        "up": f"{rate(state.get('upload_rate'))}, {moved['up']} in all",
        "down": f"{rate(state.get('download_rate'))}, {moved['down']} in all",
        "cache": f"{format_size(state['cache_bytes'])} of {format_size(state['cache_limit'])}{_hits(state)}",
        "requests": _requests(state),
        "cost": _cost(state.get("cost")),
        "errors": str(state["errors"]),
        "mounted": age(state.get("mounted_since")),
        "version": state.get("version", ""),
        "process": str(state["pid"]),
    }


def operations(state: State) -> list[dict[str, str]]:
    """What programs asked of the folder, the most frequent first."""
    counted = sorted(state.get("operations", {}).items(), key=lambda item: -item[1]["count"])
    return [
        {
            "operation": name,
            "count": f"{timing['count']:,}",
            "mean": duration(timing["seconds"] / timing["count"]),
            "slowest": duration(timing["slowest"]),
            "failures": str(timing["failures"]),
        }
        for name, timing in counted
    ]


def waiting(state: State) -> str:
    """What is not in the storage yet, and how long that will take."""
    from infinitfs.config.sizes import format_size

    left = state.get("drain_seconds")
    time = f", {duration(left)} left" if left else ""
    return f"{format_size(state['backlog_bytes'])}{time}"


def rate(bytes_a_second: float | None) -> str:
    from infinitfs.config.sizes import format_size

    return "" if bytes_a_second is None else f"{format_size(round(bytes_a_second))}/s"


def age(timestamp: str | None) -> str:
    """How long ago a time (RFC 3339) was."""
    if not timestamp:
        return "never"
    return f"{duration(max((datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds(), 0))} ago"


def duration(seconds: float) -> str:
    """A time in the unit, or the two units, that say enough: `12 us`, `3.4 ms`, `7 s`, `2 min 5 s`, `3 h 0 min`."""
    for scale, unit in ((1e-6, "us"), (1e-3, "ms")):
        if seconds and seconds < scale * 999.5:
            return f"{seconds / scale:.{int(seconds < scale * 9.95)}f} {unit}"
    whole = round(seconds)
    for size, unit, part, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {name}"
    return f"{whole} s"


def _hits(state: State) -> str:
    reads = state["cache_hits"] + state["cache_misses"]
    return f", {state['cache_hits'] / reads:.0%} hits" if reads else ""


def _requests(state: State) -> str:
    """The requests by kind, those that failed and were tried again beside them."""
    shown = []
    for kind, usage in state.get("requests", {}).items():
        failed = f" ({usage['failed']:,} failed)" if usage["failed"] else ""
        if usage["count"]:
            shown.append(f"{usage['count']:,} {kind}{failed}")
    return ", ".join(shown)


def _cost(dollars: float | None) -> str:
    if dollars is None:
        return ""
    return f"about ${dollars:.4f}" if dollars >= 0.0001 else "less than $0.0001"
