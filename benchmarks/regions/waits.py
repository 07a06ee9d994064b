"""What a program waits for in a folder, one call after the other.

Above: `__main__`. Below: `benchmarks.subjects`, plain system calls.
Invariant: a wait is measured often enough for a median or until PATIENCE is over, and at least once; content is
incompressible and new.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.subjects import Subject
from benchmarks.workloads import MIB, PAGE, content

PATIENCE = 3.0  # seconds for one kind of wait
_SAMPLES = 20
_SPARSE = 4 * MIB  # between places to read: further than anybody reads ahead of the first

CREATE = "create a file of 4 KiB"
FSYNC = "write 4 KiB, fsync"
RENAME = "rename a file"
STAT = "look at a file"
CACHED = "read 4 KiB, cached"
COLD = "read 4 KiB, cold"
SEQUENTIAL = "read a large file, cold"

AT_HAND = (CREATE, FSYNC, RENAME, STAT, CACHED)
"""What needs nothing from the storage."""

WAITS = (*AT_HAND, COLD)
"""In seconds; SEQUENTIAL is in bytes a second."""


T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """Bytes of the two large files: one is read here and there, the other from its beginning to its end."""

    sparse: int = 32 * MIB
    large: int = 96 * MIB


def measure(subject: Subject, sizes: Sizes) -> dict[str, float]:
    """Every wait of WAITS and SEQUENTIAL, by name. The subject is running and empty."""
    folder = subject.folder / "waits"
    folder.mkdir()
    found = _at_hand(folder)
    for name, size in (("sparse", sizes.sparse), ("large", sizes.large)):
        (folder / name).write_bytes(content(size))
    subject.settle()
    subject.drain()
    subject.resume(cold=True)
    with (folder / "sparse").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        places = range(0, sizes.sparse, _SPARSE)
        found[COLD] = _median(lambda place: os.pread(file.fileno(), PAGE, place), places)
    buffer = bytearray(MIB)
    began = time.perf_counter()
    with (folder / "large").open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    found[SEQUENTIAL] = sizes.large / (time.perf_counter() - began)
    return found


def _at_hand(folder: Path) -> dict[str, float]:
    pages = [content(PAGE) for _ in range(_SAMPLES)]
    numbers = range(_SAMPLES)
    found = {CREATE: _median(lambda number: (folder / f"{number}").write_bytes(pages[number]), numbers)}
    made = [number for number in numbers if (folder / f"{number}").exists()]
    with (folder / "log").open("ab", buffering=0) as log:

        def append(page: bytes) -> None:
            log.write(page)
            os.fsync(log.fileno())

        found[FSYNC] = _median(append, pages)
    found[STAT] = _median(lambda number: (folder / f"{number}").stat(), made)
    found[CACHED] = _median(lambda number: _read_again(folder / f"{number}"), made)
    found[RENAME] = _median(lambda number: (folder / f"{number}").rename(folder / f"{number}.renamed"), made)
    return found


def _read_again(path: Path) -> None:
    """From where the filesystem has it, not from the kernel's pages."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read(PAGE)


def _median(wait: Callable[[T], object], of: Iterable[T]) -> float:
    seconds = []
    end = time.monotonic() + PATIENCE
    for each in of:
        began = time.perf_counter()
        wait(each)
        seconds.append(time.perf_counter() - began)
        if time.monotonic() > end:
            break
    return statistics.median(seconds)
