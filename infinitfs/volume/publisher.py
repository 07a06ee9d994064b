"""From the outbox to the storage: packs up, records cut, sealed and published in order.

Above: `volume.Volume` (fsync to the storage, drain), `collector`, `checkpoint`. Below: `database`, `journal`,
`block.staging`, `transfer`.

Invariants.
- A record is cut only with the open pack closed, so every block its changes name lies in a closed pack; it is sent
  only after every pack closed before it is acknowledged.
- A record is sealed once, stored in `records` and made durable before its first PUT; every retry, also after a
  restart, sends the same bytes, so an object that is there already with the same bytes is our own success and one
  with other bytes is another owner's: then we are fenced.
- A row leaves `outbox` in the transaction that stores its record, a record leaves `records` when the storage has it.
- A record has the content of all that was fsynced before its changes: intents are flushed before it is cut, and none
  begins until it is.
- Positions are given under the flush lock, in one step with the commit that ends the record's changes: a change made
  after the step belongs to the next record. What breaks if you await in that step: a block born after the cut would
  carry the position of the record before it.
"""

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from infinitfs.block.pack import object_key as pack_key
from infinitfs.block.staging import Staging
from infinitfs.errors import Fenced, InfinitfsError, ObjectExists, StorageUnreachable
from infinitfs.keys.identity import Identity
from infinitfs.keys.ring import KeyRing
from infinitfs.transfer.background import together
from infinitfs.transfer.base import Transfer
from infinitfs.transfer.cache import PackCache
from infinitfs.transfer.files import Offload
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.clock import Clock
from infinitfs.volume.database import Database
from infinitfs.volume.history import History
from infinitfs.volume.journal import JOURNAL, Kind, Owner, Record, describe_owner, object_hash, seal_record
from infinitfs.volume.signed import Members

_log = logging.getLogger(__name__)

LINGER = 3.0  # seconds a change may wait for company before its record is cut
_WAITING = 4  # records that wait for the storage; with more, changes gather in the outbox instead
_GATHERED = 8 * 2**20  # bytes of changesets that are cut into a record however many wait
_UPLOADS = 8  # packs on their way at once
_YIELD = 10.0  # seconds a pack may wait while flushes go on: what programs wait for goes first,
_SHARE = 4  # unless one part in so many of what may wait is reached
_CALM = 0.25  # seconds without a flush: less lies between two of somebody who writes on and on
_RETRY = (1.0, 8.0)  # seconds between attempts once the transfer process has given up: first, longest


