"""What a program does in a folder: plain system calls, timed where they are made.

Above: `scenes`, which runs each in a process of its own: `python -m benchmarks.workloads NAME FOLDER ARGUMENT...`
prints `{"seconds": ..., "count": ...}`, what was done and how long it took. Below: the kernel.
Invariant: imports, and the making of content, are not timed; content is incompressible and never the same twice; who
is too slow is stopped after LIMIT seconds, and what it did until then counts. "Warm" reads drop the kernel's own
copy of the file first: the filesystem is asked, not the kernel.
"""

import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 120.0
"""Seconds after which a workload stops."""

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
PAGE = 4096
RANDOM_REQUESTS = 5000

Result = tuple[float, int]
"""Seconds, and how many bytes or files that was."""


def content(size: int) -> bytes:
    """`size` bytes that compress to nothing and were never seen before."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    stream = Cipher(algorithms.AES(secrets.token_bytes(32)), modes.CTR(secrets.token_bytes(16))).encryptor()
    return stream.update(bytes(size))


def until_late(items: Iterable[int]) -> Iterator[int]:
    end = time.monotonic() + LIMIT
    for item in items:
        if time.monotonic() > end:
            return
        yield item


def _forget_pages(descriptor: int) -> None:
    """Drop what the kernel caches of a file. Only what is clean can go, so it is synced before."""
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


# --- one large file ---


def write(folder: Path, name: str, size: int, durable: int = True) -> Result:
    """One file from its beginning to its end, 1 MiB a call, to the return of close; before it fsync, if `durable`."""
    data = memoryview(content(size))
    done = 0
    begin = time.perf_counter()
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for start in until_late(range(0, size, MIB)):
        done += os.write(descriptor, data[start : start + MIB])
    if durable:
        os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - begin, done


def read(folder: Path, name: str) -> Result:
    """One file from its beginning to its end, 1 MiB a call."""
    buffer = bytearray(MIB)
    done = 0
    descriptor = os.open(folder / name, os.O_RDONLY)
    _forget_pages(descriptor)
    begin = time.perf_counter()
    for _ in until_late(range(sys.maxsize)):
        length = os.readv(descriptor, [buffer])
        if not length:
            break
        done += length
    seconds = time.perf_counter() - begin
    os.close(descriptor)
    return seconds, done


def read_random(folder: Path, name: str, requests: int) -> Result:
    """4 KiB at random places."""
    descriptor = os.open(folder / name, os.O_RDONLY)
    places = _places(descriptor, requests)
    _forget_pages(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    done = 0
    begin = time.perf_counter()
    for place in until_late(places):
        os.pread(descriptor, PAGE, place)
        done += 1
    seconds = time.perf_counter() - begin
    os.close(descriptor)
    return seconds, done


def write_random(folder: Path, name: str, requests: int, durable: int = True) -> Result:
    """4 KiB at random places, up to the return of close; before it fsync, if `durable`."""
    descriptor = os.open(folder / name, os.O_RDWR)
    places = _places(descriptor, requests)
    data = memoryview(content(requests * PAGE))
    done = 0
    begin = time.perf_counter()
    for place in until_late(places):
        os.pwrite(descriptor, data[done * PAGE : (done + 1) * PAGE], place)
        done += 1
    if durable:
        os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - begin, done


def _places(descriptor: int, requests: int) -> list[int]:
    pages = os.fstat(descriptor).st_size // PAGE
    source = random.Random(requests)
    return [source.randrange(pages) * PAGE for _ in range(requests)]


# --- many small files ---


@contextmanager
def _files(folder: Path, numbers: range) -> Iterator[tuple[int, list[str]]]:
    """The folder, open, and the names of files in it."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield place, [f"file-{number:07d}" for number in numbers]
    os.close(place)


def create(folder: Path, count: int, size: int = PAGE, first: int = 0) -> Result:
    """Create, write, close."""
    data = memoryview(content(count * size))
    done = 0
    with _files(folder, range(first, first + count)) as (place, names):
        begin = time.perf_counter()
        for number in until_late(range(count)):
            descriptor = os.open(names[number], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=place)
            os.write(descriptor, data[number * size : (number + 1) * size])
            os.close(descriptor)
            done += 1
        return time.perf_counter() - begin, done


def stat(folder: Path, count: int) -> Result:
    """In an order that has nothing to do with how they were made."""
    done = 0
    with _files(folder, range(count)) as (place, names):
        random.Random(count).shuffle(names)
        begin = time.perf_counter()
        for number in until_late(range(count)):
            os.stat(names[number], dir_fd=place)
            done += 1
        return time.perf_counter() - begin, done


def scan(folder: Path) -> Result:
    """List the folder with the attributes of everything in it, as `ls -l` does."""
    begin = time.perf_counter()
    with os.scandir(folder) as entries:
        done = sum(1 for entry in entries if entry.stat(follow_symlinks=False).st_size >= 0)
    return time.perf_counter() - begin, done


def read_files(folder: Path, count: int) -> Result:
    done = 0
    with _files(folder, range(count)) as (place, names):
        begin = time.perf_counter()
        for number in until_late(range(count)):
            descriptor = os.open(names[number], os.O_RDONLY, dir_fd=place)
            os.read(descriptor, PAGE)
            os.close(descriptor)
            done += 1
        return time.perf_counter() - begin, done


def remove(folder: Path, count: int) -> Result:
    done = 0
    with _files(folder, range(count)) as (place, names):
        begin = time.perf_counter()
        for number in until_late(range(count)):
            os.unlink(names[number], dir_fd=place)
            done += 1
        return time.perf_counter() - begin, done


# --- programs ---


def program(folder: Path, *command: str) -> Result:
    """A program that runs in the folder; what it prints is dropped. Who is too slow has failed."""
    begin = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        # `wait` with a timeout looks at intervals that double: 32 ms and 63 ms would be all it tells apart.
        limit = threading.Timer(5 * LIMIT, process.kill)
        limit.start()
        try:
            code = process.wait()
        finally:
            limit.cancel()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return time.perf_counter() - begin, 1


WORKLOADS: dict[str, Callable[..., Result]] = {
    function.__name__: function
    for function in (write, read, read_random, write_random, create, stat, scan, read_files, remove, program)
}


def run(workload: Callable[..., Result], folder: Path, *arguments: str | int) -> Result:
    """One of WORKLOADS, in a process of its own. Raises RuntimeError with the last line that it printed."""
    command = [sys.executable, "-m", "benchmarks.workloads", workload.__name__, os.fspath(folder)]
    done = subprocess.run([*command, json.dumps(arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{workload.__name__}: {done.stderr.rstrip().rpartition(chr(10))[2]}")
    seconds, count = json.loads(done.stdout)
    return seconds, count


if __name__ == "__main__":
    _, workload_name, place, given = sys.argv
    print(json.dumps(WORKLOADS[workload_name](Path(place), *json.loads(given))))
