"""The ratios as a picture: how many times as fast as each of the others infinitfs is, one bar for each.

Above: `__main__`. Below: `infinitfs.benchmark.plot`, `table`, `acceptance`.
Invariant: every number is written; a bar that would be longer than LONGEST ends there.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.acceptance import OURS, ratios, select
from benchmarks.measuring import Sample
from benchmarks.table import places, short, subjects_of, title_of
from infinitfs.benchmark.plot import Bar, bars

LONGEST = 5.0


def plot(samples: Sequence[Sample]) -> str:
    """As SVG."""
    note = f"Medians of ratios. What is as fast or faster is in bold; bars end at {LONGEST:g}."
    return bars(f"How many times as fast {OURS} is", note, [*_bars(samples)] or [Bar("nothing to compare", None, "")])


def _bars(samples: Sequence[Sample]) -> Iterator[Bar]:
    for place in places(samples):
        ours = select(samples, place[0], OURS, place[1])
        for name in subjects_of(samples, place):
            theirs = select(samples, place[0], name, place[1])
            found = ratios(ours, theirs) if name != OURS and theirs[0].is_rate else []
            if found:
                ratio = median(found)
                label = f"{title_of(place)} / {name}"
                yield Bar(label, min(ratio, LONGEST), short(ratio), first=ratio >= 1)
