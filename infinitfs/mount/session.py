"""A session: one volume, opened; the only place that composes.

Above: `daemon` (with FUSE), `admin` (without). Below: every other package.

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
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

import msgspec
import trio

from infinitfs import __version__
from infinitfs.block.cutting import ContentCutter, Cutter, FixedCutter
from infinitfs.block.pack import object_key as pack_key
from infinitfs.block.pack import seal_index
from infinitfs.block.reader import BlockReader
from infinitfs.block.staging import Staging
from infinitfs.block.writer import BlockWriter
from infinitfs.config.model import StorageRecord, VolumeRecord
from infinitfs.config.paths import Paths
from infinitfs.config.store import Store
from infinitfs.errors import DamagedRecord, NotDrained, StorageUnreachable
from infinitfs.keys import RandomBytes
from infinitfs.keys.identity import Identity
from infinitfs.mount.folders import Folders, own_state, take_lock
from infinitfs.mount.metrics import Rates, Throughput, Timing
from infinitfs.mount.request import MountRequest
from infinitfs.storage.account import Account
from infinitfs.transfer.background import together
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
from infinitfs.volume.journal import Kind, Owner
from infinitfs.volume.lease import Lease
from infinitfs.volume.namespace import Namespace
from infinitfs.volume.opening import Opening
from infinitfs.volume.publisher import Publisher
from infinitfs.volume.room import Room
from infinitfs.volume.volume import Volume
from infinitfs.volume.writeback import WriteBack

DEADLINE = 30.0  # seconds one request is tried before the storage counts as unreachable
GIVE_UP = 10.0  # seconds of trouble after which a drain that somebody waits for gives up
_THREADS = 8


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a mount says of itself; sizes in bytes, rates in bytes a second, times in RFC 3339, `operations` by the name
    that FUSE has for them, `requests` as `storage.ledger.Usage` by kind, `cost` in US dollars."""

    version: str
    volume: str
    volume_id: str
    mountpoint: str
    state: str
    backlog_bytes: int
    backlog_packs: int
    backlog_records: int
    last_stored: str | None
    position: int
    cache_bytes: int
    cache_limit: int
    cache_hits: int
    cache_misses: int
    uploaded_bytes: int
    downloaded_bytes: int
    upload_rate: float
    download_rate: float
    drain_seconds: float | None
    operations: Mapping[str, Timing]
    requests: Mapping[str, Mapping[str, int]]
    cost: float | None
    errors: int
    restarts: int
    trouble: str | None
    mounted_since: str
    pid: int


class Session:
    """An open volume and what `status` reports of it."""

    def __init__(
        self,
        *,
        request: MountRequest,
        opened: OpenedVolume,
        volume: Volume,
        staging: Staging,
        cache: PackCache,
        transfer: TransferClient,
    ) -> None:
        self.volume = volume
        self._request = request
        self._opened = opened
        self._staging = staging
        self._cache = cache
        self._transfer = transfer
        self._since = Clock().timestamp()
        self._throughput = Throughput()
        self.draining = False
        self.timings: Mapping[str, Timing] = {}
        """What who serves the kernel counts."""

    def renew(self, account: Account) -> None:
        """From now on the storage is asked with these keys."""
        self._transfer.renew(account)

    def rates(self) -> Rates:
        """How fast bytes move; asked for again and again, it knows the last 15 seconds."""
        stats = self._transfer.stats
        return self._throughput.observe(trio.current_time(), stats.uploaded, stats.downloaded, self.volume.backlog)

    def requests(self) -> dict[str, dict[str, int]]:
        """What was asked of the storage, as `storage.ledger.Usage` by kind; also after the session has ended."""
        return {kind: msgspec.structs.asdict(usage) for kind, usage in self._transfer.stats.ledger.requests.items()}

    def status(self) -> Status:
        publisher = self.volume.publisher
        stats = self._transfer.stats
        rates = self.rates()
        return Status(
            version=__version__,
            volume=self._request.volume,
            volume_id=self._opened.volume_id.hex(),
            mountpoint=self._request.directory,
            state=self._state(),
            backlog_bytes=self.volume.backlog,
            backlog_packs=self._staging.packs,
            backlog_records=publisher.pending_records,
            last_stored=publisher.last_stored,
            position=publisher.position,
            cache_bytes=self._cache.used,
            cache_limit=self._cache.limit,
            cache_hits=self._cache.hits,
            cache_misses=self._cache.misses,
            uploaded_bytes=stats.uploaded,
            downloaded_bytes=stats.downloaded,
            upload_rate=rates.upload,
            download_rate=rates.download,
            drain_seconds=rates.drain,
            operations=self.timings,
            requests=self.requests(),
            cost=stats.ledger.cost,
            errors=stats.errors,
            restarts=stats.restarts,
            mounted_since=self._since,
            trouble=str(publisher.trouble) if publisher.trouble else None,
            pid=os.getpid(),
        )

    def _state(self) -> str:
        publisher = self.volume.publisher
        if publisher.fenced is not None or self._request.read_only:
            return "read-only"
        if self.draining:
            return "draining"
        return "offline" if publisher.trouble is not None else "ready"

    async def drain(self, *, patience: float = GIVE_UP) -> None:
        """Everything is in the storage when this returns.

        Raises NotDrained once the storage has taken nothing for `patience` seconds, Fenced; what is left is durable
        here.
        """
        self.draining = True
        await self.volume.settle()
        publisher = self.volume.publisher
        with trio.CancelScope() as scope:
            async with together() as nursery:
                nursery.start_soon(_watch, publisher, patience, scope)
                await publisher.publish_all()
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            raise NotDrained(bytes=f"{self.volume.backlog:,} bytes", reason=str(publisher.trouble))


