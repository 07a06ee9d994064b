"""Blocks by their location: from memory, a staged pack, the sealed disk cache or the storage.

Above: the volume's read. Below: `memory`, `staging`, `transfer.cache` (which fetches, single-flight), `keys.ring`.
Invariant: bytes leave here only after their frame authenticated and their id was computed again; a frame of the disk
cache that does not open is fetched once more from the storage before it counts as damaged.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import partial

import trio
import zstandard

from infinitfs.block.index import Location
from infinitfs.block.memory import OpenBlocks
from infinitfs.block.pack import object_key
from infinitfs.block.staging import Staging
from infinitfs.errors import DamagedFrame, DamagedObject, InfinitfsError
from infinitfs.keys.frame import FrameType
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.transfer.cache import PackCache
from infinitfs.transfer.files import Offload

_log = logging.getLogger(__name__)

_INLINE = 64 * 1024  # below this many sealed bytes a thread costs more than it spares the event loop


class BlockReader:
    """`memory` bytes of open blocks are kept."""

    def __init__(self, ring: KeyRing, staging: Staging, cache: PackCache, memory: int, offload: Offload) -> None:
        self._ring = ring
        self._staging = staging
        self._cache = cache
        self._open = OpenBlocks(memory)
        self._offload = offload
        self._pending: dict[int, trio.Event] = {}

    async def read(self, locations: Sequence[Location]) -> dict[int, bytes]:
        """The plain bytes of each block, by block number.

        Raises DamagedObject (never wrong bytes), ObjectNotFound, StorageUnreachable. Concurrent readers of a block
        wait for one opening of it; one whose opening failed or was cancelled is tried again by those who waited.
        """
        found: dict[int, bytes] = {}
        missing = []
        for location in locations:
            data = self._open.get(location.block)
            if data is None:
                missing.append(location)
            else:
                found[location.block] = data
        while missing:
            mine = [location for location in missing if location.block not in self._pending]
            if mine:
                found |= await self._open_mine(mine)
            waiting = [location for location in missing if location.block not in found]
            for location in waiting:
                event = self._pending.get(location.block)
                if event is not None:
                    await event.wait()
                data = self._open.get(location.block)
                if data is not None:
                    found[location.block] = data
            missing = [location for location in waiting if location.block not in found]
        return found

    async def _open_mine(self, locations: list[Location]) -> dict[int, bytes]:
        event = trio.Event()
        for location in locations:
            self._pending[location.block] = event
        opened: dict[int, bytes] = {}
        try:
            by_pack: dict[str, list[Location]] = {}
            for location in locations:
                by_pack.setdefault(location.pack, []).append(location)
            for pack, members in by_pack.items():
                opened |= await self._open_from(pack, members)
        finally:
            for location in locations:
                del self._pending[location.block]
            for block, data in opened.items():
                self._open.put(block, data)
            event.set()
        return opened

    async def _open_from(self, pack: str, locations: list[Location]) -> dict[int, bytes]:
        try:
            return await self._open_frames(locations, await self._sealed(pack, locations))
        except DamagedFrame:
            if self._staging.holds(pack):
                raise self._damaged(str(self._staging.path(pack))) from None
        for location in locations:
            await self._cache.drop(pack, location.offset, location.length)
        try:
            return await self._open_frames(locations, await self._sealed(pack, locations))
        except DamagedFrame as error:
            raise self._damaged(object_key(self._ring.volume_id.hex(), pack), error) from None
        except DamagedObject as error:
            _log.error("%s", error)
            raise

    def _damaged(self, key: str, cause: DamagedFrame | None = None) -> InfinitfsError:
        reason = cause.fields["reason"] if cause is not None else "a frame does not open"
        error = DamagedObject(key=key, reason=reason)
        _log.error("%s", error)
        return error

    async def _sealed(self, pack: str, locations: list[Location]) -> list[bytes]:
        spans = [(location.offset, location.length) for location in locations]
        if self._staging.holds(pack):
            try:
                return await self._offload(
                    lambda: [self._staging.read(pack, offset, length) for offset, length in spans]
                )
            except FileNotFoundError:
                pass  # acknowledged meanwhile, and moved into the cache
        return await self._cache.read(pack, locations[0].pack_size, spans)

    async def _open_frames(self, locations: list[Location], frames: list[bytes]) -> dict[int, bytes]:
        if sum(map(len, frames)) <= _INLINE:
            return self._open_all(locations, frames)
        return await self._offload(partial(self._open_all, locations, frames))

    def _open_all(self, locations: list[Location], frames: list[bytes]) -> dict[int, bytes]:
        return {
            location.block: self._open_one(location, frame) for location, frame in zip(locations, frames, strict=True)
        }

    def _open_one(self, location: Location, frame: bytes) -> bytes:
        opened = self._ring.open(Purpose.DATA, FrameType.BLOCK, location.id, frame)
        if opened.compressed:
            try:
                if zstandard.frame_content_size(opened.payload) != location.size:
                    raise DamagedFrame(reason="its content is not as long as its block")
                data = zstandard.ZstdDecompressor().decompress(opened.payload)
            except zstandard.ZstdError as error:
                raise DamagedFrame(reason=f"its content does not decompress: {error}") from None
        else:
            data = bytes(opened.payload)
        if len(data) != location.size or self._ring.block_id(data) != location.id:
            raise DamagedFrame(reason="its content is not that of its block")
        return data

    async def prefetch(self, locations: Iterable[Location]) -> None:
        """Bring the frames of these blocks into the disk cache; a failure is left for the read to meet."""
        by_pack: dict[str, list[Location]] = {}
        for location in locations:
            if not self._staging.holds(location.pack) and self._open.get(location.block) is None:
                by_pack.setdefault(location.pack, []).append(location)
        for pack, members in by_pack.items():
            await self._cache.prefetch(pack, members[0].pack_size, [(m.offset, m.length) for m in members])
