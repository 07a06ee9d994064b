"""Scenes that end in a figure with a limit: while infinitfs uploads, when it has grown, when it starts.

Above: `__main__`, `acceptance`. Below: `scenes`, `checkpoints`, `raw`, `subjects`.
Invariant: as in `scenes`.
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import checkpoints, raw, storage, workloads
from benchmarks.measuring import Meter, read_from_disk, resident_memory
from benchmarks.scenes import Sizes
from benchmarks.subjects import Both, Infinitfs, Subject, wait_until
from benchmarks.workloads import MIB, PAGE
from tests.support.mounted import PROGRAM, STORAGE, USER, VOLUME, Home

STAT_BESIDE_UPLOAD = "stat while 1 GiB uploads, in idle ones"
STAT_SLOWEST = "the slowest of 100 stats while 1 GiB uploads"
CREATE_SHARE = "create in a large volume / in a small one"
STAT_SHARE = "stat in a large volume / in a small one"
MEMORY = "memory with a large volume"
MEMORY_EMPTY = "memory, idle and empty"
JOURNAL = "metadata sent for 10 changed files"
CHECKPOINT = "page groups that a checkpoint sent"
CHECKPOINT_UNCHANGED = "page groups sent though unchanged"
FRESH_MOUNT = "a fresh machine fetches and mounts, 20 ms away"
HELP = "infinitfs --help"
READY = "infinitfs mount, until ready"

FAR = 20
"""Milliseconds between a fresh machine and its storage."""

_FOLDERS = 1000  # that the files of a large volume are spread over, and those of a small one
_SMALL = 100  # bytes of a file in a large volume
_ASKED = 8000  # files that are asked for in one turn, so long that a scheduler has placed who works where they stay
_CREATED = 2000  # files in one turn
_STAT_TURNS = 15  # of asking for as many others
_NEIGHBOURS = 10  # of a folder, that a program asks for which walks a tree
_CREATE_TURNS = 3
_PAUSE = 0.001  # seconds between two stats


def beside_upload(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """How long a stat takes that the kernel cannot answer, with nothing else to do and while a file uploads.

    The filesystem that does nothing, beside boto3, tells what of it is the machine's.
    """
    count = 5 * sizes.files // 4
    workloads.run(workloads.create, subject.folder, count)
    meter.forget_names()
    names = [f"file-{number:07d}" for number in range(count)]
    idle = _stats(subject.folder, names[: count // 5], lambda: False)
    uploading = _boto3_uploading if isinstance(subject, Both) else _uploading
    with uploading(subject, sizes.large) as over:
        busy = _stats(subject.folder, names[count // 5 :], over)
    meter.figure("stat, idle", statistics.median(idle) * 1e3, "ms")
    meter.figure("stat while 1 GiB uploads", statistics.median(busy) * 1e3, "ms")
    meter.figure(STAT_BESIDE_UPLOAD, statistics.median(busy) / statistics.median(idle), "times")
    meter.figure(STAT_SLOWEST, statistics.quantiles(busy, n=100)[-1] * 1e3, "ms")


@contextmanager
def _uploading(subject: Subject, size: int) -> Iterator[Callable[[], bool]]:
    """A file of the mount uploads at full rate in the block; whether that is over."""
    assert isinstance(subject, Infinitfs)
    with _sending_nothing(subject):
        workloads.run(workloads.write, subject.folder, "large", size)
    yield lambda: subject.backlog == 0


@contextmanager
def _boto3_uploading(subject: Subject, size: int) -> Iterator[Callable[[], bool]]:
    """As much goes to the same server in the block, without a mount."""
    assert isinstance(subject, Both)
    path = f"both/{subject.place.name}"
    with ThreadPoolExecutor() as threads:
        moving = threads.submit(raw.run, raw.put_large, subject.bucket, path, size)
        wait_until(lambda: moving.done() or bool(subject.bucket.stored(path)), "the first object")
        yield moving.done
        moving.result()


@contextmanager
def _sending_nothing(subject: Infinitfs) -> Iterator[None]:
    """The transfer process stands still in the block, and goes on at full rate after it."""
    transfer = subject.mount.transfer()
    assert transfer is not None
    os.kill(transfer, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(transfer, signal.SIGCONT)


def _stats(folder: Path, names: list[str], over: Callable[[], bool]) -> list[float]:
    """Seconds of one stat after the other, until `over`, which is asked seldom."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    taken = []
    for number, name in enumerate(names):
        if number % 100 == 99 and over():
            break
        time.sleep(_PAUSE)
        begin = time.perf_counter()
        os.stat(name, dir_fd=place)
        taken.append(time.perf_counter() - begin)
    os.close(place)
    return taken