async def _watch(publisher: Publisher, patience: float, scope: trio.CancelScope) -> None:
    """Cancel `scope` once trouble has lasted `patience` seconds without anything getting through."""
    since = None
    while True:
        if publisher.trouble is None:
            since = None
        elif since is None:
            since = trio.current_time()
        elif trio.current_time() - since >= patience:
            scope.cancel()
        await trio.sleep(0.2)


class Machine(NamedTuple):
    """What a session takes from the machine it runs on."""

    clock: Clock
    random: RandomBytes
    offload: Offload
    host: str


def open_record(record: VolumeRecord, identity: Identity) -> OpenedVolume:
    """The volume that a record's own copy of the descriptor describes. Raises NotMember, DamagedRecord."""
    try:
        data = base64.b64decode(record.descriptor, validate=True)
    except ValueError:
        raise DamagedRecord(path=f"volumes/{record.name}.json", reason="its descriptor is not base64") from None
    return open_descriptor(
        data, identity, key=None, user_name=record.user, expected_volume=bytes.fromhex(record.volume)
    )


def make_cutter(opened: OpenedVolume) -> Cutter:
    parameters: Parameters = opened.parameters
    if parameters.cutting == "fixed":
        return FixedCutter(parameters.target)
    return ContentCutter(
        opened.ring.gear(), parameters.minimum, parameters.target, parameters.maximum, parameters.zeros
    )


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
        session = compose(
            request=request,
            user=user.name,
            capacity=storage.capacity,
            opened=opened,
            identity=identity,
            folders=folders,
            transfer=transfer,
            machine=Machine(Clock(KernelTime()), secrets.token_bytes, Threads(_THREADS), socket.gethostname()),
        )
        yield await stack.enter_async_context(session)


def _opening(request: MountRequest, storage: StorageRecord, account: Account | None) -> Open:
    return Open(
        record=storage,
        account=account,
        connections=request.connections,
        upload_limit=request.upload_limit or None,
        download_limit=request.download_limit or None,
        deadline=DEADLINE,
    )


