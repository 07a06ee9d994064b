"""Write-back: when dirty bytes become blocks, and the one way they do.

Above: `volume.Volume` (write, fsync, drain). Below: `file.file`, `block.writer`, `namespace`, `blocks`, `publisher`.

Invariants.
- The order of every flush, asked for or not: frames durable in the staged pack, then extents, size and times of their
  files, STEP extents and what they make of the size in one step of the database. Metadata never refers to a block that
  is not durable.
- Flushes are under `lock`. While there is much to flush, and nobody waits for the lock, one batch is cut while the ones
  before it are on their way to the disk; they are committed in the order in which they began, and where one fails, so
  do those behind it. Between the beginning of a flush and its end new writes go to fresh dirty ranges, truncations clip
  what is being flushed.
- With the last step of a file, and not before, the bytes leave memory and its intents end: until then an fsync has an
  intent of all that it saw, though a part of it is in the tables, for an older intent would bring older bytes back over
  these. What an intent made durable is flushed as a whole.
- Callers that wait together share a flush: who gets the lock takes every file that was asked for until then.
"""

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import trio

from infinitfs.block.batch import Cut, Piece, Request, Stored
from infinitfs.block.writer import BlockWriter, Storing
from infinitfs.errors import InfinitfsError, NoSpace, NoSuchEntry
from infinitfs.file.dirty import Bytes
from infinitfs.file.file import File
from infinitfs.transfer.background import together
from infinitfs.volume.blocks import STEP, Blocks
from infinitfs.volume.intents import Change, Intents
from infinitfs.volume.namespace import Namespace
from infinitfs.volume.publisher import Publisher
from infinitfs.volume.room import Room

_log = logging.getLogger(__name__)

AGE = 5.0  # seconds after which dirty bytes are flushed
SOME = 8 * 2**20  # dirty bytes above which files that nobody has open are flushed: a pack full, ...
HIGH = 16 * 2**20  # above which a stream of batches goes on, ...
MOST = 32 * 2**20  # and above which all are
FULL = 96 * 2**20  # dirty bytes above which writers wait
_TICK = 0.5
_LITTLE = 256 * 1024  # bytes that an fsync makes durable as they are, however they lie,
_PIECE = 64 * 1024  # or that it does where they lie in pieces smaller than this,
_MUCH = 32 * 2**20  # up to so many: they are written to the disk twice
_ENTRY = 16  # bytes, more than what an intent says of a piece beside its own
_STRIDE = 256  # ranges that are looked at without letting another task run
_TAILS = 16 * 2**20  # bytes of last blocks that all files together may keep
_FILE = 4  # extents that it takes as long as to commit a file


@dataclass(slots=True)
class _Batch:
    """Files that are flushed together, and how many requests each has; `intended` is the last intent before."""

    intended: int
    files: deque[tuple[File, int]] = field(default_factory=deque)
    cuts: list[Cut] = field(default_factory=list)
    size: int = 0
    """Bytes that it has taken."""


