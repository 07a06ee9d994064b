"""The same random calls, in the mount and on a local disk: the same answers, and the same to be seen afterwards.

A program is a list of calls of three users that works in an empty folder; any part of it is one, too, so the shortest
part that still differs is what a failure shows. Three kinds are drawn: most are compared at their end, some after
every call in what changed its times (then every call waits for the clock), some have ACLs.

DIFFERENTIAL_SECONDS is how long to go on, DIFFERENTIAL_SEED where to start.
"""

# System calls are made by their own names.
# ruff: noqa: PTH106, PTH108, PTH114

import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.support.calls import Call, Side, await_tick, random_calls
from tests.support.mounted import needs_fuse
from tests.support.references import Drive
from tests.support.users import IS_ROOT

pytestmark = [*needs_fuse, pytest.mark.skipif(not IS_ROOT, reason="only root can become several users")]

SECONDS = float(os.environ.get("DIFFERENTIAL_SECONDS", "60"))
SEED = int(os.environ.get("DIFFERENTIAL_SEED", "0"))


@dataclass(frozen=True)
class Program:
    calls: list[Call]
    umask: int
    timed: bool


def make_program(seed: int) -> Program:
    source = random.Random(seed)
    acls, timed = source.random() < 0.3, source.random() < 0.15
    calls = random_calls(source, source.choice((20, 60, 60)), acls=acls, root_only=source.random() < 0.2)
    # With a default ACL the umask does not count, but the kernel has applied it before a FUSE filesystem is asked.
    return Program(calls, 0 if acls else source.choice((0, 0o022, 0o077)), timed)


_DEEP = "in/a/folder/that/no/link/leads/out/of"
"""Random links and paths go up, one through another: they must end in what belongs to their program alone."""


class Pair:
    """The two folders, and a new pair of empty ones in them for every program."""

    def __init__(self, mounted: Path, local: Path) -> None:
        self._places = mounted, local
        self._numbers = count()
        self.calls = 0

    def difference(self, program: Program) -> str | None:
        """What a program finds to be different."""
        number = next(self._numbers)
        roots = [place / f"{number:06d}" for place in self._places]
        sides = [Side(root / _DEEP) for root in roots]
        for side in sides:
            side.folder.mkdir(parents=True)
            side.folder.chmod(0o777)
        previous = os.umask(program.umask)
        try:
            return self._compare(program, *sides)
        finally:
            os.umask(previous)
            for side, root in zip(sides, roots, strict=True):
                side.close_all()
                _clear(root)

    def _compare(self, program: Program, mounted: Side, local: Side) -> str | None:
        for side in (mounted, local):
            side.changes()
        for call in program.calls:
            if program.timed:
                await_tick()
            one, two = mounted.make(call), local.make(call)
            self.calls += 1
            if one != two:
                return f"{call} answers {one} in the mount, {two} on the disk"
            if program.timed:
                difference = _unequal(mounted.changes(), local.changes())
                if difference:
                    return f"after {call} the times of {difference}"
        difference = _unequal(mounted.picture(contents=True), local.picture(contents=True))
        return f"at the end {difference}" if difference else None

    def shortest(self, program: Program) -> tuple[Program, str]:
        """The shortest part of a program that was found to differ, and what it finds."""
        calls, found = program.calls, ""
        size = len(calls) // 2
        while size:
            for start in range(0, len(calls), size):
                fewer = calls[:start] + calls[start + size :]
                difference = self.difference(Program(fewer, program.umask, program.timed))
                if difference:
                    calls, found = fewer, difference
                    break
            else:
                size //= 2
        return Program(calls, program.umask, program.timed), found


def _unequal(one: Mapping[str, tuple[object, ...]], two: Mapping[str, tuple[object, ...]]) -> str | None:
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            return f"{name}: {one.get(name)} in the mount, {two.get(name)} on the disk"
    return None


def _clear(folder: Path) -> None:
    for place, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(f"{place}/{name}")
        for name in folders:
            path = f"{place}/{name}"
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    folder.rmdir()


def test_random_programs_cannot_tell_the_mount_from_a_disk(drive: Drive, local: Path) -> None:
    pair = Pair(drive.folder, local)
    end = time.monotonic() + SECONDS
    for seed in count(SEED):
        if time.monotonic() > end:
            break
        program = make_program(seed)
        difference = pair.difference(program)
        if difference:
            short, found = pair.shortest(program)
            listed = "\n  ".join(map(str, short.calls))
            pytest.fail(f"seed {seed}, umask {short.umask:03o}: {found or difference}\n  {listed}")
    print(f"{pair.calls} calls in {seed - SEED} programs")
