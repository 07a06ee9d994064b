"""What a mount counts of itself, and the text in which Prometheus reads it.

Above: `operations` and `session`, which count; `cli/status.py`, which renders what `status` answered. Below: nothing.
Invariant: no I/O and no clock here; counting an operation takes less than a microsecond. A field that a mount of
another version does not tell is left out.

The text is Prometheus' exposition format 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/), the names follow its conventions: base units, `_total`
for what only grows.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

_WINDOW = 15.0  # seconds: some packs, even where one takes long
_FORGETS = 60.0  # seconds
_TELLING = 1_000_000  # bytes: less than that, and not even a pack, says nothing of a link
_STATES = ("ready", "offline", "draining", "read-only")


@dataclass(slots=True)
class Timing:
    """Calls of one operation: how many, how long in all and at most (seconds), and how many ended with EIO."""

    count: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        if seconds > self.slowest:
            self.slowest = seconds


class Rates(NamedTuple):
    """Bytes a second of the last seconds, and the seconds that sending what waits takes, None where nothing tells."""

    upload: float
    download: float
    drain: float | None


class Throughput:
    """How fast bytes move, from totals that are looked at now and then.

    The time to drain comes from how fast bytes went up while some waited, of which a minute of sending forgets half:
    pauses do not make a link slow.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()
        self._waiting = False
        self._sent = 0.0
        self._sending = 0.0

    def observe(self, now: float, uploaded: int, downloaded: int, backlog: int) -> Rates:
        """Take the totals of this moment, in bytes."""
        if self._waiting:
            then, before, _ = self._seen[-1]
            kept = 0.5 ** ((now - then) / _FORGETS)
            self._sent = self._sent * kept + uploaded - before
            self._sending = self._sending * kept + now - then
        self._waiting = backlog > 0
        self._seen.append((now, uploaded, downloaded))
        while len(self._seen) > 1 and self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        first, up, down = self._seen[0]
        passed = max(now - first, 1.0)
        return Rates((uploaded - up) / passed, (downloaded - down) / passed, self._drain(backlog))

    def _drain(self, backlog: int) -> float | None:
        if not backlog:
            return 0.0
        return backlog * self._sending / self._sent if self._sent >= _TELLING else None


# --- Prometheus ---


class _Family(NamedTuple):
    """A metric of one value a mount; `field` of the status has the value."""

    name: str
    kind: str
    help: str
    field: str


_FAMILIES = (
    _Family("start_time_seconds", "gauge", "When the volume was mounted, in Unix time.", "mounted_since"),
    _Family("backlog_bytes", "gauge", "Bytes that wait for the storage on this machine.", "backlog_bytes"),
    _Family("backlog_packs", "gauge", "Packs that wait for the storage.", "backlog_packs"),
    _Family("backlog_records", "gauge", "Journal records that wait for the storage.", "backlog_records"),
    _Family("backlog_drain_seconds", "gauge", "Time to send what waits, at the rate of now.", "drain_seconds"),
    _Family("journal_position", "gauge", "The last journal record that the storage has.", "position"),
    _Family("last_stored_timestamp_seconds", "gauge", "When the storage got it, in Unix time.", "last_stored"),
    _Family("cache_bytes", "gauge", "Bytes in the disk cache.", "cache_bytes"),
    _Family("cache_limit_bytes", "gauge", "The most that the disk cache holds.", "cache_limit"),
    _Family("cache_hits_total", "counter", "Reads that the disk cache answered.", "cache_hits"),
    _Family("cache_misses_total", "counter", "Reads that went to the storage.", "cache_misses"),
    _Family("uploaded_bytes_total", "counter", "Bytes of objects that the storage took.", "uploaded_bytes"),
    _Family("downloaded_bytes_total", "counter", "Bytes of objects that the storage gave.", "downloaded_bytes"),
    _Family("storage_errors_total", "counter", "Requests to the storage that failed for good.", "errors"),
    _Family("storage_cost_dollars_total", "counter", "What the requests cost, an estimate.", "cost"),
    _Family("transfer_restarts_total", "counter", "Times the transfer process was started again.", "restarts"),
)
_REQUESTS = (
    ("storage_requests_total", "Requests to the storage.", "count"),
    ("storage_request_bytes_total", "Bytes of objects that requests to the storage moved.", "bytes"),
    ("storage_request_failures_total", "Requests to the storage without an answer of use; tried again.", "failed"),
)


def prometheus(states: Iterable[Mapping[str, Any]]) -> str:
    """The text for the states of some mounts, as `status` tells them."""
    mounts = [(_labels(volume=state["volume"], mountpoint=state["mountpoint"]), state) for state in states]
    return "".join(f"{line}\n" for line in _lines(mounts))


def _lines(mounts: "list[tuple[str, Mapping[str, Any]]]") -> Iterator[str]:
    yield from _family("mounts", "gauge", "Volumes that are mounted on this machine.", [("", len(mounts))])
    if not mounts:
        return
    versions = [(f"{labels},{_labels(version=state.get('version', ''))}", 1) for labels, state in mounts]
    yield from _family("info", "gauge", "The version that a mount runs.", versions)
    in_state = [
        (f"{labels},{_labels(state=name)}", int(state["state"] == name)) for labels, state in mounts for name in _STATES
    ]
    yield from _family("state", "gauge", "1 for the state that a mount is in.", in_state)
    for name, kind, text, field in _FAMILIES:
        yield from _family(name, kind, text, [(labels, _number(state.get(field))) for labels, state in mounts])
    for name, text, part in _REQUESTS:
        of_kinds = [(key, counted[part]) for key, counted in _each(mounts, "requests", "kind")]
        yield from _family(name, "counter", text, of_kinds)
    operations = list(_each(mounts, "operations", "operation"))
    if operations:
        name = "infinitfs_operation_duration_seconds"
        yield f"# HELP {name} How long the operations of programs on the folder took."
        yield f"# TYPE {name} summary"
        for key, timing in operations:
            yield f"{name}_sum{{{key}}} {timing['seconds']}"
            yield f"{name}_count{{{key}}} {timing['count']}"
    slowest = [(key, timing["slowest"]) for key, timing in operations]
    yield from _family("operation_slowest_seconds", "gauge", "The slowest since the mount began.", slowest)
    failures = [(key, timing["failures"]) for key, timing in operations]
    yield from _family("operation_failures_total", "counter", "Operations that ended with EIO.", failures)


def _family(name: str, kind: str, text: str, samples: "Iterable[tuple[str, float | None]]") -> Iterator[str]:
    known = [(labels, value) for labels, value in samples if value is not None]
    if known:
        yield f"# HELP infinitfs_{name} {text}"
        yield f"# TYPE infinitfs_{name} {kind}"
    for labels, value in known:
        yield f"infinitfs_{name}{{{labels}}} {value}" if labels else f"infinitfs_{name} {value}"


def _each(
    mounts: "list[tuple[str, Mapping[str, Any]]]", field: str, label: str
) -> "Iterator[tuple[str, Mapping[str, Any]]]":
    for labels, state in mounts:
        for name, counted in sorted(state.get(field, {}).items()):
            yield f"{labels},{_labels(**{label: name})}", counted


def _number(value: Any) -> float | None:
    """The value of a field: a number as it is, a time (RFC 3339) in Unix time."""
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else value


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
