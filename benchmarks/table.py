"""The samples as tables for a terminal: medians with their spread, ratios, CPU and memory.

Above: `__main__`. Below: rich, `acceptance`.
Invariant: every ratio stands beside the figures that it is made of.
"""

from collections.abc import Iterable, Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.acceptance import OURS, Outcome, ratios, select
from benchmarks.measuring import BYTES, Sample

Place = tuple[str, int]
"""A step, and how far the storage was."""


def places(samples: Iterable[Sample]) -> list[Place]:
    return list(dict.fromkeys((sample.step, sample.delay) for sample in samples))


def title_of(place: Place) -> str:
    step, delay = place
    return f"{step}, {delay} ms" if delay else step


def subjects_of(samples: Iterable[Sample], place: Place) -> list[str]:
    """Who was measured there, infinitfs first."""
    names = dict.fromkeys(s.subject for s in samples if (s.step, s.delay) == place)
    return sorted(names, key=lambda name: name != OURS)


def show_samples(console: Console, samples: Sequence[Sample]) -> None:
    table = Table(title="Medians [least - most]")
    for heading in ("step", "subject"):
        table.add_column(heading)
    for heading in ("figure", "infinitfs / it", "CPU", "peak memory"):
        table.add_column(heading, justify="right")
    for place in places(samples):
        ours = select(samples, place[0], OURS, place[1])
        title = title_of(place)
        for name in subjects_of(samples, place):
            found = select(samples, place[0], name, place[1])
            against = _spread(ratios(ours, found), 2) if name != OURS and found[0].is_rate else ""
            figures = f"{_spread([s.figure for s in found])} {found[0].unit}"
            table.add_row(title, name, figures, against, _cpu(found), _memory(found))
            title = ""
        table.add_section()
    console.print(table)


def show_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        return
    table = Table(title="What is wanted")
    for heading in ("row", "what"):
        table.add_column(heading)
    for heading in ("got", "least - most", "wanted", "met"):
        table.add_column(heading, justify="right")
    for one in outcomes:
        spread = f"{short(one.low)} - {short(one.high)}"
        table.add_row(one.row, one.what, short(one.got), spread, one.wanted, "yes" if one.met else "NO")
    console.print(table)


def short(value: float, places: int | None = None) -> str:
    """Three figures that count, or more before the point; or so many `places` behind it."""
    if places is None:
        places = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{places}f}"


def _spread(figures: Iterable[float], places: int | None = None) -> str:
    """The median, and where there are several the least and the most."""
    ordered = sorted(figures)
    if not ordered:
        return ""
    middle = short(median(ordered), places)
    return middle if len(ordered) == 1 else f"{middle} [{short(ordered[0], places)} - {short(ordered[-1], places)}]"


def _cpu(found: Sequence[Sample]) -> str:
    """CPU seconds a GiB, or microseconds for each that was counted."""
    each = [sample.cpu / sample.count for sample in found if sample.cpu is not None and sample.count]
    if not each:
        return ""
    if found[0].unit == BYTES:
        return f"{median(each) * 2**30:.2f} s/GiB"
    return f"{median(each) * 1e6:,.0f} us each"


def _memory(found: Sequence[Sample]) -> str:
    known = [sample.memory for sample in found if sample.memory is not None]
    return f"{median(known) / 2**20:,.0f} MiB" if known else ""
