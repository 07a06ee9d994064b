"""Scenes of infinitfs alone, which end in a figure with a limit: while it uploads, when it has grown, when it starts.

Above: `__main__`, `acceptance`. Below: `scenes`, `checkpoints`, `subjects.Infinitfs`.
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
from contextlib import contextmanager
from pathlib import Path

from benchmarks import checkpoints, storage, workloads
from benchmarks.measuring import Meter, read_from_disk, resident_memory
from benchmarks.scenes import Sizes
from benchmarks.subjects import Infinitfs, Subject
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
_ASKED = 2000  # files that are created and asked for, to see how fast
_ROUNDS = 5  # of asking for as many others
_PAUSE = 0.001  # seconds between two stats


def beside_upload(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """How long a stat takes that the kernel cannot answer, with nothing else to do and while a file uploads."""
    assert isinstance(subject, Infinitfs)
    count = 5 * sizes.files // 4
    workloads.run(workloads.create, subject.folder, count)
    meter.forget_names()
    names = [f"file-{number:07d}" for number in range(count)]
    idle = _stats(subject.folder, names[: count // 5], lambda: False)
    with _sending_nothing(subject):
        workloads.run(workloads.write, subject.folder, "large", sizes.large)
    busy = _stats(subject.folder, names[count // 5 :], lambda: subject.backlog == 0)
    meter.figure("stat, idle", statistics.median(idle) * 1e3, "ms")
    meter.figure("stat while 1 GiB uploads", statistics.median(busy) * 1e3, "ms")
    meter.figure(STAT_BESIDE_UPLOAD, statistics.median(busy) / statistics.median(idle), "times")
    meter.figure(STAT_SLOWEST, statistics.quantiles(busy, n=100)[-1] * 1e3, "ms")


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


def growth(subject: Subject, meter: Meter, sizes: Sizes) -> None:
    """A volume of very many files: what it costs to have them, to change a few, and to begin on another machine."""
    assert isinstance(subject, Infinitfs)
    meter.quiet()
    meter.figure(MEMORY_EMPTY, _memory(subject), "MiB")
    _grow(subject, 0, sizes.small_volume)
    small = _rates(subject, meter, sizes.small_volume)
    _grow(subject, sizes.small_volume, sizes.volume)
    meter.quiet()
    meter.figure(MEMORY, _memory(subject), "MiB")  # the kernel still knows as many names as it has room for
    large = _rates(subject, meter, sizes.volume)
    meter.figure("memory with a large volume that the kernel forgot", _memory(subject), "MiB")
    meter.figure(CREATE_SHARE, large[0] / small[0], "times")
    meter.figure(STAT_SHARE, large[1] / small[1], "times")
    _change_few(subject, meter, sizes.volume)
    _begin_elsewhere(subject, meter)


def _memory(subject: Subject) -> float:
    return resident_memory(subject.processes()) / MIB


def _grow(subject: Infinitfs, present: int, wanted: int) -> None:
    before, after = present // _FOLDERS, wanted // _FOLDERS
    for number in range(_FOLDERS):
        folder = subject.folder / f"folder-{number}"
        folder.mkdir(exist_ok=True)
        workloads.create(folder, after - before, _SMALL, before)


def _rates(subject: Infinitfs, meter: Meter, present: int) -> tuple[float, float]:
    """How many files can be created, and how many asked for, in a second, in a volume of `present` files."""
    source = random.Random(present)
    before = read_from_disk(subject.processes())
    taken = []
    for _ in range(_ROUNDS):
        meter.forget_names()
        names = [_file(number, present) for number in source.sample(range(present), min(_ASKED, present))]
        begin = time.perf_counter()
        for name in names:
            (subject.folder / name).stat()
        taken.append(time.perf_counter() - begin)
    asked = statistics.median(taken) / len(names)
    meter.rate(f"stat among {present:,} files", "files/s", (asked, 1))
    from_disk = (read_from_disk(subject.processes()) - before) / len(names) / _ROUNDS
    meter.figure(f"read from the disk for a stat among {present:,} files", from_disk / 1024, "KiB")
    step = f"create beside {present:,} files"
    seconds, count = meter.measure(step, "files/s", workloads.create, _ASKED, _SMALL, present)
    return count / seconds, 1 / asked


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
