"""Giving space back: packs in which no block is referred to any more.

Above: `volume.Volume`. Below: `leftovers`, which finds packs that nothing names; `database`, `publisher`, `transfer`.
Invariant: a DELETE is sent only for packs whose condemn record the storage has acknowledged, and a pack is forgotten
only after its DELETE; both are records of the journal, so whoever owns the volume next goes on where this one
stopped. From the condemn step on nobody deduplicates against the pack: its blocks are gone from the index.
"""

import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from infinitfs.block.pack import object_key as pack_key
from infinitfs.errors import InfinitfsError
from infinitfs.transfer.base import Transfer
from infinitfs.transfer.cache import PackCache
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.database import Database
from infinitfs.volume.leftovers import Leftovers
from infinitfs.volume.publisher import Publisher

_log = logging.getLogger(__name__)

INTERVAL = 3600.0  # seconds
_SEARCH = 24  # one run in so many lists all packs: a request for every 1000 of them


class Freed(NamedTuple):
    """How many packs were deleted, and their bytes."""

    packs: int
    bytes: int


class Collector:
    def __init__(
        self,
        *,
        volume: str,
        database: Database,
        blocks: Blocks,
        publisher: Publisher,
        leftovers: Leftovers,
        transfer: Transfer,
        cache: PackCache,
        flush_lock: trio.Lock,
    ) -> None:
        self._volume = volume
        self._database = database
        self._blocks = blocks
        self._publisher = publisher
        self._leftovers = leftovers
        self._transfer = transfer
        self._cache = cache
        self._flush_lock = flush_lock
        self._running = trio.Lock()
        self._run = trio.CancelScope()
        self._held = False

    async def run(self) -> None:
        """Free what is dead once in INTERVAL; what fails is tried again by the next run."""
        for number in itertools.count():
            await trio.sleep(INTERVAL)
            try:
                freed = await self.collect(search=number % _SEARCH == 0)
            except InfinitfsError as error:
                _log.info("Nothing is freed now: %s", error)
                continue
            if freed.packs:
                _log.info("Freed %d packs, %d bytes.", *freed)

    async def collect(self, *, search: bool = True) -> Freed:
        """Free every pack that is dead now, also those an earlier run condemned; with `search`, what nothing names."""
        freed = Freed(0, 0)
        async with self._running:
            with trio.CancelScope() as self._run:
                if self._held:
                    return freed
                await self._publisher.publish_all()
                if search:
                    await self._leftovers.hand_over()
                last = 0
                while (condemned := await self._condemn(last)) is not None:
                    last = condemned
                    if self._publisher.has_gathered:
                        await self._publisher.cut()
                await self._publisher.publish_all()
                for pack, name, size in self._database.rows(
                    "SELECT pack, name, size FROM packs WHERE condemned <= ?", (self._publisher.position,)
                ):
                    await self._transfer.delete(pack_key(self._volume, bytes(name).hex()))
                    await self._cache.discard(bytes(name).hex())
                    self._database.begin()
                    self._database.connection.execute("DELETE FROM packs WHERE pack = ?", (pack,))
                    self._blocks.stored -= size
                    freed = Freed(freed.packs + 1, freed.bytes + size)
                await self._publisher.publish_all()
        return freed

    async def _condemn(self, after: int) -> int | None:
        """Condemn the next dead pack, None without one. Of all at once the changes may not fit into a record."""
        async with self._flush_lock:  # held by a flush between finding a block and referring to it
            self._database.commit()  # what a flush has just brought to life is counted with its transaction
            dead = self._database.row(
                "SELECT pack FROM packs WHERE live = 0 AND pack > ? AND size > 0 AND condemned IS NULL"
                " AND name NOT IN (SELECT pack FROM staged) ORDER BY pack LIMIT 1",
                (after,),
            )
            if dead is None:
                return None
            self._database.begin()
            connection = self._database.connection
            connection.execute("UPDATE packs SET condemned = ? WHERE pack = ?", (self._database.position, *dead))
            connection.execute("DELETE FROM blocks WHERE pack = ?", dead)
        return int(dead[0])

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """From now on nothing is freed, and a run that goes on has ended in the block: what it has condemned is left to
        the next owner."""
        self._held = True
        self._run.cancel()
        async with self._running:
            yield
