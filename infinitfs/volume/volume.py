"""A volume: everything that a mounted folder does, as methods.

Above: `mount/operations.py` (FUSE) and `mount/compose.py`, which builds one. Below: `namespace` and `blocks` (tables),
`writeback` (flushes), `content` (reads), `removal`, `publisher`, `checkpoint`, `collector` (storage).

Invariant: a method that changes the namespace does so without an await between its first and its last statement, so
every other task sees it done or not begun, and a commit holds whole operations; but for what is so long that it goes in
steps, each of which is whole. Methods that wait (for memory, for a log that restarts, for blocks) wait before or after
that.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from stat import S_ISREG
from typing import NamedTuple

import apsw
import trio

from infinitfs.block.reader import BlockReader
from infinitfs.errors import (
    FileTooLarge,
    InfinitfsError,
    InvalidOperation,
    LocalDiskFailed,
    ReadOnly,
)
from infinitfs.file.extents import END, Edit
from infinitfs.storage.base import Buffer
from infinitfs.transfer.background import together
from infinitfs.volume.blocks import STEP, Blocks
from infinitfs.volume.checkpoint import Checkpointer
from infinitfs.volume.clock import Clock
from infinitfs.volume.collector import Collector, Freed
from infinitfs.volume.content import Content
from infinitfs.volume.database import Database
from infinitfs.volume.incore import InCore
from infinitfs.volume.inodes import Inode
from infinitfs.volume.intents import Change, Intents
from infinitfs.volume.lease import Lease
from infinitfs.volume.namespace import Entry, Namespace
from infinitfs.volume.publisher import Publisher
from infinitfs.volume.removal import Removal
from infinitfs.volume.room import Room
from infinitfs.volume.writeback import WriteBack

_log = logging.getLogger(__name__)

COMMIT_AFTER = 0.02  # seconds that changes are gathered in one transaction; ending one takes 0.3 ms
SYNC_AFTER = 1.0  # seconds after which what was committed is durable on this machine


class Space(NamedTuple):
    """Bytes stored in packs, the storage's capacity (0: unlimited) and what of it is left for more, and the number of
    inodes."""

    stored: int
    capacity: int
    left: int
    inodes: int


class Volume:
    """`writable` is False where this machine does not own the volume. `kernel_times`: whether the caller sets the
    times of written files itself, as the kernel's write-back cache does."""

    def __init__(
        self,
        *,
        database: Database,
        namespace: Namespace,
        blocks: Blocks,
        reader: BlockReader,
        write_back: WriteBack,
        publisher: Publisher,
        checkpointer: Checkpointer,
        collector: Collector,
        clock: Clock,
        writable: bool,
        lease: Lease,
        room: Room,
        capacity: int,
        kernel_times: bool,
        remote_fsync: bool,
        intents: Intents,
    ) -> None:
        self.database = database
        self.publisher = publisher
        self.checkpointer = checkpointer
        self.collector = collector
        self._namespace = namespace
        self._blocks = blocks
        self._content = Content(blocks, reader)
        self._write_back = write_back
        self._clock = clock
        self._writable = writable
        self._lease = lease
        self._room = room
        self._capacity = capacity
        self._kernel_times = kernel_times
        self._remote_fsync = remote_fsync
        self._intents = intents
        self._removal = Removal(namespace, blocks, self._changing)
        self._in_core = InCore(namespace, write_back, self._removal)
        self.use, self.release_use = self._in_core.use, self._in_core.release_use
        publisher.before_cut = write_back.flush_intended

    # --- running ---

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The background of an open volume: commits, syncs, flushes, uploads, checkpoints."""
        async with together() as nursery:
            tasks = [self._commit_in_time, self._sync_in_time, self._content.run]
            if self._writable:
                tasks += [
                    self._write_back.run,
                    self._removal.run,
                    self.publisher.run,
                    self._lease.run,
                    self.checkpointer.run,
                    self.collector.run,
                ]
            for task in tasks:
                nursery.start_soon(self._tend, task)
            yield
            nursery.cancel_scope.cancel()

    async def _tend(self, task: Callable[[], Awaitable[None]]) -> None:
        """Once the disk has failed nothing can be written, but what is there can still be read: the folder must stay,
        or programs would go on in the one below it."""
        try:
            await task()
        except (InfinitfsError, apsw.Error) as error:
            failure = self.database.fail(error) if isinstance(error, apsw.Error) else error
            if self.database.failed is None and not isinstance(failure, LocalDiskFailed):
                raise
            self.database.failed = self.database.failed or failure
            self.publisher.look_again()
            _log.error("The volume is read-only from now on: %s", failure)

    def take_charge(self, uid: int, gid: int) -> None:
        """The first changes of an owner: the root of a new volume, owned by `uid` and `gid`; the end of files that
        were open and without a name when the last mount was killed."""
        if not self._namespace.inodes:
            self._namespace.create_root(uid, gid, self._clock.now())
        for ino in self._namespace.unlinked():
            self._in_core.remove(ino)

    async def _commit_in_time(self) -> None:
        while True:
            if not self.database.in_transaction:
                await self.database.changed.wait()
            await trio.sleep(COMMIT_AFTER)
            self.database.commit()
            self.publisher.changed()
            if self.database.log_is_long:
                await self.database.relieve()
                self.publisher.changed()  # what a sync has committed meanwhile

    async def _sync_in_time(self) -> None:
        while True:
            await trio.sleep(SYNC_AFTER)
            if self.database.unsynced or self._intents.finished():
                await self._sync_and_tidy()

    async def _sync_and_tidy(self) -> None:
        finished = self._intents.finished()
        await self.database.sync()
        if finished:
            await self._intents.remove(finished)

    def hold(self) -> None:
        """What goes step by step and has not gone yet is left to the next mount."""
        self._removal.hold()

    async def collect(self) -> Freed:
        """Free what nothing refers to any more, once what is being removed has gone."""
        await self._removal.done()
        return await self.collector.collect()

    async def drain(self) -> None:
        """Everything is in the storage when this returns. Waits as long as it takes: the caller gives up."""
        await self._write_back.flush_all()
        await self.publisher.publish_all()

    async def forget(self) -> None:
        """Nothing that the storage has is kept here any more."""
        await self._content.forget()

    async def settle(self) -> None:
        """Everything is durable on this machine when this returns."""
        await self._write_back.flush_all()
        await self._sync_and_tidy()

    async def replay(self) -> None:
        """What was fsynced and not flushed when the last mount was killed is in memory again. Raises LocalDiskFailed
        where it is not whole."""
        await self._intents.replay(self._replay_change)

    def _replay_change(self, change: Change) -> None:
        inode, file = self._namespace.inode(change.ino), self._in_core.bring(change.ino)
        for offset, data in change.pieces:
            self._write_back.write(file, offset, data)
        file.mtime = file.mtime if change.mtime is None else change.mtime
        # What was done to its names or attributes since has a newer one.
        file.ctime = file.ctime if change.ctime is None else max(change.ctime, inode.ctime)
        self._write_back.note_times(file)

    @property
    def backlog(self) -> int:
        """Bytes that are not in the storage yet."""
        return self.publisher.backlog + self._write_back.bytes

    @property
    def trouble(self) -> InfinitfsError | None:
        """Why changes are not stored, here or in the storage; None while all is well."""
        memory = self._write_back.trouble if self._write_back.bytes else None  # else what it was about is gone
        return self.database.failed or self.publisher.fenced or memory or self.publisher.trouble

    async def _changing(self) -> None:
        """Before every change: whether one may be made. What its time is, is asked afterwards."""
        if not self._writable:
            raise ReadOnly(reason="it was mounted read-only")
        if self._lease.paused():
            await self._lease.before_change()
        if self.publisher.fenced is not None:
            raise self.publisher.fenced
        if self.database.failed is not None:
            raise self.database.failed
        if self.database.resting is not None:
            await self.database.rested()

    # --- names ---

    def attributes(self, ino: int) -> Inode:
        return self._in_core.current(self._namespace.inode(ino))

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        inode = self._namespace.lookup(parent, name)
        if inode is None or (not inode.nlink and not self._in_core.is_used(inode.ino)):  # ".", of what is being removed
            return None
        return self._in_core.current(inode)

    def entries(self, parent: int, after: int) -> Iterator[Entry]:
        return self._in_core.current_entries(self._namespace.entries(parent, after))

    async def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Inode:
        """A file, directory, symbolic link (with `target`) or special file, as the type bits of `mode` say."""
        await self._changing()
        now = self._clock.now()
        self._room.check(0)
        return self._namespace.create(parent, name, mode, uid, gid, now, rdev=rdev, target=target)

    async def link(self, ino: int, parent: int, name: bytes) -> Inode:
        await self._changing()
        now = self._clock.now()
        linked = self._namespace.link(ino, parent, name, now)
        self._in_core.overtake(ino, now)
        return self._in_core.current(linked)

    async def unlink(self, parent: int, name: bytes) -> None:
        await self._changing()
        now = self._clock.now()
        inode = self._namespace.unlink(parent, name, now)
        self._in_core.overtake(inode.ino, now)
        self._in_core.after_unlink(inode)

    async def rmdir(self, parent: int, name: bytes) -> None:
        await self._changing()
        now = self._clock.now()
        self._in_core.after_unlink(self._namespace.rmdir(parent, name, now))

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, *, uid: int = 0, gid: int = 0
    ) -> None:
        """`uid` and `gid` are for what RENAME_WHITEOUT leaves behind."""
        entries = (parent, name), (new_parent, new_name)
        await self._changing()
        now = self._clock.now()
        moved, target = (self._namespace.lookup(*entry) for entry in entries)
        file = self._in_core.get(moved.ino) if moved is not None else None
        if file is not None and file.needs_flush and target is not None and not self._write_back.is_intended(file):
            # Programs replace a file by a new version without fsync: the old one must not go before the new is here.
            await self._write_back.flush([file])
            await self._changing()
            now = self._clock.now()
            moved, target = (self._namespace.lookup(*entry) for entry in entries)
        lost = self._namespace.rename(*entries[0], *entries[1], flags, now, uid=uid, gid=gid)
        changed = {inode.ino for inode in (moved, target) if inode is not None}
        if target is None or len(changed) == 2:  # two names of one file: nothing was done
            for ino in changed:
                self._in_core.overtake(ino, now)
        self._in_core.after_unlink(lost)

    # --- attributes ---

    async def set_attributes(self, ino: int, *, size: int | None = None, **fields: int) -> Inode:
        """Change `size` and any of mode, uid, gid, atime, mtime, ctime (times in nanoseconds). The size that a file has
        already changes none of its times."""
        await self._changing()
        if size is None:
            if "ctime" not in fields:
                fields["ctime"] = self._clock.now()
        elif size != self.attributes(ino).size:
            await self._shorten(ino, size)
            now = self._clock.now()
            self._truncate(ino, size)
            fields = {"mtime": now, "ctime": now} | fields
        file = self._in_core.get(ino)
        if file is not None and file.needs_flush:
            # A flush is on its way and stores the times with the data.
            file.mtime = fields.pop("mtime", file.mtime)
            file.ctime = fields.pop("ctime", file.ctime)
            self._write_back.note_times(file)
        if fields:
            self._namespace.update(ino, **fields)
        return self.attributes(ino)

    async def _shorten(self, ino: int, size: int) -> None:
        """Truncate a file to where the rest can go at once. It is so long in between, and after a crash or an error."""
        while (end := self._blocks.step(ino, size, self._namespace.inode(ino).allocated, STEP)) > size:
            self._truncate(ino, end)
            now = self._clock.now()
            self._namespace.update(ino, mtime=now, ctime=now)
            await trio.lowlevel.checkpoint()
            await self._changing()

    def _truncate(self, ino: int, size: int) -> None:
        inode = self._namespace.inode(ino)
        file = self._in_core.get(ino)
        if file is not None:
            self._write_back.truncate(file, size)
        allocated = inode.allocated
        if size < inode.size:
            allocated = self._blocks.edit(ino, [Edit(size, END, ())], allocated)
        self._namespace.update(ino, size=size, allocated=allocated)

    def get_xattr(self, ino: int, name: bytes) -> bytes:
        return self._namespace.get_xattr(ino, name)

    def list_xattrs(self, ino: int) -> list[bytes]:
        return self._namespace.list_xattrs(ino)

    async def set_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        await self._changing()
        now = self._clock.now()
        self._namespace.set_xattr(ino, name, value, now)
        self._in_core.overtake(ino, now)

    async def remove_xattr(self, ino: int, name: bytes) -> None:
        await self._changing()
        now = self._clock.now()
        self._namespace.remove_xattr(ino, name, now)
        self._in_core.overtake(ino, now)

    def space(self) -> Space:
        return Space(self._room.stored, self._capacity, self._room.left(), self._namespace.inodes)

    # --- content ---

    def open(self, ino: int) -> None:
        """Raises what the database has failed with, where what was in the file is not in the tables any more."""
        self._blocks.check(ino)
        self._in_core.open(ino)

    def close(self, ino: int) -> None:
        self._in_core.close(ino)

    def check_error(self, ino: int) -> None:
        """Raise, once, what a flush of the file met in the background."""
        file = self._in_core.get(ino)
        if file is not None and file.error is not None:
            error, file.error = file.error, None
            raise error

    async def write(self, ino: int, offset: int, data: bytes) -> int:
        await self._changing()
        if offset + len(data) > END:
            raise FileTooLarge(path=f"inode {ino}")
        await self._write_back.admit(len(data))
        file = self._in_core.opened(ino)
        if not self._kernel_times:
            file.mtime = file.ctime = self._clock.now()
        self._write_back.write(file, offset, data)
        self.check_error(ino)  # with the bytes taken: the kernel does not send again what it was refused
        return len(data)

    async def clone(self, source: int, target: int, length: int) -> None:
        """The first `length` bytes of the file `target` become those of the file `source`: both refer to the same
        blocks, and no byte moves. What either has in memory is flushed first.

        Raises InvalidOperation where one is no file, both are the same, or one is shorter than `length`.
        """
        while True:
            await self._changing()
            files = [file for ino in (source, target) if (file := self._in_core.get(ino)) and file.needs_flush]
            if not files:
                break
            await self._write_back.flush(files)
        inodes = [self._namespace.inode(ino) for ino in (source, target)]
        if source == target or any(not S_ISREG(inode.mode) or inode.size < length for inode in inodes):
            raise InvalidOperation(path=f"inode {target}")
        extents = (extent for extent, _ in self._blocks.extents(source, 0, length))
        shared = tuple(extent._replace(length=min(extent.end, length) - extent.offset) for extent in extents)
        allocated = self._blocks.edit(target, [Edit(0, length, shared)], inodes[1].allocated)
        self._namespace.update(target, allocated=allocated)
        if (file := self._in_core.get(target)) is not None:
            self._write_back.drop_tail(file)

    async def fsync(self, ino: int) -> None:
        """Content and attributes are durable here (or in the storage, as the mount was asked to) on return."""
        if not self._writable:
            return  # what is in memory is as durable as it was
        file = self._in_core.get(ino)
        if file is not None and file.needs_flush and (self._remote_fsync or not await self._write_back.intend(file)):
            await self._write_back.flush([file])
        await self.sync()

    async def sync(self) -> None:
        """Everything done to the namespace is durable on return."""
        await self.database.sync()
        if self._remote_fsync:
            await self.publisher.publish_all()

    def read(self, ino: int, offset: int, length: int) -> Awaitable[Buffer]:
        """Up to `length` bytes of an open file from `offset` on, fewer at its end.

        Raises DamagedObject, ObjectNotFound, StorageUnreachable, and as `open`.
        """
        if self.database.failed is not None:
            self._blocks.check(ino)
        return self._content.read(self._in_core.opened(ino), offset, length)
