"""A volume composed of its parts: the only place that knows them all.

Above: `serving` (with FUSE), `admin` (without). Below: every other package; `session`, which is what comes of it.

The order of opening: the state folder's lock, which the transfer process inherits, so that no orphan of an earlier
mount ever races this one; the transfer process; the descriptor; the local database, made from the storage where there
is none, caught up where there is; the staged packs; the claim. The order of closing: everything drained or kept, the
release, the background, the database, the transfer process, the lock.
Invariant: the volume is yielded only when it is usable: local state agrees with the storage and, if it may be
written, this state folder is its owner by a claim that the storage acknowledged.
"""

import base64
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from infinitfs.block.cutting import ContentCutter, Cutter, FixedCutter
from infinitfs.block.pack import object_key as pack_key
from infinitfs.block.pack import seal_index
from infinitfs.block.reader import BlockReader
from infinitfs.block.staging import Staging
from infinitfs.block.writer import BlockWriter
from infinitfs.config.model import StorageRecord, VolumeRecord
from infinitfs.config.paths import Paths
from infinitfs.config.store import Store
from infinitfs.errors import DamagedRecord, NoSpace, StorageUnreachable
from infinitfs.keys import RandomBytes
from infinitfs.keys.identity import Identity
from infinitfs.mount.folders import Folders, own_state, take_lock
from infinitfs.mount.request import MountRequest
from infinitfs.mount.session import DEADLINE, GIVE_UP, Session
from infinitfs.storage.account import Account
from infinitfs.transfer.cache import PackCache, open_cache
from infinitfs.transfer.client import TransferClient, open_transfer
from infinitfs.transfer.files import Offload, Threads
from infinitfs.transfer.protocol import Open
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.checkpoint import Checkpointer
from infinitfs.volume.clock import Clock, KernelTime
from infinitfs.volume.collector import Collector
from infinitfs.volume.database import Database
from infinitfs.volume.descriptor import OpenedVolume, Parameters, open_descriptor
from infinitfs.volume.history import History
from infinitfs.volume.intents import Intents
from infinitfs.volume.journal import Kind, Owner
from infinitfs.volume.lease import Lease
from infinitfs.volume.leftovers import Leftovers
from infinitfs.volume.namespace import Namespace
from infinitfs.volume.opening import Opening
from infinitfs.volume.publisher import Publisher
from infinitfs.volume.room import Room, spare
from infinitfs.volume.volume import Volume
from infinitfs.volume.writeback import WriteBack

_THREADS = 8


class Machine(NamedTuple):
    """What a session takes from the machine it runs on."""

    clock: Clock
    random: RandomBytes
    offload: Offload
    host: str
    disk: Callable[[Path], os.statvfs_result] = os.statvfs
    """How full the disk is that a folder lies on."""


@asynccontextmanager
async def open_session(
    paths: Paths, request: MountRequest, identity: Identity, account: Account | None
) -> AsyncIterator[Session]:
    """The volume that `request` names, open; closed with what could not be sent kept for the next time.

    Raises RecordNotFound, NotMember, StateLocked, VolumeOwned, Fenced, StorageUnreachable, AccessDenied, and
    IntegrityError by name.
    """
    store = Store(paths)
    record = store.volumes.get(request.volume)
    storage = store.storages.get(record.storage)
    user = store.users.get(record.user)
    opened = open_record(record, identity)
    folders = Folders(paths, record.volume, request.cache_dir)
    async with AsyncExitStack() as stack:
        lock = take_lock(folders, record.name)
        stack.callback(os.close, lock)
        transfer = await stack.enter_async_context(open_transfer(_opening(request, storage, account), inherit=[lock]))
        composition = Composition(
            request=request,
            user=user.name,
            capacity=storage.capacity,
            opened=opened,
            identity=identity,
            folders=folders,
            transfer=transfer,
            machine=Machine(Clock(KernelTime()), secrets.token_bytes, Threads(_THREADS), socket.gethostname()),
        )
        yield await stack.enter_async_context(composition.session())


def open_record(record: VolumeRecord, identity: Identity) -> OpenedVolume:
    """The volume that a record's own copy of the descriptor describes. Raises NotMember, DamagedRecord."""
    try:
        data = base64.b64decode(record.descriptor, validate=True)
    except ValueError:
        raise DamagedRecord(path=f"volumes/{record.name}.json", reason="its descriptor is not base64") from None
    return open_descriptor(
        data, identity, key=None, user_name=record.user, expected_volume=bytes.fromhex(record.volume)
    )


