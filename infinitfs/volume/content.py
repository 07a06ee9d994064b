"""What files contain: reading it, and bringing what will be read next.

Above: `volume.Volume`. Below: `blocks` (where the extents of a file lie), `block.reader` (what is in them),
`file.file` (what is in memory only).
Invariant: a read sees one moment of a file: what a flush moves from memory to the extents lies over these until all of
it is there.
"""

from contextlib import suppress
from typing import NamedTuple

import trio

from infinitfs.block.index import Location
from infinitfs.block.reader import BlockReader, Part
from infinitfs.errors import DamagedObject, InfinitfsError, ObjectNotFound
from infinitfs.file.extents import Extent
from infinitfs.file.file import File
from infinitfs.storage.base import Buffer
from infinitfs.transfer.background import together
from infinitfs.volume.blocks import Blocks

_PREFETCHES = 32  # ranges on their way into the cache at a time, for all readers
_PART = 64 * 1024  # bytes of a block; to read more of it alone spares little
_MUCH = 128 * 1024  # bytes; who reads less at a time, one after the other, has each block opened once for all reads

Overlay = list[tuple[int, bytes | memoryview]]


class _Ahead(NamedTuple):
    """A range of a file that is fetched before it is read, and where it lies."""

    start: int
    end: int
    locations: list[Location]


class Content:
    """Of every file of a volume."""

    def __init__(self, blocks: Blocks, reader: BlockReader) -> None:
        self._blocks = blocks
        self._reader = reader
        self._nursery: trio.Nursery | None = None
        self._prefetching = 0

    async def run(self) -> None:
        """Until it is cancelled, readers have what comes next brought to them."""
        async with together() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    async def forget(self) -> None:
        """Nothing that the storage has is kept here any more."""
        await self._reader.forget()

    async def read(self, file: File, offset: int, length: int) -> Buffer:
        """Up to `length` bytes from `offset` on, fewer at the end of the file.

        Raises DamagedObject, ObjectNotFound, StorageUnreachable; a plan that compaction, gc or an upload made stale
        meanwhile is made again.
        """
        length = min(length, file.size - offset)
        if length <= 0:
            return b""
        if file.read_ahead.advance(offset, length):
            self._read_ahead(file)
        elif length <= _PART and not file.needs_flush:
            part = self._read_now(file, offset, length)
            if part is not None:
                return part
        while True:
            plan, overlay = self._plan(file, offset, length), file.overlay(offset, length)
            try:
                parts = None if overlay else await self._read_parts(file, plan, offset, length)
                if parts is not None:
                    return parts
                opened = await self._reader.read(list({where.block: where for _, where in plan}.values()))
                break
            except (DamagedObject, ObjectNotFound):
                if plan == self._plan(file, offset, length):
                    raise
        return _assemble(plan, opened, overlay, offset, length)

    def _read_now(self, file: File, offset: int, length: int) -> Buffer | None:
        """Little of one block, without a wait: for who jumps through a file all the time."""
        found = self._blocks.covering(file.ino, offset, offset + length)
        if found is None:
            return None
        extent, where = found
        return self._reader.read_now(where, extent.skip + offset - extent.offset, length)

    def _plan(self, file: File, offset: int, length: int) -> list[tuple[Extent, Location]]:
        """The stored extents of a range, none of them where all of it is in memory."""
        if sum(len(chunk) for _, chunk in file.dirty.overlay(offset, length)) == length:
            return []
        return self._blocks.extents(file.ino, offset, offset + length)

    async def _read_parts(
        self, file: File, plan: list[tuple[Extent, Location]], offset: int, length: int
    ) -> Buffer | None:
        """Little, for who jumps through the file, or much without a copy. None for others, and where blocks open whole
        only or have holes between them."""
        parts = [
            Part(
                where,
                extent.skip + max(offset - extent.offset, 0),
                min(extent.end, offset + length) - max(extent.offset, offset),
            )
            for extent, where in plan
        ]
        if sum(part.length for part in parts) < length:
            return None
        if length <= _PART and file.read_ahead.jumped:
            return await self._read_each(parts)
        return await self._reader.read_joined(parts) if length >= _MUCH else None

    async def _read_each(self, parts: list[Part]) -> Buffer | None:
        """One part, or the two that little has where blocks meet."""
        opened: list[Buffer] = []
        for part in parts:
            piece = await self._reader.read_part(*part)
            if piece is None:
                return None
            opened.append(piece)
        return opened[0] if len(opened) == 1 else b"".join(opened)

    def _read_ahead(self, file: File) -> None:
        while self._nursery is not None and (ahead := self._take(file)) is not None:
            self._nursery.start_soon(self._prefetch, file, ahead)

    def _take(self, file: File) -> _Ahead | None:
        if self._prefetching >= _PREFETCHES:
            return None
        taken = file.read_ahead.take(file.size, self._reader.room_ahead)
        if taken is None:
            return None
        self._prefetching += 1
        start, end = taken
        found: list[tuple[Extent, Location]] = []
        with suppress(InfinitfsError):
            found = self._blocks.extents(file.ino, start, end)
            if found and end < file.size:
                extent, last = found[-1]
                rest = max(last.pack_size - last.offset - last.length, 0)  # what follows in its pack, and no more
                behind = self._blocks.extents(file.ino, end, min(extent.end + rest, 2 * end - start))
                found += (each for each in behind if each[0].offset >= end)
        upto = _end_of_pack(found, end, file.size)
        file.read_ahead.stretch(end, upto)
        return _Ahead(start, upto, [where for extent, where in found if extent.offset < upto])

    async def _prefetch(self, file: File, first: _Ahead) -> None:
        """Bring a range, then what may follow now that it has arrived, unless nobody reads any more. A failure, of the
        local database too, is left for the read to meet."""
        ahead: _Ahead | None = first
        while ahead is not None:
            began = trio.current_time()
            try:
                with suppress(InfinitfsError):
                    await self._reader.prefetch(ahead.locations)
            finally:
                file.read_ahead.arrived(ahead.start, ahead.end, trio.current_time() - began)
                self._prefetching -= 1
            ahead = self._take(file) if file.opens else None


def _end_of_pack(found: list[tuple[Extent, Location]], end: int, size: int) -> int:
    """Where the part of a file ends that is in the pack in which `end` is, else `end`: if it is not among the extents
    `found`. A request more for the rest of a pack costs as much as one for all of it."""
    pack, upto = "", end
    for extent, where in found:
        if extent.offset >= end and where.pack != pack:
            return upto
        pack, upto = where.pack, max(extent.end, end)
    return size if upto >= size else end


def _assemble(
    plan: list[tuple[Extent, Location]],
    opened: dict[int, Buffer],
    overlay: Overlay,
    offset: int,
    length: int,
) -> Buffer:
    """One buffer of the range; without a copy where one piece is all of it."""
    end = offset + length
    pieces: list[tuple[int, bytes | memoryview]] = []
    for extent, where in plan:
        lower, upper = max(extent.offset, offset), min(extent.end, end)
        skip = extent.skip + lower - extent.offset
        pieces.append((lower, memoryview(opened[where.block])[skip : skip + upper - lower]))
    if not overlay and sum(len(piece) for _, piece in pieces) == length:  # extents do not overlap: no hole
        return pieces[0][1] if len(pieces) == 1 else b"".join(piece for _, piece in pieces)
    pieces += overlay
    if pieces and len(pieces[-1][1]) == length:
        return pieces[-1][1]
    buffer = bytearray(length)
    for start, piece in pieces:
        buffer[start - offset : start - offset + len(piece)] = piece
    return memoryview(buffer)