@asynccontextmanager
async def compose(
    *,
    request: MountRequest,
    user: str,
    capacity: int,
    opened: OpenedVolume,
    identity: Identity,
    folders: Folders,
    transfer: TransferClient,
    machine: Machine,
) -> AsyncIterator[Session]:
    """The volume over a transfer that is open already; see `open_session`. `machine` may be a simulated one."""
    ring, offload, random, clock = opened.ring, machine.offload, machine.random, machine.clock
    volume_id = opened.volume_id.hex()
    state = own_state(folders, random)
    opening = Opening(
        name=request.volume,
        path=folders.database,
        ring=ring,
        members=opened.member,
        transfer=transfer,
        folder=folders.checkpoint,
        offload=offload,
    )
    database, history = await opening.open(state)
    async with AsyncExitStack() as stack:
        stack.callback(database.close)
        writable = not request.read_only
        claim = writable and opening.needs_claim(database, history, state, take_over=request.take_over)
        namespace, blocks = Namespace(database), Blocks(database)
        _load(database, namespace, blocks)
        staging = Staging(folders.staging, lambda: random(16).hex(), partial(seal_index, ring), offload)
        stack.callback(staging.close)
        cache = await stack.enter_async_context(
            open_cache(folders.cache, request.cache_size, transfer, partial(pack_key, volume_id), offload=offload)
        )
        flush_lock = trio.Lock()
        publisher = Publisher(
            name=request.volume,
            database=database,
            blocks=blocks,
            staging=staging,
            cache=cache,
            ring=ring,
            identity=identity,
            members=opened.member,
            owner=Owner(state, user, machine.host, request.directory or "no folder", clock.timestamp()),
            history=history,
            transfer=transfer,
            clock=clock,
            flush_lock=flush_lock,
            offload=offload,
        )
        checkpointer = Checkpointer(
            database=database,
            ring=ring,
            identity=identity,
            members=opened.member,
            history=history,
            transfer=transfer,
            folder=folders.checkpoint,
            random=random,
            offload=offload,
        )
        publisher.at_cut = checkpointer.at_cut
        publisher.at_acknowledged = checkpointer.at_acknowledged
        room = Room(
            folder=folders.state,
            blocks=blocks,
            staging=staging,
            database=database,
            capacity=capacity,
            backlog=request.backlog,
        )
        writer = BlockWriter(
            ring,
            make_cutter(opened),
            blocks,
            staging,
            offload,
            pack_size=opened.parameters.pack,
            close_pack=publisher.close_pack,
        )
        volume = Volume(
            database=database,
            namespace=namespace,
            blocks=blocks,
            reader=BlockReader(ring, staging, cache, request.memory, offload),
            write_back=WriteBack(
                namespace=namespace,
                blocks=blocks,
                writer=writer,
                publisher=publisher,
                lock=flush_lock,
                room=room,
                sync=database.sync,
            ),
            publisher=publisher,
            checkpointer=checkpointer,
            collector=Collector(
                volume=volume_id,
                database=database,
                blocks=blocks,
                publisher=publisher,
                transfer=transfer,
                cache=cache,
                flush_lock=flush_lock,
            ),
            clock=clock,
            writable=writable,
            lease=Lease(ring=ring, members=opened.member, transfer=transfer, publisher=publisher, clock=clock),
            room=room,
            capacity=capacity,
            kernel_times=bool(request.directory) and writable,
            remote_fsync=request.fsync == "remote",
        )
        if writable:
            await _recover(staging, blocks, publisher, offload)
        session = Session(
            request=request, opened=opened, volume=volume, staging=staging, cache=cache, transfer=transfer
        )
        async with volume.running():
            if claim:
                await _claim(publisher)
            if writable:
                volume.take_charge(os.getuid(), os.getgid())
            try:
                yield session
            finally:
                if writable:
                    with trio.CancelScope(shield=True):
                        await volume.settle()
            if writable:
                await _release(publisher)


async def _claim(publisher: Publisher) -> None:
    with trio.move_on_after(DEADLINE):
        return await publisher.wait_for(await publisher.announce(Kind.CLAIM))
    publisher.check()
    raise StorageUnreachable(storage="The storage", reason=f"no answer within {DEADLINE:.0f} s")


async def _release(publisher: Publisher) -> None:
    """Give the volume up, if all of it is in the storage. Without an answer in time it stays ours: the next mount
    here goes on as its owner."""
    if publisher.fenced is not None or publisher.unsent or publisher.trouble is not None:
        return
    with trio.move_on_after(GIVE_UP):
        await publisher.wait_for(await publisher.announce(Kind.RELEASE))


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


async def _recover(staging: Staging, blocks: Blocks, publisher: Publisher, offload: Offload) -> None:
    """Take over what a killed process left staged; a pack that it had open is closed as it is."""
    known = blocks.unfinished()
    for name in await offload(partial(staging.recover, known)):
        await offload(partial(staging.reopen, name, known[name][1]))
        await publisher.close_pack()
