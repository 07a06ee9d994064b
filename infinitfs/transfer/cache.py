"""The sealed disk cache of packs.

Above: `block/`, which asks for the frames of a pack. Below: a `base.Transfer` that brings what is missing;
`runs`.
Invariant: what a run holds is what the storage held, though it may not open after a power cut (nothing here
is synced): `drop` forgets it and the next read asks the storage. A run that is being read or fetched is not
evicted; of the others the least recently used go while there are more bytes than `limit`, which is what was asked
for or, where the disk is low, what leaves enough of it to others.

A pack is fetched in sectors of SECTOR bytes; sectors that lie side by side and are missing arrive as one
run, in one request and one file. An adopted pack is one run.
"""

import contextlib
import itertools
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from infinitfs.errors import DamagedObject, InfinitfsError, LocalFileFailed, NoSpace
from infinitfs.storage.base import Buffer
from infinitfs.transfer.background import background
from infinitfs.transfer.base import Transfer
from infinitfs.transfer.files import Offload, OpenFiles, Threads, remove
from infinitfs.transfer.runs import (
    SECTOR,
    Piece,
    Run,
    RunGone,
    Span,
    adjacent,
    incoming_path,
    move,
    pieces_of,
    read_spans,
    run_path,
    scan,
    sectors_of,
)

_ATTEMPTS = 3  # at files that vanish or are cut short under us, before the storage is read directly
_THREADS = 8
_OPEN = 128  # files of runs that are kept open
_NOW = 128 * 1024  # bytes: copying more from the kernel's page cache takes longer than the event loop should wait
_LOOK = 2.0  # seconds between two looks at the disk, which others fill as well

T = TypeVar("T")