class Publisher:
    """Publishes what `owner` changes. `flush_lock` is the volume's: held while the open pack must not grow. `backlog`:
    the most bytes that may wait for the storage."""

    def __init__(
        self,
        *,
        name: str,
        database: Database,
        blocks: Blocks,
        staging: Staging,
        cache: PackCache,
        ring: KeyRing,
        identity: Identity,
        members: Members,
        owner: Owner,
        history: History,
        transfer: Transfer,
        clock: Clock,
        flush_lock: trio.Lock,
        offload: Offload,
        backlog: int,
    ) -> None:
        self._name = name
        self._database = database
        self._blocks = blocks
        self._staging = staging
        self._much = backlog // _SHARE
        self._cache = cache
        self._ring = ring
        self._identity = identity
        self._members = members
        self.owner = owner
        self._history = history
        self._transfer = transfer
        self._clock = clock
        self._flush_lock = flush_lock
        self._offload = offload
        self._volume = ring.volume_id.hex()
        self._sealing = trio.Lock()
        self._durable = database.value("SELECT max(position) FROM records")
        """The last record that is on this machine's disk: none is sent before."""
        self._progress = trio.Event()
        self._uploading: set[str] = set()
        self._uploads = trio.CapacityLimiter(_UPLOADS)
        self._calm = trio.Event()
        self._calm.set()
        self._flushed = -math.inf
        self._unsent_since: float | None = None
        self.last_stored: str | None = None
        """When the storage last acknowledged a record, RFC 3339, None if it has not since the mount."""
        self.heard = clock.elapsed()
        """The same in the clock's seconds; at the opening it was asked."""
        self.trouble: InfinitfsError | None = None
        """Why the storage did not take what was sent last, None while all is well."""
        self.fenced: Fenced | None = None
        self.cutting = 0
        """Records that are about to be cut."""
        self.before_cut: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        """Flushes what intents say."""
        self.at_cut: Callable[[int], None] = lambda position: None
        """Called in the step of every cut of changes, when the database is what the journal up to there says."""
        self.at_acknowledged: Callable[[int], None] = lambda position: None
        """Called in the step in which the history reaches a position."""

    # --- what waits ---

    @property
    def position(self) -> int:
        """The last position that the storage has acknowledged."""
        return self._history.position

    @property
    def pending_records(self) -> int:
        return self._count("SELECT count(*) FROM records")

    @property
    def unsent(self) -> bool:
        """Whether any change of this machine is not in the storage."""
        return self._database.in_transaction or bool(
            self._count("SELECT EXISTS (SELECT 1 FROM outbox) OR EXISTS (SELECT 1 FROM records)")
        )

    @property
    def backlog(self) -> int:
        """Bytes on this machine that the storage does not have: packs, records and changes that wait for one."""
        return (
            self._staging.waiting
            + self._count("SELECT coalesce(sum(length(object)), 0) FROM records")
            + self._database.outbox_bytes
        )

    @property
    def has_gathered(self) -> bool:
        """Whether so much is to go into the next record that it is cut however many wait for the storage."""
        return self._database.outbox_bytes >= _GATHERED

    def _count(self, sql: str) -> int:
        row = self._database.row(sql)
        return int(row[0])

    # --- cutting records ---

    async def close_packs(self) -> None:
        """End the open pack and hand it to the uploads; the caller holds the flush lock."""
        for pack, size in await self._staging.close_packs():
            self._closed(pack, size)

    def close_full(self, pack: str) -> None:
        """As `close_packs`, of a pack that has its end already."""
        self._closed(pack, self._staging.close_full(pack))

    def _closed(self, pack: str, size: int) -> None:
        self._blocks.close_pack(pack, size)
        if self._staging.waiting > self._much:
            self._calm.set()
        self._notify()

    async def cut(self) -> int:
        """End the record that changes gather in; returns the position of the last record cut, durable here."""
        async with self._nothing_intended():
            await self._end_record()
        try:
            async with self._sealing:
                await self._seal_cut()
        except BaseException:
            if self._database.failed is None:
                self.changed()  # the next cut seals it
            raise
        return self._database.position - 1

    async def announce(self, kind: Kind) -> int:
        """A record of its own that claims or releases the volume, behind one of whatever was changed before; returns
        its position, durable here."""
        async with self._nothing_intended():  # to the end: no later record, which names this one, is sealed before it
            await self._end_record()
            position = self._database.position
            self._database.position += 1
            async with self._sealing:
                await self._seal_cut()
                await self._seal(position, kind, [])
        return position

    @asynccontextmanager
    async def _nothing_intended(self) -> AsyncIterator[None]:
        """The flush lock, with all that was fsynced in the tables."""
        self.cutting += 1
        try:
            await self.before_cut()
            async with self._flush_lock:
                yield
        finally:
            self.cutting -= 1

    async def _end_record(self) -> None:
        """Under the flush lock: every change until now belongs to a record that ends here, every later one does not."""
        await self.close_packs()
        self._database.commit()
        position = self._database.position
        if self._count(f"SELECT EXISTS (SELECT 1 FROM outbox WHERE position = {position:d})"):
            self.at_cut(position)
            self._database.position += 1
        self._unsent_since = None

    async def _seal_cut(self) -> None:
        """Seal every record that was cut: usually one; more after a crash between a cut and its seal."""
        while True:
            row = self._database.row("SELECT min(position) FROM outbox WHERE position < ?", (self._database.position,))
            if row[0] is None:
                return
            rows = self._database.rows("SELECT changeset FROM outbox WHERE position = ? ORDER BY id", row)
            await self._seal(row[0], Kind.CHANGES, [bytes(changeset) for (changeset,) in rows])

    async def _seal(self, position: int, kind: Kind, changesets: list[bytes]) -> None:
        row = self._database.row("SELECT hash FROM records WHERE position = ?", (position - 1,))
        previous = bytes(row[0]) if row else self._history.hash
        record = Record(self._ring.volume_id, position, previous, kind, self.owner, self._clock.timestamp(), changesets)
        data = await self._offload(partial(seal_record, self._ring, self._identity, record))
        self._database.begin()
        self._database.connection.execute(
            "INSERT INTO records VALUES (?, ?, ?, ?)", (position, kind.value, object_hash(data), data)
        )
        self._database.connection.execute("DELETE FROM outbox WHERE position = ?", (position,))
        self._database.outbox_bytes -= sum(map(len, changesets))
        with trio.CancelScope(shield=True):  # or nobody would send it, though it is there
            await self._database.sync()
        self._durable = position
        self._notify()

    # --- sending ---

    def changed(self) -> None:
        """Something was committed that the storage does not have."""
        if self._unsent_since is None:
            self._unsent_since = trio.current_time()

    def flushing(self) -> None:
        """A flush begins: packs that are closed until the last one is over leave processors and disk to it, unless
        somebody waits for the storage."""
        self._flushed = math.inf
        if self._calm.is_set() and self._staging.waiting <= self._much:
            self._calm = trio.Event()

    def flushed(self, *, everything: bool) -> None:
        """It is over; where something is left to flush, the next one may follow at once."""
        self._flushed = -math.inf if everything else trio.current_time()
        self._grow_calm()

    def _grow_calm(self) -> None:
        if trio.current_time() - self._flushed >= _CALM:
            self._calm.set()

    def is_own(self, position: int, data: bytes) -> bool:
        """Whether `data` is the record that this machine has cut for `position`."""
        row = self._database.row("SELECT hash FROM records WHERE position = ?", (position,))
        return row is not None and bytes(row[0]) == object_hash(data)

    def fence(self, owner: str) -> Fenced:
        """Another owner has written: nothing of ours is sent any more, and all of it is kept."""
        if self.fenced is None:
            self.fenced = Fenced(volume=self._name, owner=owner, state=str(self._database.path.parent))
            _log.error("%s", self.fenced)
            self._notify()
        return self.fenced

    def look_again(self) -> None:
        """The database has failed: who waits for the storage waits for nothing."""
        self._notify()

    def _notify(self) -> None:
        """Wake everyone who waits for something to happen here."""
        self._progress.set()
        self._progress = trio.Event()

    async def run(self) -> None:
        """Cut, upload and publish, for as long as the volume is open. Storage trouble is waited out."""
        async with together() as nursery:  # an error of the disk leaves as it is
            nursery.start_soon(self._cut_when_due)
            nursery.start_soon(self._publish_records)
            while self.fenced is None:
                progress = self._progress
                for name in self._waiting_packs():
                    self._uploading.add(name)
                    nursery.start_soon(self._upload, name)
                await progress.wait()

    async def _cut_when_due(self) -> None:
        while self.fenced is None:
            await trio.sleep(LINGER / 12)
            self._grow_calm()
            if self._unsent_since is None:
                continue
            aged = trio.current_time() - self._unsent_since >= LINGER and self.pending_records < _WAITING
            try:
                if aged or self.has_gathered:
                    await self.cut()
            except InfinitfsError as error:
                _log.error("%s", error)
                await trio.sleep(LINGER)

    def _waiting_packs(self) -> list[str]:
        rows = self._database.rows("SELECT pack FROM staged WHERE uploaded = 0")
        return [name for (pack,) in rows if (name := bytes(pack).hex()) not in self._uploading]

    async def _upload(self, name: str) -> None:
        async def attempt() -> None:
            await self._transfer.upload(pack_key(self._volume, name), self._staging.path(name))

        try:
            with trio.move_on_after(_YIELD):
                await self._calm.wait()
            async with self._uploads:
                await self._persist(attempt)
        except Fenced:
            return
        self._database.begin()
        self._database.connection.execute("UPDATE staged SET uploaded = 1 WHERE pack = ?", (bytes.fromhex(name),))
        self._uploading.discard(name)
        self._notify()

    async def _publish_records(self) -> None:
        """One after the other, each once the packs that were closed before it are in the storage."""
        while True:
            progress = self._progress
            row = self._database.row("SELECT min(position) FROM records WHERE position <= ?", (self._durable,))
            position = row[0]
            if position is None or self._count(
                f"SELECT EXISTS (SELECT 1 FROM staged WHERE position <= {position:d} AND uploaded = 0)"
            ):
                await progress.wait()
                continue
            try:
                await self._persist(partial(self._put, position))
            except Fenced:
                return
            await self._acknowledge(position)

    async def _persist(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Repeat what fails until it does not; raises Fenced once nothing may be sent any more."""
        pause = _RETRY[0]
        while True:
            if self.fenced is not None:
                raise self.fenced
            try:
                await attempt()
            except Fenced:
                raise
            except InfinitfsError as error:
                if self.trouble is None:
                    _log.warning("%s", error)
                self.trouble = error
                self._notify()
                await trio.sleep(pause)
                pause = min(pause * 2, _RETRY[1])
            else:
                self.trouble = None
                return

    async def _put(self, position: int) -> None:
        (data,) = self._database.row("SELECT object FROM records WHERE position = ?", (position,))
        key = JOURNAL.key(self._volume, position)
        try:
            await self._transfer.put(key, data, create=True)
        except ObjectExists:
            there = await self._transfer.get(key)
            if there != data:
                raise self.fence(describe_owner(self._ring, self._members, position, there)) from None

    async def _acknowledge(self, position: int) -> None:
        """The storage has the record: advance the history, and make its packs cache.

        The history is durable before a pack leaves the staging folder, so a restart never misses one.
        """
        connection = self._database.connection
        hash, kind, size = self._database.row(
            "SELECT hash, kind, length(object) FROM records WHERE position = ?", (position,)
        )
        packs = self._database.rows("SELECT pack FROM staged WHERE position <= ?", (position,))
        self._database.begin()
        connection.execute("DELETE FROM staged WHERE position <= ?", (position,))
        connection.execute("DELETE FROM records WHERE position = ?", (position,))
        self._history.advance(position, bytes(hash), Kind(kind), self.owner, size)
        self.at_acknowledged(position)
        self.last_stored = self._clock.timestamp()
        self.heard = self._clock.elapsed()
        self._notify()
        await self._database.sync()
        for (pack,) in packs:
            name = bytes(pack).hex()
            self._staging.release(name)
            await self._cache.adopt(name, self._staging.path(name))

    # --- waiting ---

    async def wait_for(self, position: int) -> None:
        """Return once the storage has acknowledged every record up to `position`.

        Raises Fenced, and what the database failed with. Storage trouble is waited out: a caller that gives up sooner
        cancels.
        """
        self._calm.set()
        while self._history.position < position:
            if self.fenced is not None:
                raise self.fenced
            if self._database.failed is not None:
                raise self._database.failed
            await self._progress.wait()

    async def publish_all(self) -> None:
        """Everything committed until now is in the storage when this returns."""
        self._database.commit()
        if self.unsent:
            await self.wait_for(await self.cut())

    def check(self) -> None:
        """Raise what keeps changes from being sent: Fenced for good, StorageUnreachable for now."""
        if self.fenced is not None:
            raise self.fenced
        if self.trouble is not None:
            if isinstance(self.trouble, StorageUnreachable):
                raise self.trouble
            raise StorageUnreachable(storage="The storage", reason=str(self.trouble))
