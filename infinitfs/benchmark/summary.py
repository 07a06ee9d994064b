"""What a number of samples say: median, 95th percentile, jitter, loss; the best place; the knee of a curve.

Above: `route`, `regions`, `storage`, `volume`. Below: nothing; a core without I/O.
Invariant: what follows from the same samples is always the same, and a lost sample counts in `lost` and nowhere else.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import ceil, inf
from typing import Literal

import msgspec

Unit = Literal["s", "B/s", "1/s"]

KNEE = 0.9
"""The share of the best rate that is worth as much as all of it: what is beyond costs connections for little."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`count` samples in `unit`, and `lost` others that gave no number. `jitter` is the mean difference between a
    sample and the next, the quantity that RFC 3550 (section 6.4.1) smooths."""

    unit: Unit
    count: int
    lost: int
    median: float
    p95: float
    jitter: float


def percentile(samples: Iterable[float], share: float) -> float:
    """The smallest sample that `share` of all do not exceed (the nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(ceil(share * len(ordered)), 1) - 1]


def summarize(samples: Sequence[float], *, lost: int = 0, unit: Unit = "s") -> Summary:
    """`samples`, one at least, in the order in which they were taken. The bad end of a rate is the low one."""
    steps = [abs(after - before) for before, after in pairwise(samples)]
    return Summary(
        unit=unit,
        count=len(samples),
        lost=lost,
        median=statistics.median(samples),
        p95=percentile(samples, 0.95) if unit == "s" else -percentile((-sample for sample in samples), 0.95),
        jitter=statistics.fmean(steps) if steps else 0.0,
    )


def ranked(medians: Mapping[str, float | None]) -> list[str]:
    """Names from the smallest median to the largest, those without one last, in the order of their names."""
    return sorted(medians, key=lambda name: (inf if (median := medians[name]) is None else median, name))


def knee(curve: Mapping[int, float]) -> int:
    """Of numbers of connections and the rate of each, the smallest number whose rate is nearly the best."""
    best = max(curve.values())
    return min(number for number, rate in curve.items() if rate >= KNEE * best)


def flat(rates: Sequence[float]) -> bool:
    """Whether a curve has stopped to grow: the last two points are no better than what was before."""
    return len(rates) > 2 and max(rates[-2:]) * KNEE < max(rates[:-2])
