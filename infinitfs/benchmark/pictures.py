"""The picture of a result.

Above: `cli/benchmark`. Below: `plot`.
Invariant: what is drawn and written in it are the numbers of the result.
"""

from functools import partial

from infinitfs.benchmark.format import format_quantity, format_seconds
from infinitfs.benchmark.plot import Bar, Panel, Series, bars, panels
from infinitfs.benchmark.results import CURVES, Result, Row
from infinitfs.benchmark.summary import knee


def picture(result: Result) -> str:
    """As SVG."""
    note = f"{result.subject}, {result.created}"
    if result.kind == "regions":
        rows = [_region(row, first=not number) for number, row in enumerate(result.rows)]
        return bars("A request to each region: median, and up to the 95th percentile", note, rows)
    if result.curves:
        frames = [
            Panel(
                f"{name}, {knee(curve)} at once are enough",
                [Series(name, sorted((float(level), rate) for level, rate in curve.items()))],
                partial(format_quantity, unit=CURVES[name]),
            )
            for name, curve in result.curves.items()
        ]
        return panels("Throughput by the number of connections", note, "connections", lambda x: f"{x:.0f}", frames)
    rows = [_latency(row) for row in result.rows if "latency" in row.values]
    return bars("How long a call takes: median, and up to the 95th percentile", note, rows)


def _region(row: Row, *, first: bool) -> Bar:
    label = f"{row.name}  {row.note}".rstrip()
    if row.error:
        return Bar(label, None, f"unreachable: {row.error}")
    request = row.values["request"]
    text = f"{format_seconds(request.median)}, 95%: {format_seconds(request.p95)}"
    return Bar(label, request.median, f"{text}, closest" if first else text, reach=request.p95, first=first)


def _latency(row: Row) -> Bar:
    latency = row.values["latency"]
    text = f"{format_seconds(latency.median)}, 95%: {format_seconds(latency.p95)}"
    return Bar(row.name, latency.median, text, reach=latency.p95)
