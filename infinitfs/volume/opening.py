"""Bringing this machine's state and the storage together: restore, verify, replay, claim.

Above: `mount/compose.py`, before anything else touches the volume. Below: `checkpoint.restore`, `journal`, `database`.

Invariants.
- Local state is never older than what this machine has sent, so a record that follows and is not our own was written
  by another owner: it is applied where nothing of ours is unsent, refused otherwise.
- The record at the pinned position has the pinned hash: anything else is a storage that was rolled back or forked.
- A claim without a release means owned, whatever its age. No clock decides anything.
- Where nothing is pinned yet, the storage must have the volume's descriptor: what was deleted is not begun anew.
"""

import logging
import math
from functools import partial
from pathlib import Path

import trio

from infinitfs.config.disk import sync_folder
from infinitfs.errors import (
    DamagedObject,
    Fenced,
    HistoryRolledBack,
    NotFound,
    ObjectNotFound,
    StorageUnreachable,
    VolumeOwned,
)
from infinitfs.keys.ring import KeyRing
from infinitfs.transfer.background import together
from infinitfs.transfer.base import Transfer
from infinitfs.transfer.files import Offload
from infinitfs.volume.checkpoint import CHECKPOINTS, restore
from infinitfs.volume.database import Database
from infinitfs.volume.descriptor import DESCRIPTORS
from infinitfs.volume.history import History
from infinitfs.volume.journal import JOURNAL, Kind, Record, object_hash, open_record
from infinitfs.volume.schema import ADDED, LOCAL
from infinitfs.volume.signed import Form, Members

_log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds
_AHEAD = 16  # records fetched at once while replaying


