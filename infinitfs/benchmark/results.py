"""Results of benchmarks, kept on this machine.

Above: `cli/benchmark`. Below: `config/store`, one file a result in the state folder.
Invariant: a result never changes once it is kept, and its name, a number, is given once.
"""

from typing import Literal

import msgspec

from infinitfs.benchmark.summary import Summary, Unit
from infinitfs.config.paths import Paths
from infinitfs.config.store import Collection
from infinitfs.errors import AlreadyExists, UsageError

Kind = Literal["regions", "storage", "volume"]

CURVES: dict[str, Unit] = {"upload": "B/s", "download": "B/s", "small reads": "1/s"}
"""The curves of a storage: packs sent, segments received, and 4 KiB at a time."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a result: a region, or something done. `error` says why `values` has nothing."""

    name: str
    note: str = ""
    values: dict[str, Summary] = {}
    error: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one benchmark found. `subject` is what was measured, `curves` are rates by the number of connections, in the
    unit that CURVES has for each, `conclusion` is what it means, in sentences, `options` what to mount with."""

    name: str = ""
    kind: Kind
    subject: str
    created: str
    rows: list[Row]
    curves: dict[str, dict[int, float]] = {}
    conclusion: list[str]
    options: list[str] = []


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A median, once and then; `ratio` of the second to the first."""

    name: str
    measure: str
    unit: Unit
    before: float
    after: float
    ratio: float | None


class Results:
    """Those kept on this machine."""

    def __init__(self, paths: Paths) -> None:
        decoder = msgspec.json.Decoder(Result)
        self._kept: Collection[Result] = Collection("benchmark", paths.state / "benchmarks", decoder)

    def keep(self, result: Result) -> Result:
        """The result under its name. Raises LocalFileFailed."""
        number = 1 + max(self._numbers(), default=0)
        while True:
            named = msgspec.structs.replace(result, name=str(number))
            try:
                self._kept.create(named)
                return named
            except AlreadyExists:  # another benchmark ended at the same moment
                number += 1

    def get(self, name: str) -> Result:
        """Raises RecordNotFound, DamagedRecord."""
        return self._kept.get(name)

    def all(self) -> list[Result]:
        """All, in the order in which they were kept."""
        return [self._kept.get(str(number)) for number in self._numbers()]

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self._kept.names() if name.isdecimal())


def compare(before: Result, after: Result) -> list[Change]:
    """How each median that both have has changed. Raises UsageError where they measured different kinds of things."""
    if before.kind != after.kind:
        problem = f"Benchmark {before.name} is one of {before.kind}, {after.name} one of {after.kind}"
        raise UsageError(problem=f"{problem}: compare two of a kind.")
    earlier = {row.name: row.values for row in before.rows}
    return [
        Change(
            name=row.name,
            measure=measure,
            unit=now.unit,
            before=then.median,
            after=now.median,
            ratio=now.median / then.median if then.median else None,
        )
        for row in after.rows
        for measure, now in row.values.items()
        if (then := earlier.get(row.name, {}).get(measure)) is not None
    ]
