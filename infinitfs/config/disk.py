"""Files that are on the disk when a call returns.

Above: whoever keeps something that must survive a power cut: records, state, staged packs, stored objects. Below: the
operating system. Blocking calls, for threads.
Invariant: a name leads to the whole of a file or to none: content is synced before its name, a name with its folder.
"""

import errno
import fcntl
import mmap
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from infinitfs._native import gather
from infinitfs.errors import LocalFileFailed

Buffer = bytes | bytearray | memoryview

PIECE = 256 * 1024
"""Bytes that one call writes at most. Of more the kernel's page cache makes huge pages: where these must be had from
the host of a virtual machine first, copying took 2.2 ms a MiB, and 0.25 ms in pieces (Linux 6.18, ext4)."""
_VECTORS = 512  # IOV_MAX is 1024
_PAGE = 4096  # what lies past the cache is aligned to it, in the file and in memory
_LEAST = 2**20  # bytes that are worth to be written past it
_ROOM = 2 * 2**20  # bytes that are written past it at a time


@contextmanager
def failing(path: Path, action: str) -> Iterator[None]:
    """OSErrors inside leave as LocalFileFailed: `path` could not be `action` (a past participle)."""
    try:
        yield
    except OSError as error:
        raise LocalFileFailed(path=str(path), action=action, reason=error.strerror or str(error)) from None


def sync_folder(folder: Path) -> None:
    """The names in `folder` as they are now survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, buffers: Iterable[Buffer], offset: int = 0, *, syncing: bool = False) -> None:
    """Write all buffers one behind the other from `offset` on, at most PIECE bytes a call. Raises OSError.

    With `syncing`, for a sync that follows, the disk begins with each PIECE while the next is copied: the advice starts
    to write what is dirty, and frees what has been written (Linux, mm/fadvise.c). To copy and sync 1 MiB took 2.1 ms
    without it and takes 1.7.
    """
    views = _Views(buffers)
    while group := views.take(PIECE, _VECTORS):
        while group:
            done = os.pwritev(descriptor, group, offset)
            if syncing and done == PIECE:
                with suppress(OSError):  # it is advice
                    os.posix_fadvise(descriptor, offset, done, os.POSIX_FADV_DONTNEED)
            offset += done
            while group and done >= len(group[0]):
                done -= len(group.pop(0))
            if group:
                group[0] = group[0][done:]


class DirectWriter:
    """Writes past the kernel's page cache (O_DIRECT, open(2)), for what nobody reads soon. To copy 1 MiB into the cache
    and sync it took 0.35 ms of CPU time, and up to 2.6 where the host of a virtual machine had to give the memory
    first; this takes 0.15, with the copy to where memory is aligned.

    Less than a page at either end goes through the cache, and all of what is small, or where the filesystem does not
    know such writes. An instance is for all threads, a descriptor for one at a time.
    """

    def __init__(self) -> None:
        self._rooms: list[mmap.mmap] = []

    def write(self, descriptor: int, buffers: Iterable[Buffer], offset: int, size: int) -> None:
        """As `write_at` with `syncing`, of `size` bytes in all."""
        start = -(-offset // _PAGE) * _PAGE
        end = (offset + size) // _PAGE * _PAGE
        if end - start < _LEAST:
            write_at(descriptor, buffers, offset, syncing=True)
            return
        views = _Views(buffers)
        write_at(descriptor, views.take(start - offset), offset)
        room = self._rooms.pop() if self._rooms else _room()
        try:
            rest: list[memoryview] = []
            with _direct(descriptor) as possible:
                while possible and start < end and not rest:
                    length = min(_ROOM, end - start)
                    done = _write_aligned(descriptor, views.take(length), room, start)
                    start += done
                    rest = [memoryview(room)[done:length]] if done < length else []
            write_at(descriptor, [*rest, *views.take(offset + size - start)], start, syncing=True)
        finally:
            self._rooms.append(room)


def _room() -> mmap.mmap:
    """_ROOM bytes, aligned, and if possible one huge page: the disk is asked for a run of pages at a time, and of
    scattered ones a request holds some 250 (written to a virtual disk: 380 MiB/s, and 720 from huge pages)."""
    room = mmap.mmap(-1, _ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        room.madvise(mmap.MADV_HUGEPAGE)
    return room


@contextmanager
def _direct(descriptor: int) -> Iterator[bool]:
    """Writes inside are past the cache, or fail with EINVAL; False where that cannot be asked for."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _write_aligned(descriptor: int, views: Sequence[memoryview], room: mmap.mmap, offset: int) -> int:
    """Write `views` by way of `room`, which they fit into; returns how many bytes were written, all of them or not."""
    filled = gather(room, views)
    try:
        return os.pwritev(descriptor, [memoryview(room)[:filled]], offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0


class _Views:
    """Buffers, one behind the other, of which one part after the other is taken."""

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        self._buffers = iter(buffers)
        self._view = memoryview(b"")

    def take(self, size: int, most: int | None = None) -> list[memoryview]:
        """The next `size` bytes, fewer at the end, or where these are more than `most` views."""
        taken: list[memoryview] = []
        while size and len(taken) != most:
            if not self._view:
                following = next(self._buffers, None)
                if following is None:
                    break
                self._view = memoryview(following).cast("B")
                continue
            taken.append(self._view[:size])
            self._view = self._view[size:]
            size -= len(taken[-1])
        return taken


def write_aside(folder: Path, data: bytes) -> Path:
    """A new synced file of `data`, 0600, under a temporary name in `folder` that starts with a dot; the caller gives
    it its own and syncs the folder. Raises OSError, with nothing left behind."""
    temporary = folder / f".{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def write_whole(path: Path, data: bytes) -> None:
    """The file `path` holds `data`, durably, instead of what it held. Raises OSError."""
    write_aside(path.parent, data).replace(path)
    sync_folder(path.parent)
