"""What a program waits for in a folder, one call after the other.

Above: `__main__`. Below: `benchmarks.subjects`, plain system calls.
Invariant: a wait is measured often enough for a median or until PATIENCE is over, and at least once; content is
incompressible and new.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path
from typing import TypeVar

from benchmarks.subjects import Subject
from benchmarks.workloads import MIB, PAGE, content

PATIENCE = 2.0  # seconds for one kind of wait
_SAMPLES = 20
_SPARSE = 4 * MIB  # between places to read: further than anybody reads ahead of the first

CREATE = "create a file of 4 KiB"
FSYNC = "write 4 KiB, fsync"
RENAME = "rename a file"
STAT = "look at a file"
CACHED = "read 4 KiB, cached"
COLD = "read 4 KiB, cold"
HEAD = "read the first 64 MiB of a file, cold"
REST = "read what follows, cold"

AT_HAND = (CREATE, FSYNC, RENAME, STAT, CACHED)
"""What needs nothing from the storage."""

RATES = (HEAD, REST)
"""Bytes a second; all others are seconds."""

_HEAD = 64 * MIB
_LARGE = _HEAD + 320 * MIB  # much more than is read ahead on such a line
_SPARSE = 16 * MIB  # of which 4 KiB are read here and there
_APART = 4 * MIB  # further than anybody reads ahead of the first

T = TypeVar("T")


def measure(subject: Subject) -> dict[str, float]:
    """Every wait, by name. The subject is running and empty."""
    found = measure_at_hand(subject)
    for name, size in (("sparse", _SPARSE), ("large", _LARGE)):
        (subject.folder / name).write_bytes(content(size))
    subject.settle()
    subject.drain()
    subject.resume(cold=True)
    with (subject.folder / "sparse").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        found[COLD] = _median(lambda place: os.pread(file.fileno(), PAGE, place), range(0, _SPARSE, _APART))
    with (subject.folder / "large").open("rb", buffering=0) as file:
        found[HEAD] = _rate(file, _HEAD)
        file.seek(_HEAD)
        found[REST] = _rate(file, _LARGE - _HEAD)
    return found


def measure_at_hand(subject: Subject) -> dict[str, float]:
    """The waits of AT_HAND alone."""
    folder = subject.folder / "waits"
    folder.mkdir()
    return _at_hand(folder)


def _rate(file: FileIO, size: int) -> float:
    """Of reading `size` bytes from where the file is, or as many as are read in time."""
    buffer = bytearray(MIB)
    done = 0
    began = time.perf_counter()
    while done < size and time.perf_counter() - began < 8 * PATIENCE:
        done += file.readinto(buffer)
    return done / (time.perf_counter() - began)


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
