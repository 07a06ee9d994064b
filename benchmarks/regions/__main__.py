"""`python -m benchmarks.regions`: what a program waits for, by the distance of the storage.

Above: you. Below: `line`, which emulates regions; `waits`, in `subjects` and `peers`; `infinitfs.benchmark`, which
measures the lines first and draws the pictures.
Invariant: every subject has the same server, over the same lines, one after the other; what is expected of infinitfs
is checked, and the exit code says whether it held.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from typing import ClassVar
from urllib.parse import urlsplit

import click
import trio
from rich.console import Console
from rich.table import Table

from benchmarks import storage
from benchmarks.peers import PEERS
from benchmarks.regions import line
from benchmarks.regions.waits import AT_HAND, COLD, HEAD, RATES, REST, measure, measure_at_hand
from benchmarks.storage import Service
from benchmarks.subjects import Infinitfs, Subject
from infinitfs.benchmark.format import format_quantity, format_seconds
from infinitfs.benchmark.pictures import picture
from infinitfs.benchmark.plot import Panel, Series, panels
from infinitfs.benchmark.regions import measure_regions
from infinitfs.benchmark.results import Result

# Milliseconds by ping from Paris, 2019.
CITIES = {
    "here": 0,
    "London": 9,
    "Frankfurt": 12,
    "Ireland": 19,
    "Virginia": 80,
    "Oregon": 148,
    "Singapore": 166,
    "Sao Paulo": 218,
    "Tokyo": 226,
    "Sydney": 276,
    "beyond": 300,
}
STATIONS = ("here", "Virginia", "beyond")
"""Where the storage is put."""

GROWTH = 0.05
"""Of a round trip: what a wait that needs nothing from the storage may grow by, since no two runs are the same."""

BOUND = 0.7
"""The share of its rate at no distance that a cold sequential read keeps at any, once it has read 64 MiB."""

NAMES = (*AT_HAND, COLD, HEAD, REST)

Waits = dict[str, dict[int, dict[str, float]]]
"""By subject, milliseconds and name."""


class Remote(Infinitfs):
    """fsync waits for the storage."""

    name = "infinitfs, --fsync remote"
    options: ClassVar[tuple[str, ...]] = ("--fsync", "remote")


@click.command(epilog="Example: python -m benchmarks.regions --quick")
@click.option("--quick", is_flag=True, help="Infinitfs alone, at two distances.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work [default: the temporary folder].")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every figure there.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the waits as SVG.")
@click.option("--plot-regions", type=click.Path(path_type=Path), help="Draw the distances as SVG.")
def main(
    quick: bool, folder: Path | None, json_file: Path | None, plot: Path | None, plot_regions: Path | None
) -> None:
    """Put a storage behind lines of 0 to 300 ms and 25 MB/s, and measure what programs wait for."""
    console = Console()
    for reason in (line.missing(), storage.missing()):
        if reason:
            raise click.ClickException(reason)
    subjects: list[type[Subject]] = [Infinitfs, Remote, *PEERS]
    absent = {subject.name: subject.missing() for subject in subjects if subject.missing()}
    for name, reason in absent.items():
        console.print(f"[dim]{name} is left out: {reason}.[/]")
    stations = ("here", "beyond") if quick else STATIONS
    players = subjects[:2] if quick else [subject for subject in subjects if subject.name not in absent]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="infinitfs-regions-", dir=folder)))
        lines = stack.enter_context(line.lines([milliseconds / 1000 for milliseconds in CITIES.values()]))
        far = dict(zip(CITIES, lines.far, strict=True))
        service = stack.enter_context(storage.running(1 << 30, place, lines.here))
        distances = _distances(far, service)
        _show_distances(console, distances)
        waits: Waits = {}
        for city in stations:
            for subject in list(players):
                behind = Service(_behind(far[city], service), service.keys, CITIES[city])
                began = time.monotonic()
                try:
                    waits.setdefault(subject.name, {})[CITIES[city]] = _play(subject, place, behind)
                except (OSError, RuntimeError, CalledProcessError) as error:
                    if issubclass(subject, Infinitfs):
                        raise
                    players.remove(subject)
                    waits.pop(subject.name, None)
                    console.print(f"{city}, {subject.name}: left out from here on, it failed ({error})")
                service.empty()
                console.print(f"[dim]{city}, {subject.name}: {time.monotonic() - began:.0f} s[/]")
    _show_waits(console, waits)
    outcomes = [*_right_distances(distances), *_no_growth(waits[Infinitfs.name]), _bound(waits[Infinitfs.name])]
    for holds, expected in outcomes:
        console.print(f"{'holds' if holds else '[bold]fails[/]'}  {expected}")
    if json_file is not None:
        regions = {row.name: {name: value.median for name, value in row.values.items()} for row in distances.rows}
        json_file.write_text(json.dumps({"distances": regions, "waits": waits}, indent=1) + "\n")
    if plot is not None:
        plot.write_text(_picture(waits))
    if plot_regions is not None:
        plot_regions.write_text(picture(distances))
    sys.exit(not all(holds for holds, _ in outcomes))


def _behind(address: str, service: Service) -> str:
    parts = urlsplit(service.endpoint)
    return parts._replace(netloc=f"{address}:{parts.port}").geturl()


def _distances(far: Mapping[str, str], service: Service) -> Result:
    """As `infinitfs benchmark regions` sees the lines."""
    places = {city: (f"{CITIES[city]} ms", _behind(address, service)) for city, address in far.items()}
    return trio.run(lambda: measure_regions(places, "emulated regions", progress=lambda done, total: None))


def _play(subject: type[Subject], place: Path, service: Service) -> dict[str, float]:
    made = subject(place / f"{subject.__name__.lower()}-{service.delay}", service)
    with made.running():
        return measure_at_hand(made) if subject is Remote else measure(made)


# --- what is expected ---

Outcome = tuple[bool, str]


def _right_distances(distances: Result) -> list[Outcome]:
    order = [row.name for row in distances.rows]
    found = [
        (CITIES[row.name] / 1000, row.values[phase].median)
        for row in distances.rows
        for phase in ("connect", "request")
    ]
    furthest_off = max(abs(median - set_) - 0.1 * set_ for set_, median in found)
    return [
        (order == list(CITIES), "the regions are put in the right order"),
        (furthest_off <= 0.001, "every connect and request takes what was set, within 10% and 1 ms"),
    ]


def _no_growth(waits: Mapping[int, Mapping[str, float]]) -> list[Outcome]:
    near, far = min(waits), max(waits)
    return [
        (
            waits[far][name] - waits[near][name] < GROWTH * (far - near) / 1000,
            f"{name}: {format_seconds(waits[near][name])} at {near} ms, {format_seconds(waits[far][name])} at {far} ms",
        )
        for name in AT_HAND
    ]


def _bound(waits: Mapping[int, Mapping[str, float]]) -> Outcome:
    near, far = min(waits), max(waits)
    rates = waits[near][REST], waits[far][REST]
    shown = [format_quantity(rate, "B/s") for rate in rates]
    return rates[1] >= BOUND * rates[0], f"{REST}: {shown[0]} at {near} ms, {shown[1]} at {far} ms"


# --- what is shown ---


def _show_distances(console: Console, distances: Result) -> None:
    table = Table("region", "set", "connect", "request", title="Distances, by `infinitfs benchmark regions`")
    for row in distances.rows:
        medians = [format_seconds(row.values[phase].median) for phase in ("connect", "request")]
        table.add_row(row.name, row.note, *medians)
    console.print(table)


def _show_waits(console: Console, waits: Waits) -> None:
    for name in NAMES:
        far = sorted(next(iter(waits.values())))
        table = Table(name, *(f"{milliseconds} ms" for milliseconds in far))
        for subject, found in waits.items():
            if name in found[far[0]]:
                table.add_row(subject, *(_shown(name, found[milliseconds][name]) for milliseconds in far))
        console.print(table)


def _shown(name: str, value: float) -> str:
    return format_quantity(value, "B/s" if name in RATES else "s")


def _picture(waits: Waits) -> str:
    frames = [
        Panel(
            name,
            [
                Series(subject, [(float(far), found[far][name]) for far in sorted(found)])
                for subject, found in waits.items()
                if name in found[min(found)]
            ],
            partial(_shown, name),
        )
        for name in NAMES
    ]
    note = f"medians on one machine with {os.cpu_count()} processors; lines of {format_quantity(line.RATE, 'B/s')}"
    return panels(
        "What a program waits for, by the round trip to the storage", note, "round trip", _milliseconds, frames
    )


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms"


if __name__ == "__main__":
    main()
