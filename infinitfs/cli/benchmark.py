"""`infinitfs benchmark`: how far a region is, what a storage gives, what a mounted folder does.

Above: `main.py`. Below: `benchmark/`.
Invariant: a result is kept once it is whole; the table, the JSON and the picture of it show the same numbers.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infinitfs.cli.base import Group, pass_invocation
from infinitfs.cli.invocation import Invocation
from infinitfs.cli.options import Size, named, passphrase_sources
from infinitfs.errors import LocalFileFailed, UsageError

if TYPE_CHECKING:
    from infinitfs.benchmark.results import Result, Row

Told = Callable[[int, int], None]

_PLOT = click.option("--plot", metavar="FILE", help="Draw the result as SVG.")


@click.group(cls=Group)
def benchmark() -> None:
    """Measure the way to a region, a storage, or a mounted folder."""


@benchmark.command(
    "regions",
    example="infinitfs benchmark regions\n"
    "infinitfs benchmark regions --regions eu-central-1,eu-west-3 --plot regions.svg\n"
    "infinitfs benchmark regions --regions nl-ams,fr-par --endpoint https://s3.{region}.scw.cloud",
)
@click.option("--regions", metavar="LIST", help="These regions only, with commas between them.")
@click.option("--all", "every", is_flag=True, help="Also those of AWS's partitions for China and governments.")
@click.option("--endpoint", metavar="TEMPLATE", help="The service, with {region} where the region belongs.")
@click.option("--count", type=click.IntRange(1, 1000), default=10, help="How often each is asked [default: 10].")
@_PLOT
@pass_invocation
def regions(
    invocation: Invocation, regions: str | None, every: bool, endpoint: str | None, count: int, plot: str | None
) -> None:
    """Find the region that is closest to here. Needs no account.

    Measured are name resolution, TCP connect, TLS handshake and a request on a connection that is open, in turn.
    """
    import trio

    from infinitfs.benchmark.regions import measure_regions

    if regions and every:
        raise UsageError(problem="--regions and --all exclude each other: give one.")
    wanted = [name for name in (regions or "").split(",") if name]
    places = _places(wanted, every=every, endpoint=endpoint)
    with _progress(invocation, f"Asking {len(places)} regions") as told:
        result = trio.run(
            lambda: measure_regions(places, endpoint or "Amazon S3", rounds=count, progress=told),
        )
    _finish(invocation, result, plot)


@benchmark.command("storage", example="infinitfs benchmark storage s3-storage")
@named("storage")
@_PLOT
@passphrase_sources
@pass_invocation
def storage(invocation: Invocation, name: str, plot: str | None) -> None:
    """Measure a storage: latency of each request, throughput, and what to mount with.

    Some hundred megabytes are written below the storage's path, and removed again.
    """
    import trio

    from infinitfs.benchmark.storage import measure_storage
    from infinitfs.cli.account import account_of_storage

    record = invocation.store.storages.get(name)
    account = account_of_storage(invocation, record)

    def interrupted() -> None:
        invocation.note("Removing what was stored.")

    with _progress(invocation, f"Measuring {name}") as told:
        result = trio.run(lambda: measure_storage(record, account, progress=told, interrupted=interrupted))
    _finish(invocation, result, plot)


@benchmark.command("volume", example="infinitfs benchmark volume ~/drive")
@click.argument("directory", metavar="DIR")
@click.option("--size", type=Size(), default="64MiB", help="The size of the large file [default: 64MiB].")
@click.option("--files", type=click.IntRange(1), default=200, help="The number of small files [default: 200].")
@_PLOT
@pass_invocation
def volume(invocation: Invocation, directory: str, size: int, files: int, plot: str | None) -> None:
    """Measure the folder mounted at DIR, from this machine's cache and from the storage.

    What it makes there is removed again. The disk cache of the volume is emptied for it.
    """
    from infinitfs.benchmark.volume import measure_volume
    from infinitfs.cli.mount import absolute

    try:
        with _progress(invocation, f"Measuring {directory}") as told:
            result = measure_volume(invocation.paths, absolute(directory), size=size, files=files, progress=told)
    except OSError as error:
        where = os.fsdecode(error.filename or directory)
        raise LocalFileFailed(path=where, action="measured", reason=error.strerror or str(error)) from None
    _finish(invocation, result, plot)


@benchmark.command("list", example="infinitfs benchmark list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List the results kept on this machine."""
    from infinitfs.benchmark.results import Results

    rows = [
        {
            "name": result.name,
            "kind": result.kind,
            "subject": result.subject,
            "created": result.created,
            "conclusion": result.conclusion[0],
        }
        for result in Results(invocation.paths).all()
    ]
    columns = {"name": "NAME", "kind": "KIND", "subject": "SUBJECT", "created": "CREATED", "conclusion": ""}
    invocation.answer_table(rows, columns)


@benchmark.command("show", example="infinitfs benchmark show 3 --plot result.svg")
@named("benchmark")
@_PLOT
@pass_invocation
def show(invocation: Invocation, name: str, plot: str | None) -> None:
    """Show a result again."""
    from infinitfs.benchmark.results import Results

    _answer(invocation, Results(invocation.paths).get(name), plot)


