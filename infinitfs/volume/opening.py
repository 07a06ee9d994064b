"""Bringing this machine's state and the storage together: restore, verify, replay, claim.

Above: `mount/session.py`, before anything else touches the volume. Below: `checkpoint.restore`, `journal`, `database`.

Invariants.
- Local state is never older than what this machine has sent, so a record that follows and is not our own was written
  by another owner: it is applied where nothing of ours is unsent, refused otherwise.
- The record at the pinned position has the pinned hash: anything else is a storage that was rolled back or forked.
- A claim without a release means owned, whatever its age. No clock decides anything.
"""

import logging
from functools import partial
from pathlib import Path

from infinitfs.config.disk import sync_folder
from infinitfs.errors import Fenced, HistoryRolledBack, ObjectNotFound, StorageUnreachable, VolumeOwned
from infinitfs.keys.ring import KeyRing
from infinitfs.transfer.background import together
from infinitfs.transfer.base import Transfer
from infinitfs.transfer.files import Offload
from infinitfs.volume.checkpoint import CHECKPOINTS, restore
from infinitfs.volume.database import Database
from infinitfs.volume.history import History
from infinitfs.volume.journal import JOURNAL, Kind, object_hash, open_record
from infinitfs.volume.schema import LOCAL
from infinitfs.volume.signed import Members

_log = logging.getLogger(__name__)

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

        `state` is this state folder's own name among owners. Raises what `catch_up` raises.
        """
        database, history = await self._open_database()
        try:
            if await self._is_outdated(history):
                self._check_nothing_unsent(database, "another machine")
                database.close()
                _log.info("The local state is older than the storage's journal: it is made anew from a checkpoint.")
                _remove(self._path)
                database, history = await self._open_database()
            await self.catch_up(database, history, state)
            return database, history
        except BaseException:
            database.close()
            raise

    # --- the local database ---

    async def _open_database(self) -> tuple[Database, History]:
        """This machine's state of the volume, made from the newest checkpoint where there is none yet."""
        fresh = self._path.with_suffix(".new")
        if not self._path.exists():
            await self._build(fresh)
            await self._offload(partial(_install, fresh, self._path))
        database = Database(self._path, self._ring.database_key(), self._offload)
        database.open_log()
        history = History(database)
        database.position = _next_position(database, history)
        database.outbox_bytes = database.value("SELECT sum(length(changeset)) FROM outbox")
        return database, history

    async def _build(self, path: Path) -> None:
        """A database under another name until it is whole, so that a crash leaves none that is not."""
        _remove(path)
        database = Database(path, self._ring.database_key(), self._offload)
        try:
            point = await restore(
                database=database,
                ring=self._ring,
                members=self._members,
                transfer=self._transfer,
                folder=self._folder,
                offload=self._offload,
            )
            if point is None:
                database.create()
            else:
                database.connection.execute("BEGIN;" + "".join(f"DELETE FROM {t};" for t in LOCAL) + "COMMIT")
                database.open_log()
                database.begin(journaled=False)
                History(database).set(point)
            await database.sync()
        finally:
            database.close()

    # --- catching up with the storage ---

    async def catch_up(self, database: Database, history: History, state: str) -> None:
        """Apply what other owners wrote since; nothing while the storage is away and the volume is ours anyway.

        `state` is this state folder's own. Raises HistoryRolledBack, DamagedObject by name, Fenced where there are
        unsent changes that no longer fit, StorageUnreachable where the storage is needed.
        """
        try:
            await self._verify(history)
            while found := await self._following(history.position):
                for position, data in found:
                    if not await self._apply(database, history, position, data):
                        return
        except StorageUnreachable:
            owner = history.point.owner
            if owner is None or owner.state != state:
                raise

    async def _is_outdated(self, history: History) -> bool:
        """Whether the records that follow were trimmed behind a newer checkpoint. False while the storage is away."""
        try:
            await self._transfer.get(JOURNAL.key(self._volume, history.position + 1))
        except ObjectNotFound:
            return await self._newest_checkpoint() > history.position
        except StorageUnreachable:
            return False
        return False

    async def _newest_checkpoint(self) -> int:
        listed = await self._transfer.list(f"{self._volume}/{CHECKPOINTS.folder}/")
        return max((CHECKPOINTS.position(info.key) or 0 for info in listed), default=0)

    async def _verify(self, history: History) -> None:
        if history.position == 0:
            return
        try:
            data = await self._transfer.get(JOURNAL.key(self._volume, history.position))
        except ObjectNotFound:
            if await self._newest_checkpoint() > history.position:
                return  # trimmed; the records that follow still have to chain to the pinned hash
            data = b""
        if object_hash(data) != history.hash:
            raise HistoryRolledBack(volume=self._name, sequence=str(history.position))

    def _check_nothing_unsent(self, database: Database, owner: str) -> None:
        unsent = database.row(
            "SELECT EXISTS (SELECT 1 FROM outbox) OR EXISTS (SELECT 1 FROM records WHERE kind = ?)",
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

    async def _apply(self, database: Database, history: History, position: int, data: bytes) -> bool:
        """Apply one record; False where it is one of ours that waits for its acknowledgement."""
        connection = database.connection
        row = database.row("SELECT hash FROM records WHERE position = ?", (position,))
        if row is not None and bytes(row[0]) == object_hash(data):
            return False
        record = await self._offload(partial(open_record, self._ring, self._members, position, data))
        if record.previous != history.hash:
            raise HistoryRolledBack(volume=self._name, sequence=str(position))
        self._check_nothing_unsent(database, f"{record.owner.user} on {record.owner.host}")
        database.apply(record.changesets)
        connection.execute("DELETE FROM records")  # claims or releases of ours that came too late
        history.advance(position, object_hash(data), record.kind, record.owner, len(data))
        database.commit()
        database.position = history.position + 1
        return True

    # --- ownership ---

    def needs_claim(self, history: History, state: str, *, take_over: bool) -> bool:
        """Whether a claim must be sent before anything is written. Raises VolumeOwned."""
        owner = history.point.owner
        if owner is None:
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


def _install(fresh: Path, path: Path) -> None:
    fresh.rename(path)
    sync_folder(path.parent)


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
