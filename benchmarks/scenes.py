"""What is done to each subject: one scene after the other, each on a filesystem made new for it.

Above: `__main__`. Below: `measuring`, `workloads`, `raw`, `subjects`.
Invariant: every subject goes through the same steps in the same order; a step's name is what the tables, the rows of
`acceptance` and the plot call it.
"""

import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import raw, workloads
from benchmarks.measuring import BYTES, Meter
from benchmarks.subjects import Both, Boto3, Infinitfs, Nothing, Subject
from benchmarks.workloads import MIB, Result


@dataclass(frozen=True)
class Sizes:
    """How much is moved: bytes of the large file and of one that is read again and again, small files, random
    requests; files of a large volume."""

    large: int = 1024 * MIB
    hot: int = 32 * MIB
    files: int = 5000
    requests: int = 5000
    volume: int = 1_000_000
    small_volume: int = 10_000


QUICK = Sizes(large=32 * MIB, hot=4 * MIB, files=400, requests=400, volume=4_000, small_volume=1_000)

WRITE_STORED = "sequential write, stored"
READ_COLD = "sequential read, cold"
STORE_FILES = "store 4 KiB files, after the last close"
STORE_FILES_WHOLLY = "store 4 KiB files, from the first create"
FILES_AN_OBJECT = "small files an object"
READ_HOT = "random 4 KiB read, of 32 MiB"
READ_FILES_COLD = "read 4 KiB files, cold"
PUT = "PUT of 4 KiB"
GET = "GET of 4 KiB, one after the other"


def large_file(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """One large file; everything that is read is on this machine, but not in the kernel's cache of the mount. What is
    warm was read before: at the first time the kernel also moves each page of the files that hold it to the list of
    those in use (Linux, mm/swap.c), a sixth of the time for infinitfs."""
    meter.measure("sequential write, to fsync", BYTES, workloads.write, "large", sizes.large)
    meter.measure("sequential read, for the first time", BYTES, workloads.read, "large")
    meter.measure("sequential read, warm", BYTES, workloads.read, "large")
    meter.measure("random 4 KiB read, warm", "requests/s", workloads.read_random, "large", sizes.requests)
    meter.measure("random 4 KiB write, to fsync", "requests/s", workloads.write_random, "large", sizes.requests)
    workloads.run(workloads.write, subject.folder, "hot", sizes.hot)
    workloads.run(workloads.read, subject.folder, "hot")
    meter.measure(READ_HOT, "requests/s", workloads.read_random, "hot", sizes.requests)
    meter.measure("sequential write, to close", BYTES, workloads.write, "closed", sizes.large, False)
    meter.measure("random 4 KiB write, to close", "requests/s", workloads.write_random, "closed", sizes.requests, False)


def small_files(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """Files of 4 KiB in one folder; the kernel knows no name and no attribute of them when they are asked for."""
    _, count = meter.measure("create 4 KiB files", "files/s", workloads.create, sizes.files)
    meter.measure("stat", "files/s", workloads.stat, count, forgotten=True)
    meter.measure("list with attributes", "files/s", workloads.scan, forgotten=True)
    meter.measure("read 4 KiB files, warm", "files/s", workloads.read_files, count, forgotten=True)
    meter.measure("remove", "files/s", workloads.remove, count)


def source_tree(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """Python's own library as a tar file: unpacked, made a git repository, and looked at by git."""
    archive = subject.place / "tree.tar"
    _pack_library(archive)
    meter.measure("tar x of a source tree", "trees/s", workloads.program, "tar", "-xf", str(archive))
    if shutil.which("git") is None:
        return
    git = ["git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "tree"]):
        subprocess.run([*git, *command], check=True, cwd=subject.folder)
    meter.measure("git status", "times/s", workloads.program, *git, "status", "--short", forgotten=True)


def _pack_library(archive: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    without = ["--exclude=__pycache__", "--exclude=site-packages", "--exclude=dist-packages"]
    subprocess.run(["tar", "-cf", archive, *without, "-C", library.parent, library.name], check=True)


def stored_large_file(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """One large file until it is in the storage, and read from there alone.

    Where there is no storage this is what the kernel's part of it takes: the ceiling of both.
    """
    if isinstance(subject, Boto3):
        meter.rate(WRITE_STORED, BYTES, raw.run(raw.put_large, subject.bucket, subject.path, sizes.large))
        meter.rate(READ_COLD, BYTES, raw.run(raw.get_large, subject.bucket, subject.path, sizes.large))
        return
    if isinstance(subject, Both):
        write = partial(workloads.run, workloads.write, subject.folder, "large", sizes.large)
        read = partial(workloads.run, workloads.read, subject.folder, "large")
        bucket = subject.bucket, f"both/{subject.place.name}", sizes.large
        meter.rate(WRITE_STORED, BYTES, _together(write, partial(raw.run, raw.put_large, *bucket)))
        meter.rate(READ_COLD, BYTES, _together(read, partial(raw.run, raw.get_large, *bucket)))
        return
    seconds, count = workloads.run(workloads.write, subject.folder, "large", sizes.large)
    meter.rate(WRITE_STORED, BYTES, (seconds + _drained(subject), count))
    subject.resume(cold=True)
    meter.measure(READ_COLD, BYTES, workloads.read, "large")


def _together(here: Callable[[], Result], there: Callable[[], Result]) -> Result:
    """The same bytes moved twice at the same time: done when both are."""
    with ThreadPoolExecutor() as threads:
        moving = threads.submit(there)
        seconds, count = here()
        return max(seconds, moving.result()[0]), count


def stored_small_files(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """Small files until they are in the storage, and read from there alone."""
    if isinstance(subject, Boto3):
        meter.rate(PUT, "files/s", raw.run(raw.put_files, subject.bucket, subject.path, sizes.files))
        meter.rate(GET, "files/s", raw.run(raw.get_files, subject.bucket, subject.path, sizes.files // 20))
        return
    if isinstance(subject, Nothing):
        return
    seconds, count = workloads.run(workloads.create, subject.folder, sizes.files)
    drained = _drained(subject)
    meter.rate(STORE_FILES, "files/s", (drained, count))
    meter.rate(STORE_FILES_WHOLLY, "files/s", (seconds + drained, count))
    if isinstance(subject, Infinitfs) and subject.service is not None:
        meter.figure(FILES_AN_OBJECT, count / len(subject.service.stored(subject.path)), "files/object")
    subject.resume(cold=True)
    meter.measure(READ_FILES_COLD, "files/s", workloads.read_files, count)


def _drained(subject: Subject) -> float:
    begin = time.perf_counter()
    subject.drain()
    return time.perf_counter() - begin
