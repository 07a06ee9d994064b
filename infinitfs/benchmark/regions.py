"""Which region is closest, as the network has it and not the map.

Above: `cli/benchmark`. Below: `route`, `storage/regions`.
Invariant: regions are sampled side by side but not against each other: while one waits for its answer others ask, each
begins a moment after the one before it, and what costs this machine time (names, encryption) is never done while round
trips are timed.
"""

import ssl
from collections.abc import Callable, Iterable, Mapping

import trio

from infinitfs.benchmark.format import format_seconds
from infinitfs.benchmark.results import Result, Row
from infinitfs.benchmark.route import PHASES, Route
from infinitfs.benchmark.summary import ranked
from infinitfs.errors import StorageUnreachable
from infinitfs.volume.clock import Clock

ROUNDS = 10
_APART = 0.004  # seconds from the beginning of one sample to that of the next
_PATIENCE = 2  # rounds in which a region may stay silent before it is given up

Progress = Callable[[int, int], None]
"""Told how much is done, of how much."""


async def measure_regions(
    places: Mapping[str, tuple[str, str]], subject: str, *, rounds: int = ROUNDS, progress: Progress
) -> Result:
    """Sample the way to each of `places`, a region's name to its description and the URL of its service.

    A region that cannot be reached is a row with an error. Raises StorageUnreachable where none can.
    """
    context = ssl.create_default_context()
    routes = {name: Route(url, context) for name, (_, url) in places.items()}
    try:
        for number in range(rounds):
            await _round([route for route in routes.values() if number < _PATIENCE or route.answers])
            progress(number + 1, rounds)
    finally:
        for route in routes.values():
            await route.aclose()
    rows = [_row(name, places[name][0], route) for name, route in routes.items()]
    by_name = {row.name: row for row in rows}
    order = ranked({row.name: distance(row) for row in rows})
    found = [by_name[name] for name in order]
    if found[0].error:
        reason = f"no region answers, {found[0].name}: {found[0].error}"
        raise StorageUnreachable(storage=subject, reason=reason)
    return Result(
        kind="regions",
        subject=subject,
        created=Clock().timestamp(),
        rows=found,
        conclusion=_conclusion(found),
    )


def distance(row: Row) -> float | None:
    """The median by which a region is ranked: a warm request is what most of a volume's life is made of."""
    return row.values["request"].median if "request" in row.values else None


async def _round(routes: Iterable[Route]) -> None:
    for phase in PHASES:
        async with trio.open_nursery() as nursery:
            for route in routes:
                nursery.start_soon(getattr(route, phase))
                await trio.sleep(_APART)


def _row(name: str, note: str, route: Route) -> Row:
    summaries = {phase: samples.summary() for phase, samples in route.samples.items()}
    values = {phase: summary for phase, summary in summaries.items() if summary is not None}
    return Row(name=name, note=note, values=values, error="" if "request" in values else route.error)


def _conclusion(rows: list[Row]) -> list[str]:
    """What the best of `rows`, which comes first, means for a drive."""
    best, *others = [row for row in rows if not row.error]
    trip = best.values["request"].median
    lines = [
        f"{_called(best)}, is closest: a request takes {format_seconds(trip)}.",
        "To that comes what the service needs to find or keep an object (S3: 30 to 200 ms).",
        f"On a drive there a small cold read waits for one, {format_seconds(trip)} and what its megabyte takes on the "
        f"line; fsync with --fsync remote for two, {format_seconds(2 * trip)}.",
        "What is in the cache, and fsync as it is by default, wait for none.",
    ]
    if others:
        second = others[0].values["request"].median
        lines.append(f"The next is {_called(others[0])}: {format_seconds(second - trip)} more a request.")
    return lines


def _called(row: Row) -> str:
    return f"{row.name}, {row.note}" if row.note else row.name
