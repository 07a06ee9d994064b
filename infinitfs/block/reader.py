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
from typing import TypeVar

import trio
import zstandard

from infinitfs.block.index import Location
from infinitfs.block.memory import OpenBlocks
from infinitfs.block.pack import object_key
from infinitfs.block.staging import Staging
from infinitfs.errors import DamagedFrame, DamagedObject, InfinitfsError
from infinitfs.keys.frame import HEADER_SIZE, SEGMENT_SIZE, FrameType, sealed_size, segment_span
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.storage.base import Buffer
from infinitfs.transfer.background import together
from infinitfs.transfer.cache import PackCache
from infinitfs.transfer.files import Offload
from infinitfs.transfer.runs import Span

_log = logging.getLogger(__name__)

_READERS = 4  # that share the cache for what they will read next
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


class BlockReader:
    """`memory` bytes of open blocks are kept."""

    def __init__(self, ring: KeyRing, staging: Staging, cache: PackCache, memory: int, offload: Offload) -> None:
        self._ring = ring
        self._staging = staging
        self._cache = cache
        self._open = OpenBlocks(memory)
        self._offload = offload
        self._pending: dict[Location, _Opening] = {}

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

    async def read_part(self, location: Location, start: int, length: int) -> bytes | memoryview | None:
        """`[start, start + length)` of a block without the rest of it, for who reads here and there; None where only
        the whole block can be read, or tells what is wrong with it.

        Raises ObjectNotFound, StorageUnreachable, LocalDiskFailed, and DamagedObject where the pack is too short.
        """
        whole = self._open.get(location.id)
        if whole is not None:
            return memoryview(whole)[start : start + length]
        if location.length != sealed_size(location.size, segmented=True):
            return None
        first, last = start // SEGMENT_SIZE, (start + length - 1) // SEGMENT_SIZE
        numbers = range(first, last + 1)
        found = {number: data for number in numbers if (data := self._open.get((location.id, number))) is not None}
        missing = [number for number in numbers if number not in found]
        if missing:
            spans = [(location.offset, HEADER_SIZE)]
            for number in missing:
                offset, size = segment_span(location.length, number)
                spans.append((location.offset + offset, size))
            try:
                opened = await self._sealed(location, spans, partial(self._open_part, location.id, missing), quick=True)
            except DamagedFrame:
                return None
            for number, data in opened.items():
                self._open.put((location.id, number), data)
                found[number] = data
        parts = []
        for number in numbers:
            begin = number * SEGMENT_SIZE
            parts.append(memoryview(found[number])[max(start - begin, 0) : start + length - begin])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _open_part(self, id: bytes, numbers: list[int], sealed: Sequence[Buffer]) -> dict[int, memoryview]:
        header, *segments = sealed
        return self._ring.open_segments(
            Purpose.DATA, FrameType.BLOCK, id, header, dict(zip(numbers, segments, strict=True))
        )

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

    async def _sealed(
        self, location: Location, spans: list[Span], work: Callable[[Sequence[Buffer]], T], *, quick: bool
    ) -> T:
        """Read `spans` of the pack of `location` and `work` on them: in one thread, as both take a while, unless that
        is `quick`."""
        if self._staging.holds(location.pack):
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