@benchmark.command("compare", example="infinitfs benchmark compare 1 3")
@click.argument("before", metavar="NAME")
@click.argument("after", metavar="NAME")
@pass_invocation
def compare(invocation: Invocation, before: str, after: str) -> None:
    """Show how each median has changed from one result to another."""
    from infinitfs.benchmark.format import format_quantity
    from infinitfs.benchmark.results import Results
    from infinitfs.benchmark.results import compare as compare_results

    kept = Results(invocation.paths)
    changes = compare_results(kept.get(before), kept.get(after))
    columns = {"name": "NAME", "measure": "MEASURE", "before": before, "after": after, "ratio": "RATIO"}
    rows: list[dict[str, Any]] = []
    for change in changes:
        row = {"name": change.name, "measure": change.measure, "unit": change.unit, "ratio": change.ratio}
        if invocation.json:
            rows.append({**row, "before": change.before, "after": change.after})
        else:
            shown = {end: format_quantity(getattr(change, end), change.unit) for end in ("before", "after")}
            rows.append({**row, **shown, "ratio": "" if change.ratio is None else f"{change.ratio:.2f}"})
    invocation.answer_table(rows, columns)


# --- what is measured ---


def _places(wanted: list[str], *, every: bool, endpoint: str | None) -> dict[str, tuple[str, str]]:
    """Description and URL of each region."""
    from infinitfs.storage.probe_s3 import check_endpoint
    from infinitfs.storage.regions import check_region, services
    from infinitfs.storage.regions import regions as known_regions

    described = known_regions()
    hosts = services(every_partition=every or bool(wanted))
    if endpoint is not None:
        if "{region}" not in endpoint:
            raise UsageError(
                problem=f'"{endpoint}" has no {{region}}: write it like https://s3.{{region}}.example.com.'
            )
        urls = {name: endpoint.replace("{region}", name) for name in wanted or hosts}
        for url in urls.values():
            check_endpoint(url, "{bucket}")
    else:
        for name in wanted:
            check_region(name, custom=False)
        for name in wanted:
            if name not in hosts:
                raise UsageError(problem=f"There is no S3 in the region {name} as far as is known here.")
        urls = {name: f"https://{hosts[name]}" for name in wanted or hosts}
    return {name: (described.get(name, ""), url) for name, url in urls.items()}


@contextmanager
def _progress(invocation: Invocation, title: str) -> Iterator[Told]:
    """Shows how far it is, where somebody looks."""
    if invocation.json or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


# --- answers ---


def _finish(invocation: Invocation, result: "Result", plot: str | None) -> None:
    from infinitfs.benchmark.results import Results

    _answer(invocation, Results(invocation.paths).keep(result), plot)


def _answer(invocation: Invocation, result: "Result", plot: str | None) -> None:
    import msgspec

    if invocation.json:
        invocation.answer(msgspec.to_builtins(result, str_keys=True), "")
    else:
        _show(invocation, result)
    if plot is not None:
        from infinitfs.benchmark.pictures import picture

        try:
            Path(plot).write_text(picture(result))
        except OSError as error:
            raise UsageError(problem=f'The picture "{plot}" cannot be written ({error.strerror}).') from None


def _show(invocation: Invocation, result: "Result") -> None:
    for table in _TABLES[result.kind](result):
        invocation.answer_table(*table)
        print()
    for line in result.conclusion:
        print(line)
    if result.options:
        print(f"Options: {' '.join(result.options)}")
    invocation.note(f"Kept as benchmark {result.name}.")


Table = tuple[list[dict[str, str]], Mapping[str, str]]


def _regions_tables(result: "Result") -> list[Table]:
    from infinitfs.benchmark.format import format_seconds

    columns = {
        "best": "",
        "region": "REGION",
        "place": "PLACE",
        "dns": "DNS",
        "connect": "CONNECT",
        "tls": "TLS",
        "request": "REQUEST",
        "p95": "P95",
        "jitter": "JITTER",
        "loss": "LOSS",
    }
    rows = []
    for number, row in enumerate(result.rows):
        shown = {"best": "" if number or row.error else "*", "region": row.name, "place": row.note}
        for phase in ("dns", "connect", "tls", "request"):
            shown[phase] = format_seconds(row.values[phase].median) if phase in row.values else "-"
        if row.error:
            shown["request"] = f"unreachable: {row.error}"
        else:
            request = row.values["request"]
            shown |= {"p95": format_seconds(request.p95), "jitter": format_seconds(request.jitter)}
            shown["loss"] = f"{_loss(row):.0%}"
        rows.append(shown)
    return [(rows, columns)]


def _loss(row: "Row") -> float:
    """Of all that was asked of a region."""
    lost = sum(summary.lost for summary in row.values.values())
    return lost / (lost + sum(summary.count for summary in row.values.values()))


def _rows_tables(result: "Result") -> list[Table]:
    """Storage and volume: a line for each thing done, then the curves."""
    from infinitfs.benchmark.format import format_quantity
    from infinitfs.benchmark.results import CURVES

    columns = {"name": "WHAT", "median": "MEDIAN", "p95": "P95", "jitter": "JITTER", "rate": "RATE", "stored": "STORED"}
    rows = []
    for row in result.rows:
        shown = {"name": row.name}
        if latency := row.values.get("latency"):
            for part in ("median", "p95", "jitter"):
                shown[part] = format_quantity(getattr(latency, part), latency.unit)
        for measure, column in (("rate", "rate"), ("rate, stored", "stored")):
            if summary := row.values.get(measure):
                shown[column] = format_quantity(summary.median, summary.unit)
        rows.append(shown)
    used = {column: heading for column, heading in columns.items() if any(column in row for row in rows)}
    tables: list[Table] = [(rows, used)]
    if result.curves:
        levels = sorted({level for curve in result.curves.values() for level in curve})
        curves = [
            {"name": name} | {str(level): format_quantity(rate, CURVES[name]) for level, rate in curve.items()}
            for name, curve in result.curves.items()
        ]
        tables.append((curves, {"name": "CONNECTIONS"} | {str(level): str(level) for level in levels}))
    return tables


_TABLES: dict[str, Callable[["Result"], list[Table]]] = {
    "regions": _regions_tables,
    "storage": _rows_tables,
    "volume": _rows_tables,
}