def _opening(request: MountRequest, storage: StorageRecord, account: Account | None) -> Open:
    return Open(
        record=storage,
        account=account,
        connections=request.connections,
        upload_limit=request.upload_limit or None,
        download_limit=request.download_limit or None,
        deadline=DEADLINE,
    )


class _Local(NamedTuple):
    """What of a volume is on this machine, open."""

    database: Database
    history: History
    namespace: Namespace
    blocks: Blocks
    staging: Staging
    intents: Intents
    cache: PackCache


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A volume over a transfer that is open already; `machine` may be a simulated one."""

    request: MountRequest
    user: str
    capacity: int
    opened: OpenedVolume
    identity: Identity
    folders: Folders
    transfer: TransferClient
    machine: Machine

    @property
    def writable(self) -> bool:
        return not self.request.read_only

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """See `open_session`."""
        state = own_state(self.folders, self.machine.random)
        opening = self._opening()
        database, history = await opening.open(state)
        async with AsyncExitStack() as stack:
            stack.callback(database.close)
            claim = self.writable and opening.needs_claim(database, history, state, take_over=self.request.take_over)
            local = await self._open_local(database, history, stack)
            flush_lock = trio.Lock()
            publisher = self._publisher(local, flush_lock, state)
            volume = self._volume(local, flush_lock, publisher)
            await self._recover(local, publisher)
            await volume.replay()
            async with volume.running():
                if claim:
                    await _claim(publisher)
                if self.writable:
                    volume.take_charge(os.getuid(), os.getgid())
                try:
                    yield Session(
                        request=self.request,
                        opened=self.opened,
                        volume=volume,
                        staging=local.staging,
                        cache=local.cache,
                        transfer=self.transfer,
                    )
                finally:
                    volume.hold()
                    if self.writable:
                        with trio.CancelScope(shield=True):
                            await volume.settle()
                if self.writable:
                    async with volume.collector.held():
                        await _release(publisher)

    async def _recover(self, local: _Local, publisher: Publisher) -> None:
        """Take over what a killed process left staged; a pack that it had open is closed as it is."""
        known = local.blocks.unfinished()
        for name in await self.machine.offload(partial(local.staging.recover, known)):
            await self.machine.offload(partial(local.staging.reopen, name, known[name][1]))
            try:
                await publisher.close_packs()
            except NoSpace:
                if self.writable:
                    raise  # else it can be read as it is

    def _opening(self) -> Opening:
        return Opening(
            name=self.request.volume,
            path=self.folders.database,
            ring=self.opened.ring,
            members=self.opened.member,
            transfer=self.transfer,
            folder=self.folders.checkpoint,
            offload=self.machine.offload,
        )

    async def _open_local(self, database: Database, history: History, stack: AsyncExitStack) -> _Local:
        """The tables, what is staged and what is cached, all of it closed by `stack`."""
        random, offload = self.machine.random, self.machine.offload
        namespace, blocks = Namespace(database), Blocks(database)
        _load(database, namespace, blocks)
        index = partial(seal_index, self.opened.ring)
        staging = Staging(self.folders.staging, lambda: random(16).hex(), index, offload)
        stack.callback(staging.close)
        intents = Intents(self.folders.intents, self.opened.ring, database, offload)
        stack.callback(intents.close)
        await offload(intents.load)
        cache = await stack.enter_async_context(
            open_cache(
                self.folders.cache,
                self.request.cache_size,
                self.transfer,
                partial(pack_key, self.opened.volume_id.hex()),
                offload=offload,
                spare=self._spare,
            )
        )
        return _Local(database, history, namespace, blocks, staging, intents, cache)

    def _spare(self) -> int:
        """Bytes that the cache may grow by, or has to shrink by."""
        try:
            return spare(self.machine.disk(self.folders.cache))
        except OSError:  # the folder was deleted, which is allowed at any time
            return 0

    def _publisher(self, local: _Local, flush_lock: trio.Lock, state: str) -> Publisher:
        clock = self.machine.clock
        mountpoint = self.request.directory or "no folder"
        return Publisher(
            name=self.request.volume,
            database=local.database,
            blocks=local.blocks,
            staging=local.staging,
            cache=local.cache,
            ring=self.opened.ring,
            identity=self.identity,
            members=self.opened.member,
            owner=Owner(state, self.user, self.machine.host, mountpoint, clock.timestamp()),
            history=local.history,
            transfer=self.transfer,
            clock=clock,
            flush_lock=flush_lock,
            offload=self.machine.offload,
            backlog=self.request.backlog,
        )

    def _volume(self, local: _Local, flush_lock: trio.Lock, publisher: Publisher) -> Volume:
        ring, offload = self.opened.ring, self.machine.offload
        room, checkpointer = self._room(local), self._checkpointer(local, publisher)
        return Volume(
            database=local.database,
            namespace=local.namespace,
            blocks=local.blocks,
            reader=BlockReader(ring, local.staging, local.cache, self.request.memory, offload),
            write_back=WriteBack(
                namespace=local.namespace,
                blocks=local.blocks,
                writer=self._writer(local, publisher),
                publisher=publisher,
                lock=flush_lock,
                room=room,
                intents=local.intents,
                sync=local.database.sync,
            ),
            publisher=publisher,
            checkpointer=checkpointer,
            collector=self._collector(local, flush_lock, publisher, checkpointer),
            clock=self.machine.clock,
            writable=self.writable,
            lease=Lease(
                ring=ring,
                members=self.opened.member,
                transfer=self.transfer,
                publisher=publisher,
                clock=self.machine.clock,
            ),
            room=room,
            capacity=self.capacity,
            kernel_times=bool(self.request.directory) and self.writable,
            remote_fsync=self.request.fsync == "remote",
            intents=local.intents,
        )

    def _room(self, local: _Local) -> Room:
        return Room(
            folder=self.folders.state,
            blocks=local.blocks,
            staging=local.staging,
            database=local.database,
            cache=local.cache,
            capacity=self.capacity,
            backlog=self.request.backlog,
            disk=self.machine.disk,
        )

    def _writer(self, local: _Local, publisher: Publisher) -> BlockWriter:
        return BlockWriter(
            self.opened.ring,
            _cutter(self.opened),
            local.blocks,
            local.staging,
            self.machine.offload,
            pack_size=self.opened.parameters.pack,
            at_full=publisher.close_full,
        )

    def _collector(
        self, local: _Local, flush_lock: trio.Lock, publisher: Publisher, checkpointer: Checkpointer
    ) -> Collector:
        volume = self.opened.volume_id.hex()
        return Collector(
            volume=volume,
            database=local.database,
            blocks=local.blocks,
            publisher=publisher,
            leftovers=Leftovers(
                volume=volume,
                database=local.database,
                blocks=local.blocks,
                publisher=publisher,
                checkpointer=checkpointer,
                transfer=self.transfer,
            ),
            transfer=self.transfer,
            cache=local.cache,
            flush_lock=flush_lock,
        )

    def _checkpointer(self, local: _Local, publisher: Publisher) -> Checkpointer:
        """Told by the publisher where records end, and which of them the storage has."""
        checkpointer = Checkpointer(
            database=local.database,
            ring=self.opened.ring,
            identity=self.identity,
            members=self.opened.member,
            history=local.history,
            transfer=self.transfer,
            folder=self.folders.checkpoint,
            random=self.machine.random,
            offload=self.machine.offload,
        )
        publisher.at_cut = checkpointer.at_cut
        publisher.at_acknowledged = checkpointer.at_acknowledged
        return checkpointer


def _cutter(opened: OpenedVolume) -> Cutter:
    parameters: Parameters = opened.parameters
    if parameters.cutting == "fixed":
        return FixedCutter(parameters.target)
    return ContentCutter(
        opened.ring.gear(), parameters.minimum, parameters.target, parameters.maximum, parameters.zeros
    )


def _load(database: Database, namespace: Namespace, blocks: Blocks) -> None:
    def before_commit() -> None:
        namespace.write_out()
        blocks.write_out()

    def after_rollback() -> None:
        namespace.forget()
        blocks.forget()

    database.before_commit, database.after_rollback = before_commit, after_rollback
    namespace.load()
    blocks.load()


async def _claim(publisher: Publisher) -> None:
    with trio.move_on_after(DEADLINE):
        return await publisher.wait_for(await publisher.announce(Kind.CLAIM))
    publisher.check()
    raise StorageUnreachable(storage="The storage", reason=f"no answer within {DEADLINE:.0f} s")


async def _release(publisher: Publisher) -> None:
    """Give the volume up, if all of it is in the storage. Without an answer in time it stays ours: the next mount
    here goes on as its owner."""
    if publisher.fenced is not None or publisher.trouble is not None:
        return
    with trio.move_on_after(GIVE_UP):
        await publisher.publish_all()  # what a collection has changed since the drain
        await publisher.wait_for(await publisher.announce(Kind.RELEASE))
