"""Staged packs: frames on this machine's disk, on their way to the storage.

Above: `block.writer` appends, `block.reader` reads, the volume's publisher uploads closed packs. Below: `growing`:
files in one folder, one a pack, named by the pack.
Invariant: a frame is durable once `append` has returned, and its pack's name too (the folder is synced when a pack is
begun). Bytes behind the last frame the index knows mean nothing: `reopen` cuts them off. A pack is never changed
once it is full or closed. Nothing here runs on the event loop but dictionary look-ups, and reads that do not wait; disk
work is in threads.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from infinitfs.block.growing import GrowingFiles
from infinitfs.block.index import NewFrame
from infinitfs.block.pack import Entry
from infinitfs.errors import InfinitfsError, LocalDiskFailed
from infinitfs.storage.base import Buffer
from infinitfs.transfer.files import Offload, OpenFiles, remove

SealIndex = Callable[[str, Sequence[Entry]], bytes]

_READ = 32  # packs that are kept open for who reads them
_NONE = -1  # the descriptor of a pack that has no file yet, or is full


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
        self._files = GrowingFiles(folder)
        self._name = name
        self._seal_index = seal_index
        self._offload = offload
        self._sizes: dict[str, int] = {}
        self._full: dict[str, int] = {}  # have got their index, and are to be closed once their frames are known
        self._ended = 0  # bytes of both
        self._open: _OpenPack | None = None
        self._made: set[str] = set()  # by this process, so that to open them again takes no wait
        self._read = OpenFiles[str](_READ)

    @property
    def waiting(self) -> int:
        """What waits here for the storage."""
        return self._ended + self.open_size

    @property
    def packs(self) -> int:
        return len(self._sizes) + len(self._full) + (self._open is not None)

    @property
    def open_size(self) -> int:
        """Bytes in the pack that is being filled, 0 without one."""
        return self._open.size if self._open else 0

    @property
    def open_frames(self) -> int:
        """Frames in that pack."""
        return len(self._open.entries) if self._open else 0

    def path(self, pack: str) -> Path:
        return self._files.folder / pack

    def holds(self, pack: str) -> bool:
        return pack in self._sizes or pack in self._full or (self._open is not None and self._open.name == pack)

    def closed(self) -> list[str]:
        return list(self._sizes)

    async def append(self, frames: Sequence[tuple[bytes, int, Buffer]], *, full: bool = False) -> list[NewFrame]:
        """Make frames, given as (block id, plain size, sealed bytes), durable in the open pack. With `full` they are
        its last ones, and one sync does for them and the index that ends the pack: `close_full` is to follow.

        One at a time (the volume's flush lock). A cancelled caller waits for the disk: an append is whole. Raises
        NoSpace, with the pack as it was before; LocalDiskFailed where the disk fails otherwise.
        """
        pack = self._open or _OpenPack(self._name(), _NONE, 0, [])
        written, size = await self._offload(partial(self._append, pack, frames, full))
        self._made.add(pack.name)
        if full:
            self._open = None
            self._full[pack.name] = size
            self._ended += size
        else:
            self._open = pack
            pack.entries.extend(written)
            pack.size = size
        return _new_frames(written, pack)

    async def append_pack(self, frames: Sequence[tuple[bytes, int, Buffer]]) -> list[NewFrame]:
        """As `append` does for the last frames of a pack, to one that has no others: any number of times at once, and
        beside `append`."""
        pack = _OpenPack(self._name(), _NONE, 0, [])
        written, size = await self._offload(partial(self._append, pack, frames, True))
        self._full[pack.name] = size
        self._ended += size
        self._made.add(pack.name)
        return _new_frames(written, pack)

    def _append(
        self, pack: _OpenPack, frames: Sequence[tuple[bytes, int, Buffer]], full: bool
    ) -> tuple[list[Entry], int]:
        """What was written, and how long the pack is then."""
        written = []
        offset = pack.size
        for block, size, frame in frames:
            written.append(Entry(block, offset, len(frame), size))
            offset += len(frame)
        ending = self._seal_index(pack.name, [*pack.entries, *written]) if full else b""
        new = pack.descriptor == _NONE
        descriptor = self._files.create(pack.name) if new else pack.descriptor
        try:
            self._files.extend(descriptor, pack.size, [*(frame for _, _, frame in frames), ending])
        except InfinitfsError:
            if new:
                os.close(descriptor)
                remove([self.path(pack.name)])
            raise
        if full:
            os.close(descriptor)
        pack.descriptor = _NONE if full else descriptor
        return written, offset + len(ending)

    def is_full(self, pack: str) -> bool:
        return pack in self._full

    def close_full(self, pack: str) -> int:
        """The frames of a full pack are known now; returns its size in bytes."""
        size = self._sizes[pack] = self._full.pop(pack)
        return size

    async def close_packs(self) -> list[tuple[str, int]]:
        """End the open pack with its sealed index. Returns names and sizes in bytes: of that, and of full ones that
        nobody has closed.

        Raises as `append` does; the pack is then still open.
        """
        if self._open is not None:
            await self.append([], full=True)
        return [(pack, self.close_full(pack)) for pack in list(self._full)]

    def read(self, pack: str, offset: int, length: int) -> bytes:
        """The sealed bytes `[offset, offset + length)`; blocking, so for a thread.

        Raises FileNotFoundError where the pack was released meanwhile, LocalDiskFailed.
        """
        return self._files.read(pack, offset, length)

    def read_now(self, pack: str, offset: int, length: int) -> Buffer | None:
        """As `read`, without a wait: where the kernel has the bytes in memory, else None."""
        return self._read.read_now(pack, self.path(pack), offset, length) if pack in self._made else None

    def release(self, pack: str) -> None:
        """Forget a pack: its file was moved into the cache, or removed."""
        self._ended -= self._sizes.pop(pack, 0)
        self._made.discard(pack)
        self._read.close(pack)

    def recover(self, known: dict[str, tuple[int, list[Entry]]]) -> list[str]:
        """Take over what an earlier process left; blocking, before anything else runs.

        `known` says of each pack the index refers to that is not acknowledged by the storage: its size if it was
        closed, else 0, and the frames of an open one. Returns the open ones, for `reopen`; files that the index does
        not know are removed. Raises LocalDiskFailed where a known pack is missing or short.
        """
        left_open = []
        with self._files.errors():
            remove(path for path in list(self._files.folder.iterdir()) if path.name not in known)
        for name, (size, entries) in known.items():
            need = size or _end(entries)
            try:
                there = self.path(name).stat().st_size
            except FileNotFoundError:
                raise LocalDiskFailed(path=str(self.path(name)), reason="a pack that was synced is missing") from None
            except OSError as error:
                raise self._files.failure(error) from error
            if there < need:
                raise LocalDiskFailed(path=str(self.path(name)), reason=f"{need} bytes were synced, {there} are there")
            if size:
                self._sizes[name] = size
                self._ended += size
            else:
                left_open.append(name)
        return left_open

    def reopen(self, name: str, entries: list[Entry]) -> None:
        """Go on with an open pack of an earlier process, cut behind its last known frame; blocking."""
        with self._files.errors():
            descriptor = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC)
            self._open = _OpenPack(name, descriptor, _end(entries), list(entries))
            os.ftruncate(descriptor, self._open.size)

    def close(self) -> None:
        """Release the open file; what it holds is durable already."""
        if self._open is not None and self._open.descriptor != _NONE:
            os.close(self._open.descriptor)
        self._open = None
        self._read.close_all()


def _new_frames(written: Sequence[Entry], pack: _OpenPack) -> list[NewFrame]:
    return [NewFrame(e.id, pack.name, e.offset, e.length, e.size) for e in written]


def _end(entries: Sequence[Entry]) -> int:
    return max((entry.offset + entry.length for entry in entries), default=0)