@dataclass(frozen=True)
class _Grown:
    """A volume of so many files, mounted."""

    subject: Infinitfs
    meter: Meter
    files: int

    def grow(self) -> None:
        for number in range(_FOLDERS):
            folder = self.subject.folder / f"folder-{number}"
            folder.mkdir(exist_ok=True)
            workloads.create(folder, self.files // _FOLDERS, _SMALL)
        self.meter.quiet()

    def ask(self, turn: int, together: int = 1) -> float:
        """Seconds that a stat takes of any file, or of so many `together`; the kernel has forgotten all of them."""
        self.meter.forget_names()
        of_any = random.Random(turn).sample(range(0, self.files, together), min(_ASKED, self.files) // together)
        files = [self.subject.folder / _file(first + n, self.files) for first in of_any for n in range(together)]
        before = read_from_disk(self.subject.processes())
        begin = time.perf_counter()
        for file in files:
            file.stat()
        taken = (time.perf_counter() - begin) / len(files)
        from_disk = (read_from_disk(self.subject.processes()) - before) / len(files)
        neighbours = f", {together} neighbours" if together > 1 else ""
        self.meter.rate(f"stat among {self.files:,} files{neighbours}", "files/s", (taken, 1))
        self.meter.figure(f"read from the disk for it{neighbours}, {self.files:,} files", from_disk / 1024, "KiB")
        return taken

    def create(self, turn: int) -> float:
        """Seconds that it takes to create one more."""
        step = f"create beside {self.files:,} files"
        first = self.files + turn * _CREATED
        seconds, count = self.meter.measure(step, "files/s", workloads.create, _CREATED, _SMALL, first)
        return seconds / count


def growth(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """A volume of very many files: what it costs to have them, beside one of few that takes turns with it; to change
    some, and to begin on another machine."""
    assert isinstance(subject, Infinitfs)
    meter.quiet()
    meter.figure(MEMORY_EMPTY, _memory(subject), "MiB")
    other = type(subject)(subject.place / f"{subject.place.name}-small", subject.service)
    with other.running():
        small, large = _Grown(other, meter.of(other), sizes.small_volume), _Grown(subject, meter, sizes.volume)
        small.grow()
        large.grow()
        meter.figure(MEMORY, _memory(subject), "MiB")  # the kernel still knows as many names as it has room for
        meter.figure(STAT_SHARE, _share(small.ask, large.ask, _STAT_TURNS), "times")
        neighbours = partial(small.ask, together=_NEIGHBOURS), partial(large.ask, together=_NEIGHBOURS)
        meter.figure(f"{STAT_SHARE}, {_NEIGHBOURS} neighbours", _share(*neighbours, _STAT_TURNS), "times")
        meter.figure(CREATE_SHARE, _share(small.create, large.create, _CREATE_TURNS), "times")
        meter.figure("memory with a large volume that the kernel forgot", _memory(subject), "MiB")
    _change_few(subject, meter, sizes.volume)
    _begin_elsewhere(subject, meter)


def _share(small: Callable[[int], float], large: Callable[[int], float], turns: int) -> float:
    """The rate of the large volume in that of the small one: the median of so many turns of both, as the machine does
    not keep its speed."""
    return statistics.median(small(turn) / large(turn) for turn in range(turns))


def _memory(subject: Subject) -> float:
    return resident_memory(subject.processes()) / MIB


def _file(number: int, files: int) -> str:
    each = files // _FOLDERS
    return f"folder-{number // each}/file-{number % each:07d}"


def _change_few(subject: Infinitfs, meter: Meter, present: int) -> None:
    subject.drain()
    before = checkpoints.take(subject)
    stored = subject.stored()
    subject.resume(cold=False)
    source = random.Random(len(stored))
    for number in source.sample(range(present), 10):
        (subject.folder / _file(number, present)).write_bytes(source.randbytes(PAGE))
    subject.drain()
    sent = {key: size for key, size in subject.stored().items() if key not in stored}
    meter.figure(JOURNAL, sum(size for key, size in sent.items() if "/journal/" in key) / 1024, "KiB")
    after = checkpoints.take(subject)
    meter.figure(CHECKPOINT, len(after.sent_since(before)) / len(after.groups), "of all")
    meter.figure(CHECKPOINT_UNCHANGED, len(after.sent_since(before) & before.digests), "groups")


def _begin_elsewhere(subject: Infinitfs, meter: Meter) -> None:
    """Another machine has the user's key; the volume was given up here."""
    home = Home(subject.place / "elsewhere")
    users = Path("config", "users")
    shutil.copytree(subject.machine.root / users, home.root / users)
    if subject.service is None:
        return
    with storage.delayed(subject.service, FAR) as far:
        subject.add_storage(home, far)
        begin = time.perf_counter()
        home.run("volume", "fetch", "--storage", STORAGE, "--as", USER)
        mounted = home.mount(subject.place / "there", volume=VOLUME)
        meter.figure(FRESH_MOUNT, time.perf_counter() - begin, "s")
        mounted.unmount()
        home.close()


def starting(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """The program's own start, and that of a mount."""
    assert isinstance(subject, Infinitfs)
    script = Path(sys.executable).with_name("infinitfs")
    program = [str(script)] if script.exists() else list(PROGRAM)
    begin = time.perf_counter()
    subprocess.run([*program, "--help"], check=True, stdout=subprocess.DEVNULL)
    meter.figure(HELP, (time.perf_counter() - begin) * 1e3, "ms")
    subject.drain()
    begin = time.perf_counter()
    subject.resume(cold=False)
    meter.figure(READY, time.perf_counter() - begin, "s")
