"""Local files of the two processes, and where the calls that touch them run.

Above: `worker`, `cache`, and those that keep files of their own. Below: the operating system.
Invariant: a call here may wait for a disk, so it runs where its caller's `Offload` says: in a thread, or,
in a simulation that must be deterministic, at once; but for `OpenFiles`, which never waits. OSErrors leave
`local_errors` as NoSpace or LocalFileFailed.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import trio

from infinitfs._native import room
from infinitfs.config.disk import write_at
from infinitfs.errors import LocalFileFailed, NoSpace
from infinitfs.storage.base import Buffer

T = TypeVar("T")
K = TypeVar("K")


class Offload(Protocol):
    """Runs a blocking call."""

    async def __call__(self, call: Callable[[], T]) -> T: ...


class Threads:
    """Runs calls in at most `limit` threads. A call that began is waited for, cancelled or not."""

    def __init__(self, limit: int) -> None:
        self._limiter = trio.CapacityLimiter(limit)

    async def __call__(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._limiter)


async def inline(call: Callable[[], T]) -> T:
    """Runs a call at once, between two checkpoints."""
    await trio.lowlevel.checkpoint()
    return call()


@contextlib.contextmanager
def local_errors(path: Path, action: str) -> Iterator[None]:
    """OSErrors inside are about `path`, which could not be `action` (a past participle)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(what=str(path.parent), remedy="free some") from error
        reason = error.strerror or str(error)
        raise LocalFileFailed(path=str(path), action=action, reason=reason) from error


def read_whole(path: Path) -> bytes:
    with (
        local_errors(path, "read"),
        os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file,
    ):
        return file.read()


def write_new(path: Path, data: Buffer) -> None:
    """Make the file `path` (0600), in place of one of that name. After an error there is none."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with local_errors(path, "written"):
        path.unlink(missing_ok=True)
        descriptor = os.open(path, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0):
                write_at(descriptor, [data])
        except OSError:
            remove([path])
            raise


def remove(paths: Iterable[Path]) -> None:
    """Unlink files. One that cannot be stays: these are files that nobody reads again."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def open_for_reading(path: Path) -> int:
    """A descriptor of a file. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


class OpenFiles(Generic[K]):
    """The `most` files that were opened last of those that are read again and again: to open and close one costs what
    reading 128 KiB does. Each has a key, under which it is closed before its name is given to another."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._descriptors: dict[K, int] = {}  # the oldest first

    def read_now(self, key: K, path: Path, offset: int, length: int) -> Buffer | None:
        """The bytes `[offset, offset + length)` of a file where they are in the kernel's memory, else None (preadv2(2),
        RWF_NOWAIT). On the event loop: for a file that was used lately, so that to open it takes no wait."""
        buffer = room(length)
        try:
            descriptor = self._descriptors.get(key)
            if descriptor is None:
                descriptor = self._open(key, path)
            if os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT) != length:
                return None
        except OSError:
            return None
        return buffer

    def _open(self, key: K, path: Path) -> int:
        descriptor = self._descriptors[key] = open_for_reading(path)
        if len(self._descriptors) > self._most:
            self.close(next(iter(self._descriptors)))
        return descriptor

    def close(self, key: K) -> None:
        descriptor = self._descriptors.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)

    def close_all(self) -> None:
        """What is read after this opens its file again."""
        for key in list(self._descriptors):
            self.close(key)
