"""What a mounted folder does, as a program sees it.

Above: `cli/benchmark`. Below: plain system calls in the folder, and the mount's socket, which stores and forgets when
it is told to.
Invariant: everything is made in one folder of a random name, which is removed whatever ends the run, and the space it
took in the storage is given back. "Warm" is what this machine keeps sealed on its disk, "cold" what only the storage
has; the kernel's own copy is dropped for both, so it is the mount that is measured.
"""

import os
import random
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar

from infinitfs.benchmark.format import format_quantity, format_seconds
from infinitfs.benchmark.regions import Progress
from infinitfs.benchmark.results import Result, Row
from infinitfs.benchmark.summary import Summary, Unit, summarize
from infinitfs.config.paths import Paths
from infinitfs.errors import InfinitfsError
from infinitfs.mount.control import ask, find_mount
from infinitfs.volume.clock import Clock

SIZE = 64 << 20
FILES = 200

_CHUNK = 1 << 20  # bytes of a call in a large file
_PAGE = 4096
_WARM, _COLD, _SYNCS, _STORED = 200, 20, 20, 5  # how often each is sampled

T = TypeVar("T")


def measure_volume(
    paths: Paths, directory: Path, *, size: int = SIZE, files: int = FILES, progress: Progress
) -> Result:
    """Measure the mount at `directory` with one file of `size` bytes and `files` of 4 KiB. Blocking.

    Raises NotFound where nothing is mounted there, OSError where a call fails, KeyboardInterrupt also for SIGTERM.
    """
    mount = _Mount(paths, find_mount(paths, directory))
    rows = []
    with _ends_like_an_interrupt():
        folder = Path(tempfile.mkdtemp(prefix=".benchmark-", dir=directory))
        try:
            steps = [*_large(folder / "large", size, mount), *_small(folder, files, mount), *_durable(folder, mount)]
            for number, (name, prepare, step) in enumerate(steps, 1):
                prepare()
                rows.append(Row(name=name, values=step()))
                progress(number, len(steps))
        finally:
            with _uninterrupted():
                shutil.rmtree(folder)
                mount.give_back()
    return Result(
        kind="volume",
        subject=str(directory),
        created=Clock().timestamp(),
        rows=rows,
        conclusion=_conclusion({row.name: row.values for row in rows}),
    )


class _Mount:
    """The mount as its socket has it."""

    def __init__(self, paths: Paths, volume_id: str) -> None:
        self._paths = paths
        self._volume_id = volume_id

    def store(self) -> None:
        """Everything written until now is in the storage on return."""
        self._do("store")

    def forget(self) -> None:
        """What is in the storage is read from there the next time."""
        self.store()
        self._do("forget")

    def give_back(self) -> None:
        """Nothing that was removed is kept in the storage. Where that cannot be now, the mount does it later."""
        with suppress(InfinitfsError):
            self.store()
            self._do("collect")

    def _do(self, command: str) -> None:
        for _ in ask(self._paths, self._volume_id, command):
            pass


Values = dict[str, Summary]
Step = tuple[str, Callable[[], object], Callable[[], Values]]
"""Its name, what comes before it and is not measured, and the measuring itself."""