class PackCache:
    """Made by `open_cache`. `limit` and `used` in bytes, those on their way included; `hits` and `misses`
    in spans."""

    def __init__(
        self,
        folder: Path,
        limit: int,
        transfer: Transfer,
        key_of: Callable[[str], str],
        nursery: trio.Nursery,
        offload: Offload,
        spare: Callable[[], int],
    ) -> None:
        self.limit = limit
        self._most = limit
        self._spare = spare
        self.used = 0
        self.hits = 0
        self.misses = 0
        self._folder = folder
        self._transfer = transfer
        self._key_of = key_of
        self._nursery = nursery
        self._offload = offload
        self._packs: dict[str, list[Run]] = {}
        self._order: OrderedDict[Run, None] = OrderedDict()  # least recently used first
        self._open = OpenFiles[Run](_OPEN)
        self._serials = itertools.count()
        self._doomed: list[Path] = []
        self._excess = trio.Event()

    # --- what upper layers ask ---

    async def read(
        self, pack: str, size: int, spans: Sequence[Span], work: Callable[[Sequence[Buffer]], T], *, quick: bool
    ) -> T:
        """What `work` makes of the sealed bytes of `spans` (offset, length) of a pack of `size` bytes, which come
        from the disk or the storage. It runs in the thread that reads them, one hop for both; work that is `quick`
        at once where the bytes are in the kernel's memory.

        Concurrent readers of a sector wait for one request, which goes on when one of them is cancelled.
        Raises what `work`, `Transfer.download` and `get` raise; DamagedObject where the pack is too short for
        a span.
        """
        self._check(pack, size, spans)
        if quick and sum(length for _, length in spans) <= _NOW:
            sealed = [data for span in spans if (data := self._read_now(pack, *span)) is not None]
            if len(sealed) == len(spans):
                self.hits += len(spans)
                return work(sealed)
        self._count(pack, size, spans)
        for _ in range(_ATTEMPTS):
            async with self._held(pack, size, spans) as held:
                wanted = [pieces_of(held, span) for span in spans]
                try:
                    return await self._offload(partial(_work_on, wanted, work))
                except RunGone as gone:
                    self._forget(gone.runs)
            await self._sweep()
        key = self._key_of(pack)
        got = [await self._transfer.get(key, offset, length) for offset, length in spans]
        return await self._offload(partial(work, got))

    def read_now(self, pack: str, offset: int, length: int) -> Buffer | None:
        """The sealed bytes `[offset, offset + length)` of a pack where they are in the kernel's memory, else None
        (preadv2(2), RWF_NOWAIT)."""
        data = self._read_now(pack, offset, length)
        self.hits += data is not None
        return data

    def _read_now(self, pack: str, offset: int, length: int) -> Buffer | None:
        for run in self._packs.get(pack, ()):
            if run.start <= offset and offset + length <= run.start + run.length:
                break
        else:
            return None
        if run.data is not None:
            return memoryview(run.data)[offset - run.start : offset - run.start + length]
        if run.path is None or not run.warm:
            return None
        data = self._open.read_now(run, run.path, offset - run.start, length)
        if data is not None:
            self._order.move_to_end(run)
        return data

    def close(self) -> None:
        """Nothing is open any more; what is read after this opens it again."""
        self._open.close_all()

    async def prefetch(self, pack: str, size: int, spans: Sequence[Span]) -> None:
        """Bring `spans` into the cache. A failure is left for the read to meet."""
        if self.limit:
            with contextlib.suppress(InfinitfsError):
                self._check(pack, size, spans)
                async with self._held(pack, size, spans):
                    pass

    async def adopt(self, pack: str, path: Path) -> None:
        """Take over the file of a whole pack that the storage has. Where that cannot be, the file is
        unlinked."""
        target = run_path(self._folder, pack, 0, next(self._serials))
        try:
            size = await self._offload(partial(move, path, target))
        except (NoSpace, LocalFileFailed):
            return
        self._forget(run for run in self._packs.get(pack, ()) if run.ready.is_set())
        run = Run(pack, 0, size, path=target, warm=True)
        run.ready.set()
        self._add(run)
        self._look_at_limit()
        await self._sweep()

    async def drop(self, pack: str, offset: int, length: int) -> None:
        """Forget what covers a span, because it did not open: the next read asks the storage."""
        found = [run for run in self._packs.get(pack, ()) if run.start < offset + length and offset < run.end]
        self._forget(run for run in found if run.ready.is_set())
        await self._sweep()

    async def discard(self, pack: str) -> None:
        """Forget a pack that is no longer in the storage."""
        self._forget(run for run in self._packs.get(pack, ()) if run.ready.is_set())
        await self._sweep()

    def look_at_disk(self) -> None:
        """Something takes room there: soon the cache is no larger than the disk allows."""
        self._excess.set()

    async def clear(self) -> None:
        """Forget all that nobody is reading."""
        self._trim(0)
        await self._sweep()

    # --- which runs there are: no await between a look and the change it leads to ---

    def _check(self, pack: str, size: int, spans: Sequence[Span]) -> None:
        end = max((offset + length for offset, length in spans), default=0)
        if end > size:
            raise DamagedObject(key=self._key_of(pack), reason=f"it has {size} bytes and {end} are needed")

    def _count(self, pack: str, size: int, spans: Sequence[Span]) -> None:
        """Hits and misses."""
        for span in spans:
            found = [self._covering(pack, size, sector) for sector in sectors_of([span])]
            missed = any(run is None or not run.ready.is_set() or run.error is not None for run in found)
            self.misses += missed
            self.hits += not missed

    def _covering(self, pack: str, size: int, sector: int) -> Run | None:
        """The run that holds all of a sector, rather one that has arrived."""
        start, end = sector * SECTOR, min((sector + 1) * SECTOR, size)
        found = [run for run in self._packs.get(pack, ()) if run.start <= start and end <= run.end]
        return max(found, key=lambda run: run.ready.is_set(), default=None)

    @contextlib.asynccontextmanager
    async def _held(self, pack: str, size: int, spans: Sequence[Span]) -> AsyncIterator[list[Run]]:
        """The runs that cover `spans`, arrived and pinned. Raises the error of one that could not be
        fetched."""
        held: dict[Run, None] = {}
        missing = []
        for sector in sectors_of(spans):
            run = self._covering(pack, size, sector)
            if run is None:
                missing.append(sector)
            else:
                held[run] = None
        for first, count in adjacent(missing):
            run = Run(pack, first * SECTOR, min(count * SECTOR, size - first * SECTOR))
            self._add(run)
            self._nursery.start_soon(self._fetch, run, run.length == size)
            held[run] = None
        for run in held:
            run.pins += 1
            self._order.move_to_end(run)
        self._look_at_limit()
        try:
            for run in held:
                await run.ready.wait()
                if run.error is not None:
                    raise type(run.error)(**run.error.fields) from run.error
            yield list(held)
        finally:
            for run in held:
                run.pins -= 1
            self._forget(run for run in held if run.path is None and run.pins == 0 and run.ready.is_set())
            self._look_at_limit()

    def _add(self, run: Run) -> None:
        self._packs.setdefault(run.pack, []).append(run)
        self._order[run] = None
        self.used += run.length
        self.look_at_disk()

    def _forget(self, forgotten: Iterable[Run]) -> None:
        """Runs that nobody finds any more; their files are unlinked by the next sweep."""
        for run in list(forgotten):
            if run not in self._order:
                continue
            del self._order[run]
            self._packs[run.pack].remove(run)
            if not self._packs[run.pack]:
                del self._packs[run.pack]
            self.used -= run.length
            self._open.close(run)
            if run.path is not None:
                self._doomed.append(run.path)

    def _trim(self, goal: int) -> None:
        """Forget the least recently used until `goal` bytes are left, or only what is needed now."""
        victims = []
        excess = self.used - goal
        for run in self._order:
            if excess <= 0:
                break
            if run.pins == 0 and run.ready.is_set():
                victims.append(run)
                excess -= run.length
        self._forget(victims)

    def _look_at_limit(self) -> None:
        if self.used > self.limit:
            self._excess.set()

    # --- what takes time ---

    async def open(self) -> None:
        """Find what an earlier mount left. Raises LocalFileFailed, NoSpace."""
        found = await self._offload(partial(scan, self._folder))
        for _, run in found:
            self._add(run)
        self._serials = itertools.count(1 + max((serial for serial, _ in found), default=0))
        self._look_at_limit()

    async def keep_to_limit(self) -> None:
        """Evict, for ever."""
        while True:
            self.limit = max(0, min(self._most, self.used + self._spare()))
            self._trim(self.limit)
            await self._sweep()
            with trio.move_on_after(_LOOK):
                await self._excess.wait()
            self._excess = trio.Event()

    async def _sweep(self) -> None:
        batch, self._doomed = self._doomed, []
        if batch:
            try:
                await self._offload(partial(remove, batch))
            except trio.Cancelled:
                self._doomed += batch
                raise

    async def _fetch(self, run: Run, whole: bool) -> None:
        try:
            await self._bring(run, whole)
        except InfinitfsError as error:
            run.error = error
        except trio.Cancelled:
            run.error = InfinitfsError(detail="the cache was closed")
            raise
        finally:
            if run.error is not None or (run.path is None and run.pins == 0):
                self._forget([run])
            run.ready.set()
            self._look_at_limit()

    async def _bring(self, run: Run, whole: bool) -> None:
        """Into a file; where this disk does not take it even after others made room, into memory. `whole` is a run that
        is all of its pack."""
        key = self._key_of(run.pack)
        for _ in range(2 if run.length <= self.limit else 0):
            serial = next(self._serials)
            incoming = incoming_path(self._folder, serial)
            target = run_path(self._folder, run.pack, run.start, serial)
            try:
                await self._transfer.download(key, run.start, run.length, incoming, whole=whole)
                size = await self._offload(partial(move, incoming, target))
            except NoSpace:
                self._trim(self.used - run.length)
                await self._sweep()
                continue
            except LocalFileFailed:
                break
            if size != run.length:
                self._doomed.append(target)
                await self._sweep()
                raise _short(key, size, run.length)
            run.path, run.warm = target, True
            return
        data = await self._transfer.get(key, run.start, run.length)
        if len(data) != run.length:
            raise _short(key, len(data), run.length)
        run.data = data


def _work_on(wanted: Sequence[Sequence[Piece]], work: Callable[[Sequence[Buffer]], T]) -> T:
    return work(read_spans(wanted))


def _short(key: str, size: int, length: int) -> DamagedObject:
    return DamagedObject(key=key, reason=f"{size} bytes came instead of {length}")


@contextlib.asynccontextmanager
async def open_cache(
    folder: Path,
    limit: int,
    transfer: Transfer,
    key_of: Callable[[str], str],
    *,
    offload: Offload | None = None,
    spare: Callable[[], int] = lambda: sys.maxsize,
) -> AsyncIterator[PackCache]:
    """The cache in `folder` (made where it is missing), of at most `limit` bytes beside what is being read
    or fetched.

    `key_of` gives the object's key of a pack's hex id. `offload` runs what waits for a disk, in threads if
    not given. `spare` tells by how many bytes the disk lets the cache grow now; below 0 it has to shrink. Raises
    LocalFileFailed, NoSpace.
    """
    async with background() as nursery:
        cache = PackCache(folder, limit, transfer, key_of, nursery, offload or Threads(_THREADS), spare)
        await cache.open()
        nursery.start_soon(cache.keep_to_limit)
        try:
            yield cache
        finally:
            cache.close()
