"""Blocks by their location: from memory, a staged pack, the sealed disk cache or the storage.

Above: the volume's read. Below: `memory`, `staging`, `transfer.cache` (which fetches, single-flight), `keys.ring`.
Invariant: bytes leave here only after they authenticated as those of their block: whole blocks after their id was
computed again as well, parts of one after the tags of their segments. A frame of the disk cache that does not open is
fetched once more from the storage before it counts as damaged.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import trio
import zstandard

from infinitfs._native import room
from infinitfs.block.index import Location
from infinitfs.block.memory import OpenBlocks
from infinitfs.block.pack import object_key
from infinitfs.block.staging import Staging
from infinitfs.errors import DamagedFrame, DamagedObject, InfinitfsError
from infinitfs.keys.frame import (
    HEADER_SIZE,
    SEALED_SEGMENT_SIZE,
    SEGMENT_SIZE,
    FrameType,
    sealed_size,
    segment_span,
)
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.keys.xaes import TAG_SIZE, Series
from infinitfs.storage.base import Buffer
from infinitfs.transfer.background import together
from infinitfs.transfer.cache import PackCache
from infinitfs.transfer.files import Offload
from infinitfs.transfer.runs import Span

_log = logging.getLogger(__name__)

_READERS = 4  # that share the cache for what they will read next
_BREATH = 32  # segments that are opened at a time on the event loop, in some 120 us
_FRAMES = 4096  # of which the key is kept, 3 KiB each
_INLINE = 64 * 1024  # up to this many plain bytes a thread costs more than it spares the event loop

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Opening:
    """Frames of one pack that a reader opens and others wait for. Once `done`: the `blocks` by number, or the
    `error` it met, or neither where it was cancelled."""

    locations: list[Location] = field(default_factory=list)
    blocks: dict[int, Buffer] = field(default_factory=dict)
    error: InfinitfsError | None = None
    done: trio.Event = field(default_factory=trio.Event)


class Part(NamedTuple):
    """The bytes `[start, start + length)` of a block that opens in part."""

    location: Location
    start: int
    length: int


def _spans(part: Part) -> list[Span]:
    """Where in its pack the header of a part's frame is, and where the segments are that it lies in."""
    location = part.location
    first, _ = segment_span(location.length, part.start // SEGMENT_SIZE)
    last, size = segment_span(location.length, (part.start + part.length - 1) // SEGMENT_SIZE)
    return [(location.offset, HEADER_SIZE), (location.offset + first, last + size - first)]


def _first(sealed: Sequence[Buffer]) -> Buffer:
    return sealed[0]


def _open_run(frame: Series, number: int, sealed: Buffer, skip: int, out: memoryview) -> None:
    """Into `out` what consecutive segments have after their first `skip` bytes; `number` is that of the first. Raises
    DamagedFrame."""
    run = memoryview(sealed)
    position = 0
    for place in range(0, len(run), SEALED_SEGMENT_SIZE):
        segment = run[place : place + SEALED_SEGMENT_SIZE]
        target = out[position : position + SEGMENT_SIZE - skip]
        if len(target) + TAG_SIZE == len(segment):
            frame.open_into(number, segment, target)
        else:
            opened = room(max(len(segment) - TAG_SIZE, 0))
            frame.open_into(number, segment, opened)
            target[:] = memoryview(opened)[skip : skip + len(target)]
        position += len(target)
        number += 1
        skip = 0


class BlockReader:
    """`memory` bytes of open blocks are kept."""

    def __init__(self, ring: KeyRing, staging: Staging, cache: PackCache, memory: int, offload: Offload) -> None:
        self._ring = ring
        self._staging = staging
        self._cache = cache
        self._open = OpenBlocks(memory)
        self._offload = offload
        self._pending: dict[Location, _Opening] = {}
        self._frames: dict[tuple[str, int], Series] = {}  # of which parts were read, by pack and offset

    async def read(self, locations: Sequence[Location]) -> dict[int, Buffer]:
        """The plain bytes of each block, by block number.

        Raises DamagedObject (never wrong bytes), ObjectNotFound, StorageUnreachable, LocalDiskFailed. Concurrent
        readers of a block share one opening of it and its failure; where who opens it is cancelled, another does.
        """
        found: dict[int, Buffer] = {}
        missing: Sequence[Location] = locations
        while missing:
            mine: dict[str, _Opening] = {}
            awaited: list[tuple[Location, _Opening]] = []
            for location in missing:
                data = self._open.get(location.id)
                if data is not None:
                    found[location.block] = data
                    continue
                opening = self._pending.get(location)
                if opening is None:
                    opening = self._pending[location] = mine.setdefault(location.pack, _Opening())
                    opening.locations.append(location)
                awaited.append((location, opening))
            if len(mine) == 1:
                await self._lead(*mine.popitem())
            elif mine:
                async with together() as nursery:
                    for pack, opening in mine.items():
                        nursery.start_soon(self._lead, pack, opening)
            for location, opening in awaited:
                await opening.done.wait()
                if opening.error is not None:
                    raise type(opening.error)(**opening.error.fields) from opening.error
                if opening.blocks:
                    found[location.block] = opening.blocks[location.block]
            missing = [location for location, _ in awaited if location.block not in found]
        return found

    # --- parts of blocks ---

    def opens_in_part(self, location: Location) -> bool:
        """Whether its frame has the length of one in segments; of less than two it is as long as any other."""
        return location.size > SEGMENT_SIZE and location.length == sealed_size(location.size, segmented=True)

    def read_now(self, location: Location, start: int, length: int) -> Buffer | None:
        """`[start, start + length)` of a block where that takes no wait, else None: what is open, and segments that the
        kernel has in memory."""
        whole = self._open.get(location.id)
        if whole is not None:
            return memoryview(whole)[start : start + length]
        first, last = start // SEGMENT_SIZE, (start + length - 1) // SEGMENT_SIZE
        if first == last:
            segment = self._segment_now(location, first)
            start -= first * SEGMENT_SIZE
            return None if segment is None else memoryview(segment)[start : start + length]
        parts: list[Buffer] = []
        for number in range(first, last + 1):
            segment = self._segment_now(location, number)
            if segment is None:
                return None
            begin = number * SEGMENT_SIZE
            parts.append(memoryview(segment)[max(start - begin, 0) : start + length - begin])
        return b"".join(parts)

    def _segment_now(self, location: Location, number: int) -> Buffer | None:
        data = self._open.get((location.id, number))
        if data is not None:
            return data
        frame = self._frames.get((location.pack, location.offset))
        if frame is None and not self.opens_in_part(location):
            return None
        offset, size = segment_span(location.length, number)
        sealed = self._sealed_now(location, offset, size)
        if sealed is None:
            return None
        data = room(size - TAG_SIZE)
        try:
            frame = frame or self._frame_now(location)
            if frame is None:
                return None
            frame.open_into(number, sealed, data)
        except DamagedFrame:
            return None
        self._open.put((location.id, number), data)
        return data

    async def read_part(self, location: Location, start: int, length: int) -> Buffer | None:
        """As `read_now`, from wherever it is; None where only the whole block can be read, or tells what is wrong with
        it.

        Raises ObjectNotFound, StorageUnreachable, LocalDiskFailed.
        """
        data = self.read_now(location, start, length)
        if data is not None or not self.opens_in_part(location):
            return data
        out = memoryview(room(length))
        part = Part(location, start, length)
        try:
            frame = await self._sealed(location, _spans(part), partial(self._open_part, part, out), quick=True)
        except (DamagedFrame, DamagedObject):
            return None
        self._keep_frame(location, frame)
        return out

    def _open_part(self, part: Part, out: memoryview, sealed: Sequence[Buffer]) -> Series:
        header, run = sealed
        frame = self._ring.open_segments(Purpose.DATA, FrameType.BLOCK, part.location.id, header)
        number, skip = divmod(part.start, SEGMENT_SIZE)
        _open_run(frame, number, run, skip, out)
        return frame

    async def read_joined(self, parts: Sequence[Part]) -> memoryview | None:
        """Parts of blocks, one behind the other, each opened where it is to be: for who reads much of them. None and
        errors as of `read_part`.

        It is opened on the event loop, a little at a time: a thread would give up the interpreter's lock at each
        segment and wait for it after, which takes longer than to open it (measured: a file that is cached was read in
        1,050 us a MiB, and is in 450).
        """
        if not all(self.opens_in_part(part.location) for part in parts):
            return None
        joined = memoryview(room(sum(part.length for part in parts)))
        end = 0
        try:
            for part in parts:
                start, end = end, end + part.length
                await self._open_here(part, joined[start:end])
        except (DamagedFrame, DamagedObject):
            return None
        return joined

    async def _open_here(self, part: Part, out: memoryview) -> None:
        """Raises DamagedFrame."""
        location, start, length = part
        frame = self._frame_now(location)
        if frame is None:
            header = await self._sealed(location, [(location.offset, HEADER_SIZE)], _first, quick=False)
            frame = self._open_header(location, header)
        number, skip = divmod(start, SEGMENT_SIZE)
        position, rest = 0, memoryview(b"")
        while position < length:
            left = -(-(skip + length - position) // SEGMENT_SIZE)
            count = min(left, _BREATH)
            offset, _ = segment_span(location.length, number)
            size = min(count * SEALED_SEGMENT_SIZE, location.length - offset)
            if rest:
                sealed: Buffer | None = rest[:size]
            else:
                sealed = self._sealed_now(location, offset, size)
            if sealed is None:
                span = location.offset + offset, min(left * SEALED_SEGMENT_SIZE, location.length - offset)
                rest = memoryview(await self._sealed(location, [span], _first, quick=False))
                sealed = rest[:size]
            rest = rest[size:]
            upto = min(position + count * SEGMENT_SIZE - skip, length)
            _open_run(frame, number, sealed, skip, out[position:upto])
            position, number, skip = upto, number + count, 0
            if position < length:
                await trio.lowlevel.checkpoint()

    def _frame_now(self, location: Location) -> Series | None:
        frame = self._frames.get((location.pack, location.offset))
        if frame is None:
            header = self._sealed_now(location, 0, HEADER_SIZE)
            if header is not None:
                frame = self._open_header(location, header)
        return frame

    def _open_header(self, location: Location, header: Buffer) -> Series:
        frame = self._ring.open_segments(Purpose.DATA, FrameType.BLOCK, location.id, header)
        self._keep_frame(location, frame)
        return frame

    def _keep_frame(self, location: Location, frame: Series) -> None:
        if len(self._frames) >= _FRAMES:
            self._frames.clear()
        self._frames[location.pack, location.offset] = frame

    async def _lead(self, pack: str, opening: _Opening) -> None:
        try:
            opening.blocks = await self._open_from(pack, opening.locations)
        except InfinitfsError as error:
            opening.error = error
        finally:
            for location in opening.locations:
                del self._pending[location]
                if opening.blocks:
                    self._open.put(location.id, opening.blocks[location.block])
            opening.done.set()

    async def _open_from(self, pack: str, locations: list[Location]) -> dict[int, Buffer]:
        """The blocks of one pack. Damage is logged, once; not where the location is one of the time when the pack
        was open, for then it is old and not the pack damaged: the caller looks it up again."""
        try:
            return await self._open_or_fetch_again(pack, locations)
        except DamagedObject as error:
            if locations[0].pack_size or self._staging.holds(pack):
                _log.error("%s", error)
            raise

    async def _open_or_fetch_again(self, pack: str, locations: list[Location]) -> dict[int, Buffer]:
        try:
            return await self._open_frames(pack, locations)
        except DamagedFrame as error:
            if self._staging.holds(pack):
                raise DamagedObject(key=str(self._staging.path(pack)), reason=error.fields["reason"]) from error
        for location in locations:
            self._frames.pop((pack, location.offset), None)
            await self._cache.drop(pack, location.offset, location.length)
        try:
            return await self._open_frames(pack, locations)
        except DamagedFrame as error:
            key = object_key(self._ring.volume_id.hex(), pack)
            raise DamagedObject(key=key, reason=error.fields["reason"]) from error

    async def _open_frames(self, pack: str, locations: list[Location]) -> dict[int, Buffer]:
        spans = [(location.offset, location.length) for location in locations]
        quick = sum(location.size for location in locations) <= _INLINE
        return await self._sealed(locations[0], spans, partial(self._open_all, locations), quick=quick)

    def _sealed_now(self, location: Location, start: int, length: int) -> Buffer | None:
        """`[start, start + length)` of the frame of a block where the kernel has that in memory."""
        packs = self._staging if self._staging.holds(location.pack) else self._cache
        return packs.read_now(location.pack, location.offset + start, length)

    async def _sealed(
        self, location: Location, spans: list[Span], work: Callable[[Sequence[Buffer]], T], *, quick: bool
    ) -> T:
        """Read `spans` of the pack of `location` and `work` on them: in one thread, as both take a while, unless that
        is `quick`."""
        if self._staging.holds(location.pack):
            if quick:
                sealed = [data for span in spans if (data := self._staging.read_now(location.pack, *span)) is not None]
                if len(sealed) == len(spans):
                    return work(sealed)
            try:
                return await self._offload(lambda: work([self._staging.read(location.pack, *span) for span in spans]))
            except FileNotFoundError:
                pass  # acknowledged meanwhile, and moved into the cache
        return await self._cache.read(location.pack, location.pack_size, spans, work, quick=quick)

    def _open_all(self, locations: list[Location], frames: Sequence[Buffer]) -> dict[int, Buffer]:
        return {
            location.block: self._open_one(location, frame) for location, frame in zip(locations, frames, strict=True)
        }

    def _open_one(self, location: Location, frame: Buffer) -> Buffer:
        opened = self._ring.open(Purpose.DATA, FrameType.BLOCK, location.id, frame)
        if opened.compressed:
            try:
                if zstandard.frame_content_size(opened.payload) != location.size:
                    raise DamagedFrame(reason="its content is not as long as its block")
                data: Buffer = zstandard.ZstdDecompressor().decompress(opened.payload)
            except zstandard.ZstdError as error:
                raise DamagedFrame(reason=f"its content does not decompress: {error}") from None
        else:
            data = opened.payload
        if len(data) != location.size or self._ring.block_id(data) != location.id:
            raise DamagedFrame(reason="its content is not that of its block")
        return data

    async def forget(self) -> None:
        """Nothing of what was read is kept any more: the storage is asked again."""
        self._open.clear()
        self._frames.clear()
        await self._cache.clear()

    @property
    def room_ahead(self) -> int:
        """Bytes that one reader may have brought ahead without pushing out of the cache what it has not read yet."""
        return self._cache.limit // _READERS

    async def prefetch(self, locations: Iterable[Location]) -> None:
        """Bring the frames of these blocks into the disk cache, packs in parallel; a failure is left for the read to
        meet."""
        by_pack: dict[str, list[Location]] = {}
        for location in locations:
            if not self._staging.holds(location.pack) and location.id not in self._open:
                by_pack.setdefault(location.pack, []).append(location)
        async with together() as nursery:
            for pack, members in by_pack.items():
                spans = [(member.offset, member.length) for member in members]
                nursery.start_soon(self._cache.prefetch, pack, members[0].pack_size, spans)