class WriteBack:
    """Files with something in memory only."""

    def __init__(
        self,
        *,
        namespace: Namespace,
        blocks: Blocks,
        writer: BlockWriter,
        publisher: Publisher,
        lock: trio.Lock,
        room: Room,
        intents: Intents,
        sync: Callable[[], Awaitable[None]],
    ) -> None:
        self._namespace = namespace
        self._blocks = blocks
        self._writer = writer
        self._publisher = publisher
        self._lock = lock
        self._room = room
        self._intents = intents
        self._sync = sync
        self._dirty: dict[int, File] = {}
        self._wanted: dict[int, File] = {}
        self._tails: dict[int, tuple[File, int]] = {}
        self._tail_bytes = 0
        self._batches: deque[_Batch] = deque()  # that are being flushed, the oldest first
        self._wake = trio.Event()
        self._flushed = trio.Event()
        self.trouble: InfinitfsError | None = None
        """Why the last flush failed, None after one that did not."""
        self.at_clean: Callable[[File], None] = lambda file: None
        """Called when a file has nothing in memory any more."""
        self.bytes = 0
        """Dirty bytes of all files, those being flushed included."""

    async def admit(self, length: int) -> None:
        """Whether `length` more bytes may be written: hold the writer back while memory is full of dirty bytes.

        Raises NoSpace where they would not fit into the storage's capacity or the backlog's limit; where memory is
        full and cannot be emptied, what the last flush raised.
        """
        try:
            self._check_room(length)
        except NoSpace:
            if not self.bytes:
                raise
            await self.flush_all()  # only then it is known how much of it is new and how far it compresses
            self._check_room(length)
        while self.bytes >= FULL:
            if self.trouble is not None:
                raise self.trouble
            self._stir()
            await self._flushed.wait()

    def _check_room(self, length: int) -> None:
        # What files keep of their last blocks is stored again, with what follows it.
        self._room.check(self.bytes + self._tail_bytes + length, len(self._dirty) + 1)

    def write(self, file: File, offset: int, data: Bytes) -> None:
        before = file.dirty.total
        file.write(offset, data, trio.current_time())
        self.bytes += file.dirty.total - before
        self._dirty[file.ino] = file
        if self.bytes >= MOST or self.bytes >= SOME > self.bytes - len(data):
            self._stir()

    def truncate(self, file: File, size: int) -> None:
        self._cut(file, size)
        if file.needs_flush:
            self._intents.clip(file.ino, size)
        else:
            self._intents.contain(file.ino, self._intents.last)
            self._dirty.pop(file.ino, None)
            self.at_clean(file)

    def _cut(self, file: File, size: int) -> None:
        """Memory has nothing of the file behind `size`; with that there may be room for others."""
        before = file.bytes_in_memory
        file.truncate(size)
        self.bytes += file.bytes_in_memory - before
        self._notify()

    def note_times(self, file: File) -> None:
        """The file has times that are not stored yet."""
        self._dirty[file.ino] = file

    def forget(self, file: File) -> None:
        """The file is gone: what is dirty of it needs no flush."""
        self._cut(file, 0)
        file.mtime = file.ctime = None
        self._intents.contain(file.ino, self._intents.last)
        self._dirty.pop(file.ino, None)
        self._forget_tail(file)

    async def intend(self, file: File) -> bool:
        """Make what is dirty of the file durable as it is, with its times, once the transaction is; it stays dirty.
        False where that would be much at a time, or another's failed: then its blocks have to be made at once.

        Raises LocalDiskFailed.
        """
        if self.is_intended(file):
            return True
        if self._publisher.cutting:
            return False
        others = self._intents.coming(file.ino)  # which have what is not fresh any more
        times = file.mtime, file.ctime
        ranges = file.take_fresh()
        intent = self._intents.begin(file.ino)
        done = False
        try:
            if self._may_write_twice(ranges) and _is_little(pieces := await _pieces(file, ranges)):
                await self._intents.append(intent, Change(file.ino, pieces, *times))
                file.note_intended(intent.number, times)
                done = True
        except NoSpace:
            return False
        finally:
            self._intents.end(intent)
            if not done:
                file.put_back_fresh(ranges)
        return done and all(other.counts for other in others)

    def is_intended(self, file: File) -> bool:
        """Whether an intent that is in the tables says all that is dirty of the file."""
        times = file.mtime, file.ctime
        return not file.fresh and file.intended == times and not self._intents.coming(file.ino)

    async def flush_intended(self) -> None:
        """What intents say is in the tables."""
        await self.flush([file for file in self._dirty.values() if self._intents.holds(file.ino)])

    def _may_write_twice(self, ranges: list[tuple[int, int]]) -> bool:
        total = sum(end - offset for offset, end in ranges)
        if total > _LITTLE and (total > _MUCH or total > _PIECE * len(ranges)):
            return False
        self._room.look_again()  # it may be much
        self._room.check(self.bytes + total)
        return True

    async def run(self) -> None:
        """Flush by size at once, by age within a tick, for as long as the volume is open."""
        while True:
            with trio.move_on_after(_TICK):
                await self._wake.wait()
            self._wake = trio.Event()
            self._room.look_again()
            try:
                if self.bytes >= SOME:
                    await self._relieve()
                oldest = trio.current_time() - AGE
                aged = [f for f in self._dirty.values() if f.dirty_since is None or f.dirty_since <= oldest]
                if aged:
                    await self.flush(aged)
                    await self._sync()
            except InfinitfsError as error:
                _log.error("%s", error)
                await trio.sleep(_TICK)

    async def _relieve(self) -> None:
        """Too much is dirty: first what nobody has open, and so writes or syncs again; if that was little, what ended
        at a cut point; and if that was little, everything.

        What was written meanwhile does not count: a fast writer's unfinished block would be stored with every flush,
        and again as a part of the whole one.
        """
        if closed := [file for file in self._dirty.values() if not file.opens]:
            await self._flush_wanted(closed, whole=False)
        if self.bytes < MOST:
            return
        if await self._flush_wanted(list(self._dirty.values()), whole=False, on_and_on=True) < HIGH // 2:
            await self._flush_wanted(list(self._dirty.values()), whole=True)

    async def flush(self, files: Iterable[File]) -> None:
        """Everything that is dirty of these files now is in the database, its blocks durable, when this returns."""
        mine = [file for file in files if file.needs_flush]
        for file in mine:
            self._wanted[file.ino] = file
        # Named again: where the flush that took them from `_wanted` has failed, this one tries and tells its caller.
        await self._flush_wanted(mine, whole=True)

    async def flush_all(self) -> None:
        await self.flush(list(self._dirty.values()))

    async def _flush_wanted(self, files: Iterable[File], *, whole: bool, on_and_on: bool = False) -> int:
        """Flush these files, and with `whole` those that are asked for; returns how many bytes became clean, with
        `on_and_on` those of the last batch."""
        async with self._lock:
            batch = {file.ino: file for file in files}
            if whole:
                batch |= self._wanted
                self._wanted = {}
            # Another flush may have cleaned a file while this one waited; closed, it has left memory since, and a new
            # `File` may stand for its inode, which must not be taken for it.
            dirty = [file for file in batch.values() if file.needs_flush]
            if dirty:
                self._publisher.flushing()
                try:
                    with trio.CancelScope(shield=True):
                        return await self._flush_batches(dirty, whole, on_and_on)
                except BaseException as error:
                    self._abort(error)
                    raise
                finally:
                    self._publisher.flushed(everything=not self._dirty)
            return 0

    async def _flush_batches(self, files: list[File], whole: bool, on_and_on: bool) -> int:
        to_commit, batches = trio.open_memory_channel[_Batch](math.inf)
        async with together() as nursery, to_commit, self._writer.storing(self._stir) as storing:
            nursery.start_soon(self._commit_in_order, batches, storing)
            stored = await self._cut_batch(files, whole, storing, to_commit)
            while on_and_on and stored >= HIGH // 2 and await self._gets_dirty(storing):
                files = [file for file in self._dirty.values() if file.dirty]
                stored = await self._cut_batch(files, whole, storing, to_commit)
        return stored

    async def _gets_dirty(self, storing: Storing) -> bool:
        """Whether enough for another batch does while others are on their way to the disk. Not where somebody waits."""
        while not self._lock.statistics().tasks_waiting:
            if self.bytes - sum(batch.size for batch in self._batches) >= HIGH:
                return True
            if not storing.busy:
                break
            self._wake = trio.Event()
            await self._wake.wait()
        self._stir()
        return False

    def _stir(self) -> None:
        """Whether there is something to flush is to be asked again."""
        self._wake.set()

    async def _cut_batch(
        self, files: list[File], whole: bool, storing: Storing, to_commit: trio.MemorySendChannel[_Batch]
    ) -> int:
        """Returns how many bytes are on their way."""
        batch = _Batch(self._intents.last)
        self._batches.append(batch)
        requests: list[Request] = []
        for file in files:
            taken = file.begin_flush(whole=whole or file.opens == 0 or self._intents.holds(file.ino))
            batch.files.append((file, len(taken)))
            requests.extend(taken)
        batch.size = sum(request.length for request in requests)
        batch.cuts = await storing.cut(requests)
        cuts = iter(batch.cuts)
        for number, (file, count) in enumerate(batch.files):
            if number % _STRIDE == _STRIDE - 1:
                await trio.lowlevel.checkpoint()
            before = file.bytes_in_memory
            file.note_cut([cut.ending for cut in islice(cuts, count)], trio.current_time())
            self.bytes += file.bytes_in_memory - before
        batch.size -= sum(cut.ending.tail for cut in batch.cuts)
        to_commit.send_nowait(batch)
        return batch.size

    async def _commit_in_order(self, batches: trio.MemoryReceiveChannel[_Batch], storing: Storing) -> None:
        async for batch in batches:
            stored = iter(await storing.stored(batch.cuts))
            with trio.CancelScope(shield=True):  # a batch behind it may fail meanwhile
                self.trouble = None
                await self._commit(batch, stored)
            self._batches.popleft()
            self._publisher.changed()
            self._notify()
            self._stir()

    async def _commit(self, batch: _Batch, stored: Iterator[Stored]) -> None:
        """Step by step; between two of them others may run."""
        entered = 0
        while batch.files:
            file, count = batch.files[0]
            pieces = [piece for some in islice(stored, count) for piece in some]
            rest = max(len(pieces) - 1, 0) // STEP * STEP
            for done in range(0, rest, STEP):
                self._enter(file, pieces[done : done + STEP], clean=False)
                await trio.lowlevel.checkpoint()
            self._end(file, pieces[rest:], batch.intended)
            batch.files.popleft()
            entered += len(pieces) - rest + _FILE
            if entered >= STEP:
                entered = 0
                await trio.lowlevel.checkpoint()

    def _end(self, file: File, pieces: Sequence[Piece], intended: int) -> None:
        """The last step of a file. Memory forgets nothing before the tables have all of it."""
        clean = file.last_flush
        self._enter(file, pieces, clean=clean)
        self._intents.contain(file.ino, self._intents.last if clean else intended)
        before = file.bytes_in_memory
        file.end_flush()
        self.bytes += file.bytes_in_memory - before
        file.error = None
        if clean:  # else an intent that is left may bring older times back: the next must have these
            file.mtime = file.ctime = None
            self._dirty.pop(file.ino, None)
            self.at_clean(file)
        self._keep_tail(file)

    def _enter(self, file: File, pieces: Sequence[Piece], *, clean: bool) -> None:
        """Pieces of a file into its extents, what they make of its size, and its times; a file that is `clean` then has
        the size that programs see. Nothing where it was removed: blocks that nobody refers to are collected."""
        try:
            inode = self._namespace.inode(file.ino)
        except NoSuchEntry:
            return
        fields = {}
        if edits := file.edits(pieces):
            fields["allocated"] = self._blocks.edit(file.ino, edits, inode.allocated)
            fields["size"] = file.size if clean else max(inode.size, min(file.size, edits[-1].end))
        if file.mtime is not None:
            fields["mtime"] = file.mtime
        if file.ctime is not None:
            fields["ctime"] = file.ctime
        if fields:
            self._namespace.update(file.ino, **fields)

    def _abort(self, error: BaseException) -> None:
        """Every file is as dirty as before, and knows why."""
        while self._batches:
            for file, _ in self._batches.pop().files:
                before = file.bytes_in_memory
                file.abort_flush(trio.current_time())
                self.bytes += file.bytes_in_memory - before
                if isinstance(error, InfinitfsError):
                    file.error = error
        if isinstance(error, InfinitfsError):
            self.trouble = error
            self._notify()

    def _keep_tail(self, file: File) -> None:
        """Count what open files keep of their last blocks; the ones flushed longest ago give theirs up."""
        self._forget_tail(file)
        if not file.opens:
            file.drop_tail()
        elif file.tail_bytes:
            self._tails[file.ino] = file, file.tail_bytes
            self._tail_bytes += file.tail_bytes
        while self._tail_bytes > _TAILS:
            oldest, _ = next(iter(self._tails.values()))
            self.drop_tail(oldest)

    def drop_tail(self, file: File) -> None:
        """Nothing more is appended to the file for now."""
        file.drop_tail()
        self._forget_tail(file)

    def _forget_tail(self, file: File) -> None:
        _, counted = self._tails.pop(file.ino, (file, 0))
        self._tail_bytes -= counted

    def _notify(self) -> None:
        """Wake the writers that wait for memory."""
        self._flushed.set()
        self._flushed = trio.Event()


def _is_little(pieces: list[tuple[int, Bytes]]) -> bool:
    """A range that was written again during a flush has pieces of both."""
    return sum(len(data) + _ENTRY for _, data in pieces) <= _MUCH


async def _pieces(file: File, ranges: list[tuple[int, int]]) -> list[tuple[int, Bytes]]:
    """What memory has of the file there, or has had since this was called."""
    pieces: list[tuple[int, Bytes]] = []
    for start in range(0, len(ranges), _STRIDE):
        if start:
            await trio.lowlevel.checkpoint()
        for offset, end in ranges[start : start + _STRIDE]:
            pieces += file.overlay(offset, end - offset)
    return pieces