def _large(path: Path, size: int, mount: _Mount) -> list[Step]:
    """One file: in sequence, then 4 KiB at random."""
    size = max(size - size % _CHUNK, _CHUNK)
    source = random.Random(size)

    def write() -> Values:
        data = memoryview(secrets.token_bytes(size))
        with _opened(path, os.O_WRONLY | os.O_CREAT) as file:
            began = time.perf_counter()
            for start in range(0, size, _CHUNK):
                os.write(file, data[start : start + _CHUNK])
            os.fsync(file)
            synced = time.perf_counter()
            mount.store()
            stored = time.perf_counter()
        return {"rate": _once(size / (synced - began), "B/s"), "rate, stored": _once(size / (stored - began), "B/s")}

    def read() -> Values:
        buffer = bytearray(_CHUNK)
        with _opened(path, os.O_RDONLY) as file:
            began = time.perf_counter()
            while os.readv(file, [buffer]):
                pass
            return {"rate": _once(size / (time.perf_counter() - began), "B/s")}

    def read_random(count: int) -> Values:
        places = _places(count)
        with _opened(path, os.O_RDONLY) as file:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            return _each(lambda place: os.pread(file, _PAGE, place), places)

    def write_random() -> Values:
        data = secrets.token_bytes(_PAGE)
        with _opened(path, os.O_RDWR) as file:
            began = time.perf_counter()
            for place in _places(_WARM):
                os.pwrite(file, data, place)
            os.fsync(file)
            return {"rate": _once(_WARM / (time.perf_counter() - began), "1/s")}

    def _places(count: int) -> list[int]:
        return [source.randrange(size // _PAGE) * _PAGE for _ in range(count)]

    return [
        ("write in sequence, fsync", mount.store, write),
        ("read in sequence, warm", mount.store, read),
        ("read in sequence, cold", mount.forget, read),
        ("read 4 KiB at random, warm", mount.store, lambda: read_random(_WARM)),
        ("read 4 KiB at random, cold", mount.forget, lambda: read_random(_COLD)),
        ("write 4 KiB at random, fsync", mount.store, write_random),
    ]


def _small(folder: Path, files: int, mount: _Mount) -> list[Step]:
    """Many files of 4 KiB."""
    paths = [folder / f"small-{number:06}" for number in range(files)]

    def create(path: Path) -> None:
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            os.write(file, secrets.token_bytes(_PAGE))

    def read(path: Path) -> None:
        with _opened(path, os.O_RDONLY) as file:
            os.read(file, _PAGE)

    return [
        ("create files of 4 KiB", mount.store, lambda: _each(create, paths)),
        ("look at their attributes", mount.store, lambda: _each(os.stat, paths)),
        ("read them, warm", mount.store, lambda: _each(read, paths)),
        ("read them, cold", mount.forget, lambda: _each(read, paths)),
        ("remove them", mount.store, lambda: _each(os.unlink, paths)),
    ]


def _durable(folder: Path, mount: _Mount) -> list[Step]:
    """4 KiB at the end of a file, until they are safe."""

    def append(count: int, make_safe: Callable[[int], object]) -> Values:
        with _opened(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:

            def write(data: bytes) -> None:
                os.write(file, data)
                make_safe(file)

            return _each(write, [secrets.token_bytes(_PAGE) for _ in range(count)])

    def store(file: int) -> None:
        os.fsync(file)
        mount.store()

    return [
        ("write 4 KiB, fsync", mount.store, lambda: append(_SYNCS, os.fsync)),
        ("write 4 KiB, until stored", mount.store, lambda: append(_STORED, store)),
    ]


# --- measuring ---


def _each(step: Callable[[T], object], of: Sequence[T]) -> Values:
    """One after the other: how long each took, and how many a second that is."""
    seconds = []
    for each in of:
        began = time.perf_counter()
        step(each)
        seconds.append(time.perf_counter() - began)
    return {"latency": summarize(seconds), "rate": _once(len(seconds) / sum(seconds), "1/s")}


def _once(value: float, unit: Unit) -> Summary:
    return summarize([value], unit=unit)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor; the kernel keeps no page of the file when it is opened."""
    file = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        yield file
    finally:
        os.close(file)


def _conclusion(values: dict[str, Values]) -> list[str]:
    """What waits for the network, and what does not."""

    def rate(name: str) -> str:
        return format_quantity(values[name]["rate"].median, values[name]["rate"].unit)

    def wait(name: str) -> str:
        return format_seconds(values[name]["latency"].median)

    return [
        f"A small read takes {wait('read 4 KiB at random, warm')} from this machine's cache and "
        f"{wait('read 4 KiB at random, cold')} from the storage; in sequence {rate('read in sequence, warm')} and "
        f"{rate('read in sequence, cold')}.",
        f"fsync takes {wait('write 4 KiB, fsync')} as this is mounted; until a small change is in the storage it is "
        f"{wait('write 4 KiB, until stored')}.",
    ]


# --- the end ---


@contextmanager
def _ends_like_an_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt in the block."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals that would end the block are lost."""
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handled(handler: "Callable[[int, FrameType | None], None] | signal.Handlers", *numbers: int) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
