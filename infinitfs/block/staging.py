"""Staged packs: frames on this machine's disk, on their way to the storage.

Above: `block.writer` appends, `block.reader` reads, the volume's publisher uploads closed packs. Below: files in one
folder, one a pack, named by the pack.
Invariant: a frame is durable once `append` has returned, and its pack's name too (the folder is synced when a pack is
begun). Bytes behind the last frame the index knows mean nothing: `reopen` cuts them off. A pack is never changed
once it is closed. Nothing here runs on the event loop but dictionary look-ups; disk work is in threads.
"""

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from infinitfs.block.index import NewFrame
from infinitfs.block.pack import Entry
from infinitfs.errors import InfinitfsError, LocalDiskFailed, NoSpace
from infinitfs.transfer.files import Offload

SealIndex = Callable[[str, Sequence[Entry]], bytes]


class _OpenPack:
    __slots__ = ("descriptor", "entries", "name", "size")

    def __init__(self, name: str, descriptor: int, size: int, entries: list[Entry]) -> None:
        self.name = name
        self.descriptor = descriptor
        self.size = size
        self.entries = entries


class Staging:
    """The packs in `folder`. `name` makes a new pack's name (hex), `seal_index` what ends a pack."""

    def __init__(self, folder: Path, name: Callable[[], str], seal_index: SealIndex, offload: Offload):
        self._folder = folder
        self._name = name
        self._seal_index = seal_index
        self._offload = offload
        self._sizes: dict[str, int] = {}
        self._open: _OpenPack | None = None

    @property
    def waiting(self) -> int:
        """What waits here for the storage."""
        return sum(self._sizes.values()) + self.open_size

    @property
    def packs(self) -> int:
        return len(self._sizes) + (self._open is not None)

    @property
    def open_size(self) -> int:
        """Bytes in the pack that is being filled, 0 without one."""
        return self._open.size if self._open else 0

    def path(self, pack: str) -> Path:
        return self._folder / pack

    def holds(self, pack: str) -> bool:
        return pack in self._sizes or (self._open is not None and self._open.name == pack)

    def closed(self) -> list[str]:
        return list(self._sizes)

    async def append(self, frames: Sequence[tuple[bytes, int, bytes]]) -> list[NewFrame]:
        """Make frames, given as (block id, plain size, sealed bytes), durable in the open pack.

        One writer at a time (the volume's flush lock). A cancelled caller waits for the disk: an append is whole.
        Raises NoSpace, with the pack as it was before; LocalDiskFailed where the disk fails otherwise.
        """
        return await self._offload(partial(self._append, frames))

    def _append(self, frames: Sequence[tuple[bytes, int, bytes]]) -> list[NewFrame]:
        pack = self._open
        try:
            if pack is None:
                pack = self._begin()
            written = []
            offset = pack.size
            for block, size, frame in frames:
                written.append(Entry(block, offset, len(frame), size))
                offset += len(frame)
            _write_at(pack.descriptor, pack.size, [frame for _, _, frame in frames])
            os.fdatasync(pack.descriptor)
        except OSError as error:
            if pack is not None and error.errno in _FULL:
                os.ftruncate(pack.descriptor, pack.size)
            raise self._failure(error) from error
        pack.size = offset
        pack.entries.extend(written)
        self._open = pack
        return [NewFrame(e.id, pack.name, e.offset, e.length, e.size) for e in written]

    def _begin(self) -> _OpenPack:
        name = self._name()
        descriptor = os.open(self.path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        _sync_folder(self._folder)
        return _OpenPack(name, descriptor, 0, [])

    async def close_pack(self) -> tuple[str, int] | None:
        """End the open pack with its sealed index. Returns its name and size in bytes, None where none is open."""
        return await self._offload(self._close_pack)

    def _close_pack(self) -> tuple[str, int] | None:
        pack = self._open
        if pack is None:
            return None
        ending = self._seal_index(pack.name, pack.entries)
        try:
            _write_at(pack.descriptor, pack.size, [ending])
            os.fdatasync(pack.descriptor)
        except OSError as error:
            if error.errno in _FULL:
                os.ftruncate(pack.descriptor, pack.size)
            raise self._failure(error) from error
        os.close(pack.descriptor)
        self._open = None
        self._sizes[pack.name] = pack.size + len(ending)
        return pack.name, pack.size + len(ending)

    def read(self, pack: str, offset: int, length: int) -> bytes:
        """The sealed bytes `[offset, offset + length)`; blocking, for a thread or a short read."""
        if self._open is not None and self._open.name == pack:
            return os.pread(self._open.descriptor, length, offset)
        with self.path(pack).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def release(self, pack: str) -> None:
        """Forget a pack: its file was moved into the cache, or removed."""
        self._sizes.pop(pack, None)

    def recover(self, known: dict[str, tuple[int, list[Entry]]]) -> list[str]:
        """Take over what an earlier process left; blocking, before anything else runs.

         `known` says of each pack the index refers to that is not acknowledged by the storage: its size if it was
         closed, else 0, and the frames of an open one. An open pack is cut at its last known frame and stays open
        ; files that the
         index does not know are removed. Raises LocalDiskFailed where a known pack is missing or short.
        """
        left_open = []
        for path in list(self._folder.iterdir()):
            if path.name not in known:
                path.unlink()
        for name, (size, entries) in known.items():
            need = size or max((entry.offset + entry.length for entry in entries), default=0)
            try:
                there = self.path(name).stat().st_size
            except FileNotFoundError:
                there = -1
            if there < need:
                raise LocalDiskFailed(path=str(self.path(name)), reason=f"{need} bytes were synced, {there} are there")
            if size:
                self._sizes[name] = size
            else:
                left_open.append(name)
        return left_open

    def reopen(self, name: str, entries: list[Entry]) -> None:
        """Go on with an open pack of an earlier process, cut behind its last known frame; blocking."""
        size = max((entry.offset + entry.length for entry in entries), default=0)
        descriptor = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(descriptor, size)
        self._open = _OpenPack(name, descriptor, size, list(entries))

    def close(self) -> None:
        """Release the open file; what it holds is durable already."""
        if self._open is not None:
            os.close(self._open.descriptor)
            self._open = None

    def _failure(self, error: OSError) -> InfinitfsError:
        if error.errno in _FULL:
            return NoSpace(what=str(self._folder), remedy="free space on this machine's disk")
        return LocalDiskFailed(path=str(self._folder), reason=os.strerror(error.errno or 0))


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def _write_at(descriptor: int, offset: int, buffers: Sequence[bytes]) -> None:
    """Write all buffers one behind the other from `offset` on; 512 at a time (IOV_MAX is 1024)."""
    pending = list(buffers)
    while pending:
        group = pending[:512]
        done = os.pwritev(descriptor, group, offset)
        offset += done
        for buffer in group:
            if done < len(buffer):
                pending[0] = buffer[done:]
                break
            done -= len(buffer)
            pending.pop(0)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