class Opening:
    """One volume being opened. `name` is for messages, `folder` for the sealed packs of a checkpoint."""

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        ring: KeyRing,
        members: Members,
        transfer: Transfer,
        folder: Path,
        offload: Offload,
    ) -> None:
        self._name = name
        self._path = path
        self._ring = ring
        self._members = members
        self._transfer = transfer
        self._folder = folder
        self._offload = offload
        self._volume = ring.volume_id.hex()

    async def open(self, state: str) -> tuple[Database, History]:
        """The local database, caught up with the storage (or, while that is away, as it was).

        `state` is this state folder's own name among owners. Raises what `_catch_up` raises, NotFound where the storage
        does not have the volume.
        """
        new = not self._path.exists()
        if new:
            await self._check_described()
            await self._build()
            await self._offload(self._install)
        database, history = await self._open_database()
        try:
            if not new and history.position == 0:  # nothing pins what the storage has to hold
                await self._check_described()
            if not await self._catch_up(database, history, state):
                self._check_nothing_unsent(database, "another machine")
                _log.info("The local state is older than the storage's journal: it is made anew from a checkpoint.")
                await self._build()
                database.close()
                await self._offload(self._install)
                database, history = await self._open_database()
                if not await self._catch_up(database, history, state):
                    raise self._rolled_back(history.position + 1)
            return database, history
        except BaseException:
            database.close()
            raise

    async def _check_described(self) -> None:
        """The storage has the volume: without its descriptor nobody else could ever find what is written."""
        if not await self._transfer.list(f"{self._volume}/{DESCRIPTORS}/"):
            raise NotFound(
                what=f'The volume "{self._name}"',
                remedy="its storage does not have it any more; "
                f"`infinitfs volume delete {self._name}` forgets it on this machine, too",
            )

    # --- the local database ---

    async def _open_database(self) -> tuple[Database, History]:
        database = Database(self._path, self._ring.database_key(), self._offload)
        try:
            database.open_log()
            await self._offload(partial(sync_folder, self._path.parent))  # the log was made just now
            await database.sync()  # before anything is done that it says: a killed process may have left it unsynced
            history = History(database)
            database.position = _next_position(database, history)
            database.outbox_bytes = database.value("SELECT sum(length(changeset)) FROM outbox")
        except BaseException:
            database.close()
            raise
        return database, history

    async def _build(self) -> None:
        """The state that the newest checkpoint shows, an empty one where the volume has none: under another name until
        it is whole, so that a crash leaves none that is not."""
        database, point = await restore(
            create=self._create,
            ring=self._ring,
            members=self._members,
            transfer=self._transfer,
            folder=self._folder,
            offload=self._offload,
        )
        try:
            if point is None:
                database.create()
            else:
                emptied = "".join(f"DELETE FROM {table};" for table in LOCAL)
                database.connection.execute(f"BEGIN; {ADDED} {emptied} COMMIT")
                database.open_log()
                database.begin(journaled=False)
                History(database).set(point)
            await database.sync()
        finally:
            database.close()

    @property
    def _fresh(self) -> Path:
        return self._path.with_suffix(".new")

    def _create(self) -> Database:
        """An empty file, in place of one that was not finished."""
        _remove(self._fresh)
        return Database(self._fresh, self._ring.database_key(), self._offload)

    def _install(self) -> None:
        _remove(self._path)
        self._fresh.rename(self._path)
        sync_folder(self._path.parent)

    # --- catching up with the storage ---

    async def _catch_up(self, database: Database, history: History, state: str) -> bool:
        """Apply what other owners wrote since; nothing while the storage is away and the volume is ours anyway.

        False where some of it was trimmed behind a newer checkpoint: claims are never trimmed, so records may follow
        all the same. `state` is this state folder's own. Raises HistoryRolledBack, DamagedObject by name, Fenced where
        there are unsent changes that no longer fit, StorageUnreachable where the storage is needed.
        """
        owner = history.point.owner
        ours = owner is not None and owner.state == state
        try:
            # What is ours by claim may be used without the storage: then its answer is not waited for as long.
            with trio.fail_after(_PATIENCE if ours else math.inf):
                # Listed first: all that is there now has to be reached, and what an owner adds meanwhile is no gap.
                checkpoint, record = await self._newest(CHECKPOINTS), await self._newest(JOURNAL)
                await self._verify(history, checkpoint)
                while found := await self._following(history.position):
                    for position, data in found:
                        await self._apply(database, history, position, data)
        except (StorageUnreachable, trio.TooSlowError) as error:
            if not ours:
                raise
            _log.warning("The storage is away, the volume is used without it: %s", error or "no answer yet")
            return True
        if history.position < record and history.position >= checkpoint:
            raise self._rolled_back(history.position + 1)
        return history.position >= checkpoint

    async def _newest(self, form: Form) -> int:
        """The highest position of an object of `form`, 0 without any."""
        listed = await self._transfer.list(f"{self._volume}/{form.folder}/")
        return max((form.position(info.key) or 0 for info in listed), default=0)

    def _rolled_back(self, position: int) -> HistoryRolledBack:
        return HistoryRolledBack(volume=self._name, sequence=str(position))

    async def _verify(self, history: History, checkpoint: int) -> None:
        """The record that is pinned here is the one in the storage."""
        if history.position == 0:
            return
        try:
            data = await self._transfer.get(JOURNAL.key(self._volume, history.position))
        except ObjectNotFound:
            if checkpoint > history.position:
                return  # trimmed; the records that follow still have to chain to the pinned hash
            raise self._rolled_back(history.position) from None
        if object_hash(data) != history.hash:
            data, _ = await self._intact(history.position, data)  # damage says nothing of another history
            if object_hash(data) != history.hash:
                raise self._rolled_back(history.position)

    def _check_nothing_unsent(self, database: Database, owner: str) -> None:
        unsent = database.row(
            "SELECT EXISTS (SELECT 1 FROM outbox) OR EXISTS (SELECT 1 FROM intents)"
            " OR EXISTS (SELECT 1 FROM records WHERE kind = ?)",
            (Kind.CHANGES.value,),
        )[0]
        if unsent:
            raise Fenced(volume=self._name, owner=owner, state=str(self._path.parent))

    async def _following(self, position: int) -> list[tuple[int, bytes]]:
        """The next records there are, in order without a gap; usually none, found out with one request."""
        try:
            first = await self._transfer.get(JOURNAL.key(self._volume, position + 1))
        except ObjectNotFound:
            return []
        fetched: dict[int, bytes] = {position + 1: first}

        async def fetch(number: int) -> None:
            try:
                fetched[number] = await self._transfer.get(JOURNAL.key(self._volume, number))
            except ObjectNotFound:
                return

        async with together() as nursery:
            for number in range(position + 2, position + 1 + _AHEAD):
                nursery.start_soon(fetch, number)
        found = []
        while (data := fetched.get(position + 1)) is not None:
            position += 1
            found.append((position, data))
        return found

    async def _apply(self, database: Database, history: History, position: int, data: bytes) -> None:
        """Apply one record. One of ours, whose acknowledgement was lost, is in the tables already."""
        connection = database.connection
        data, record = await self._intact(position, data)
        row = database.row("SELECT hash FROM records WHERE position = ?", (position,))
        if row is not None and bytes(row[0]) == object_hash(data):
            database.begin()
            connection.execute("DELETE FROM staged WHERE position <= ?", (position,))
            connection.execute("DELETE FROM records WHERE position = ?", (position,))
            history.advance(position, object_hash(data), record.kind, record.owner, len(data))
            await database.sync()  # before its packs leave the staging folder
            return
        if record.previous != history.hash:
            raise self._rolled_back(position)
        self._check_nothing_unsent(database, f"{record.owner.user} on {record.owner.host}")
        database.apply(record.changesets)
        connection.execute("DELETE FROM records")  # claims or releases of ours that came too late
        history.advance(position, object_hash(data), record.kind, record.owner, len(data))
        database.commit()
        database.position = history.position + 1

    async def _intact(self, position: int, data: bytes) -> tuple[bytes, Record]:
        """A record and its object, asked for once more where it is damaged: it may have been so on its way alone."""
        opened = partial(open_record, self._ring, self._members, position)
        try:
            return data, await self._offload(partial(opened, data))
        except DamagedObject:
            data = await self._transfer.get(JOURNAL.key(self._volume, position))
            return data, await self._offload(partial(opened, data))

    # --- ownership ---

    def needs_claim(self, database: Database, history: History, state: str, *, take_over: bool) -> bool:
        """Whether a claim must be sent before anything is written. Raises VolumeOwned."""
        owner = history.point.owner
        # A claim or release that an earlier session cut and did not see acknowledged is sent again and counts then.
        waiting = database.value("SELECT count(*) FROM records WHERE kind != ?", (Kind.CHANGES.value,))
        if owner is None or waiting:
            return True
        if owner.state == state:
            return False
        if take_over:
            return True
        raise VolumeOwned(
            volume=self._name,
            user=owner.user,
            host=owner.host,
            mountpoint=owner.mountpoint,
            since=owner.since,
        )


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _next_position(database: Database, history: History) -> int:
    """The position of the record to come: behind every record cut, or that changes already bear."""
    return max(
        database.value("SELECT max(position) + 1 FROM records"),
        database.value("SELECT max(position) FROM outbox"),
        history.position + 1,
    )
