"""The rows that the project holds itself to: a ratio, or a limit, and whether it was met.

Above: `__main__`. Below: samples.
Invariant: a ratio is the median of the ratios of single runs, each of two samples that were taken one soon after the
other; so what slows the machine for a while slows both.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks import limits, scenes
from benchmarks.measuring import Sample
from benchmarks.peers import S3ql
from benchmarks.subjects import Boto3, Infinitfs, Nothing

OURS = Infinitfs.name
CEILING = Nothing.name
RAW = Boto3.name


@dataclass(frozen=True)
class Wanted:
    """`step` at least `ratio` times as fast as `against` is at its step of the same name, or at `their_step`.

    `delay` is that of the storage, None for every one that was measured. Where `below_ceiling` the slower of
    `against` and of the do-nothing filesystem counts.
    """

    row: str
    step: str
    against: str
    ratio: float
    delay: int | None = 0
    their_step: str = ""
    below_ceiling: bool = False


@dataclass(frozen=True)
class Limit:
    """The figure of `step` is at most `most`, or at least `least`."""

    row: str
    step: str
    most: float | None = None
    least: float | None = None
    delay: int | None = 0


ROWS: tuple[Wanted | Limit, ...] = (
    Wanted("a", "create 4 KiB files", CEILING, 0.5),
    Wanted("a", "stat", CEILING, 0.8),
    Wanted("a", "list with attributes", CEILING, 0.7),
    Wanted("a", "remove", CEILING, 0.6),
    Wanted("a", "sequential read, warm", CEILING, 0.7),
    Wanted("a", "sequential write, to fsync", CEILING, 0.5),
    Wanted("a", "random 4 KiB read, warm", CEILING, 0.7),
    Wanted("a", scenes.READ_HOT, CEILING, 0.7),
    Wanted("b", scenes.WRITE_STORED, RAW, 0.8, None),
    Wanted("b", scenes.READ_COLD, RAW, 0.8, None, below_ceiling=True),
    Wanted("c", scenes.READ_FILES_COLD, RAW, 40, 80, scenes.GET),
    Limit("c", scenes.FILES_AN_OBJECT, least=100, delay=None),
    Wanted("c", scenes.STORE_FILES, RAW, 20, 80, scenes.PUT),
    Limit("e", limits.STAT_BESIDE_UPLOAD, most=3),
    Limit("e", limits.STAT_SLOWEST, most=20),
    Limit("f", limits.CREATE_SHARE, least=0.8),
    Limit("f", limits.STAT_SHARE, least=0.8),
    Limit("f", limits.MEMORY, most=500),
    Limit("f", limits.MEMORY_EMPTY, most=200),
    Limit("f", limits.JOURNAL, most=2048),
    Limit("f", limits.CHECKPOINT_UNCHANGED, most=1),
    Limit("f", limits.FRESH_MOUNT, most=30),
    Limit("g", limits.HELP, most=100),
    Limit("g", limits.READY, most=1.5),
)


@dataclass(frozen=True)
class Outcome:
    """What came out of a row: the median, the least and the most of its runs."""

    row: str
    what: str
    got: float
    low: float
    high: float
    wanted: str
    met: bool


def select(samples: Iterable[Sample], step: str, subject: str, delay: int) -> list[Sample]:
    return [s for s in samples if (s.step, s.subject, s.delay) == (step, subject, delay)]


def ratios(ours: Iterable[Sample], theirs: Iterable[Sample]) -> list[float]:
    """Our figure in parts of theirs, for every run that both have."""
    figures = {sample.run: sample.figure for sample in theirs}
    return [sample.figure / figures[sample.run] for sample in ours if figures.get(sample.run)]


def outcomes(samples: Sequence[Sample], rows: Iterable[str]) -> list[Outcome]:
    """What came out of those of `rows` that were measured."""
    found = []
    for row in (*ROWS, *_ahead_of_s3ql(samples)):
        if row.row in rows:
            delays = sorted({sample.delay for sample in samples}) if row.delay is None else [row.delay]
            for delay in delays:
                outcome = _ratio(samples, row, delay) if isinstance(row, Wanted) else _limit(samples, row, delay)
                if outcome is not None:
                    found.append(outcome)
    return found


def _ahead_of_s3ql(samples: Iterable[Sample]) -> Iterator[Wanted]:
    theirs = dict.fromkeys((s.step, s.delay) for s in samples if s.subject == S3ql.name)
    return (Wanted("d", step, S3ql.name, 1, delay) for step, delay in theirs)


def _ratio(samples: Sequence[Sample], wanted: Wanted, delay: int) -> Outcome | None:
    theirs = select(samples, wanted.their_step or wanted.step, wanted.against, delay)
    if wanted.below_ceiling:
        ceiling = {s.run: s for s in select(samples, wanted.step, CEILING, 0)}
        theirs = [min(s, ceiling.get(s.run, s), key=lambda sample: sample.figure) for s in theirs]
    got = ratios(select(samples, wanted.step, OURS, delay), theirs)
    name = wanted.against if not wanted.their_step else f"{wanted.against}, {wanted.their_step}"
    return _outcome(wanted.row, f"{wanted.step} / {name}", delay, got, least=wanted.ratio)


def _limit(samples: Sequence[Sample], limit: Limit, delay: int) -> Outcome | None:
    found = select(samples, limit.step, OURS, delay)
    what = f"{limit.step} ({found[0].unit})" if found else limit.step
    return _outcome(limit.row, what, delay, [s.figure for s in found], least=limit.least, most=limit.most)


def _outcome(
    row: str, what: str, delay: int, got: Sequence[float], *, least: float | None = None, most: float | None = None
) -> Outcome | None:
    if not got:
        return None
    middle = median(got)
    if delay:
        what = f"{what}, {delay} ms"
    if least is not None:
        return Outcome(row, what, middle, min(got), max(got), f">= {least:g}", middle >= least)
    assert most is not None
    return Outcome(row, what, middle, min(got), max(got), f"< {most:g}", middle < most)
