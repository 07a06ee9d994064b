"""Checkpoints: the whole namespace at one journal position, in the storage.

A manifest `checkpoints/<position, 16 hex digits>` is signed and sealed as `signed` states, under the metadata key; its
body is a msgpack array of the fields of `Manifest`. It names, in order, the 64 KiB groups of the database's plain
pages: each a compressed frame of type CHECKPOINT_GROUP under the metadata key, its context the group's keyed digest,
in packs that hold nothing else.

Above: `volume.Volume` runs a `Checkpointer`, `leftovers` asks it for names, `opening` restores. Below: `pages`,
`signed`, `transfer`.
Invariants: a checkpoint at a position shows exactly the records up to there (its view is pinned in the step of the
cut) and is published only after that record; groups that an earlier kept checkpoint has are not sent again; manifests
are the only root of their packs, and those of a checkpoint that fails before its manifest is sent are taken back; the
last two checkpoints are kept, with every record since the older one, and claims are never trimmed.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import apsw
import msgspec
import trio
import zstandard

from infinitfs.block.pack import object_key as pack_key
from infinitfs.errors import DamagedFrame, DamagedObject, InfinitfsError, IntegrityError, ObjectNotFound
from infinitfs.keys import RandomBytes
from infinitfs.keys.frame import FrameType
from infinitfs.keys.identity import Identity
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.transfer.background import together
from infinitfs.transfer.base import Transfer
from infinitfs.transfer.files import Offload, local_errors
from infinitfs.volume.database import Database
from infinitfs.volume.history import History, Point
from infinitfs.volume.journal import JOURNAL
from infinitfs.volume.pages import GROUP, export_pages, import_pages
from infinitfs.volume.signed import Form, Members

_log = logging.getLogger(__name__)

CHECKPOINTS = Form(Purpose.METADATA, FrameType.MANIFEST, "checkpoints")
KEPT = 2
PACK = 8 * 2**20
_SMALLEST = 4 * 2**20  # bytes of journal below which no checkpoint is due
_SHARE = 0.5  # of the last checkpoint's size: journal beyond it makes one due
_RECORDS = 1000  # records that a fresh machine would have to fetch one by one
_PATIENCE = 5.0  # seconds for taking packs back: who unmounts waits for it


def most_stored(size: int) -> int:
    """The most bytes that the checkpoints and the journal of a database of `size` bytes take in the storage."""
    return (KEPT + 1) * size + KEPT * max(_SMALLEST, int(size * _SHARE))


class Group(msgspec.Struct, frozen=True, array_like=True):
    """`[offset, offset + length)` of the pack `pack` (hex) is the frame of the group with that keyed digest."""

    digest: bytes
    pack: str
    offset: int
    length: int


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    volume: bytes
    point: Point
    size: int
    groups: list[Group]


def open_manifest(ring: KeyRing, members: Members, position: int, data: bytes) -> Manifest:
    """Raises DamagedObject by name."""
    key = CHECKPOINTS.key(ring.volume_id.hex(), position)
    try:
        manifest = msgspec.msgpack.decode(CHECKPOINTS.open(ring, members, position, data), type=Manifest)
    except msgspec.MsgspecError as error:
        raise DamagedObject(key=key, reason=str(error)) from None
    if manifest.volume != ring.volume_id or manifest.point.position != position:
        raise DamagedObject(key=key, reason="it is the checkpoint of another place")
    if len(manifest.groups) != -(-manifest.size // GROUP):
        raise DamagedObject(key=key, reason="it does not name every group")
    return manifest


@dataclass(slots=True)
class _Pinned:
    """A view of the database at `position`; `point` is the history there, once the storage has acknowledged it."""

    position: int
    connection: apsw.Connection
    reached: trio.Event
    ended: trio.Event
    point: Point | None = None


class Checkpointer:
    """Takes checkpoints when they are due. `folder` holds sealed packs until they are sent."""

    def __init__(
        self,
        *,
        database: Database,
        ring: KeyRing,
        identity: Identity,
        members: Members,
        history: History,
        transfer: Transfer,
        folder: Path,
        random: RandomBytes,
        offload: Offload,
    ) -> None:
        self._database = database
        self._ring = ring
        self._identity = identity
        self._members = members
        self._history = history
        self._transfer = transfer
        self._folder = folder
        self._random = random
        self._offload = offload
        self._volume = ring.volume_id.hex()
        self._pinned: _Pinned | None = None
        self._wanted = trio.Event()
        self._last: Manifest | None = None
        self._making: list[str] = []  # packs of the one under way
        self.forced = False
        """The next cut is a checkpoint whether one is due or not."""

    # --- called in the steps of the publisher: no await ---

    def at_cut(self, position: int) -> None:
        """Pin the database as it is now, where a checkpoint is due and none is under way."""
        if self._pinned is None and (self.forced or self._due(position)):
            try:
                connection = self._database.connect()
                connection.execute("BEGIN; SELECT count(*) FROM local").fetchall()
            except (InfinitfsError, apsw.Error) as error:
                _log.warning("No checkpoint was made, the next cut will try again: %s", error)
                return
            self._pinned = _Pinned(position, connection, trio.Event(), trio.Event())
            self.forced = False
            self._wanted.set()

    def _due(self, position: int) -> bool:
        size = self._last.size if self._last else 0
        journal = self._history.point.journal_bytes
        return journal > max(_SMALLEST, int(size * _SHARE)) or position - self.last > _RECORDS

    def at_acknowledged(self, position: int) -> None:
        if self._pinned is not None and self._pinned.position == position:
            self._pinned.point = self._history.point
            self._pinned.reached.set()

    # --- taking one ---

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            pinned = self._pinned
            assert pinned is not None
            try:
                await self._take(pinned)
            except (InfinitfsError, apsw.Error) as error:
                _log.warning("No checkpoint was made, the next one will be: %s", error)
            finally:
                pinned.connection.close()
                self._making = []
                self._pinned = None
                pinned.ended.set()

    async def finished(self) -> None:
        """Return once none is under way."""
        while self._pinned is not None:
            await self._pinned.ended.wait()

    async def _take(self, pinned: _Pinned) -> None:
        if self._last is None:
            self._last = await self._newest()
        # Packs that have a row are going, though a manifest that came late may name them.
        going = {bytes(name).hex() for (name,) in self._database.rows("SELECT name FROM packs WHERE live = 0")}
        groups = self._last.groups if self._last else []
        known = {group.digest: group for group in groups if group.pack not in going}
        with trio.CancelScope(shield=True):
            size, groups, self._making = await self._offload(partial(self._export, pinned.connection, known))
        pinned.connection.close()  # the log may start over; only the sealed groups are needed from here on
        await pinned.reached.wait()
        assert pinned.point is not None
        point = msgspec.structs.replace(
            pinned.point, journal_bytes=0, checkpoints=[*pinned.point.checkpoints, pinned.position][-KEPT:]
        )
        await self._send(self._making)
        manifest = Manifest(self._ring.volume_id, point, size, groups)
        data = CHECKPOINTS.seal(self._ring, self._identity, pinned.position, msgspec.msgpack.encode(manifest))
        await self._transfer.put(CHECKPOINTS.key(self._volume, pinned.position), data)
        self._last = manifest
        now = self._history.point
        self._database.begin()
        self._history.set(
            msgspec.structs.replace(
                now,
                checkpoints=point.checkpoints,
                journal_bytes=now.journal_bytes - pinned.point.journal_bytes,
            )
        )
        await self._trim(manifest)

    async def _send(self, packs: list[str]) -> None:
        """Upload packs, all of them or, as far as the storage can be told, none: no manifest names them yet."""
        try:
            for pack in packs:
                await self._transfer.upload(pack_key(self._volume, pack), self._folder / pack)
                (self._folder / pack).unlink()
        except BaseException:
            with trio.move_on_after(_PATIENCE, shield=True), suppress(InfinitfsError):
                for sent in packs[: packs.index(pack) + 1]:
                    await self._transfer.delete(pack_key(self._volume, sent))
            raise

    # --- what there is ---

    @property
    def last(self) -> int:
        """The position of the last checkpoint, 0 without one."""
        return self._history.point.checkpoints[-1] if self._history.point.checkpoints else 0

    @property
    def packs(self) -> set[str]:
        """The packs of the last checkpoint and of the one under way, as far as this session knows."""
        return {group.pack for group in (self._last.groups if self._last else [])} | set(self._making)

    async def named(self) -> set[str] | None:
        """The packs that manifests name, whoever made them; None where one of them cannot be read."""
        named: set[str] = set()
        for position in await self._positions():
            manifest = await self._fetch(position)
            if manifest is None:
                return None
            named.update(group.pack for group in manifest.groups)
        return named

    async def _positions(self) -> list[int]:
        listed = await self._transfer.list(f"{self._volume}/{CHECKPOINTS.folder}/")
        return [p for info in listed if (p := CHECKPOINTS.position(info.key)) is not None]

    async def _newest(self) -> Manifest | None:
        """The newest manifest there is, whoever made it: the one that nobody trims."""
        positions = await self._positions()
        return await self._fetch(max(positions)) if positions else None

    async def _fetch(self, position: int) -> Manifest | None:
        """A manifest that may be gone or damaged: then every group is sent again."""
        try:
            data = await self._transfer.get(CHECKPOINTS.key(self._volume, position))
            return open_manifest(self._ring, self._members, position, data)
        except (ObjectNotFound, IntegrityError) as error:
            _log.warning("%s", error)
            return None

    def _export(self, connection: apsw.Connection, known: dict[bytes, Group]) -> tuple[int, list[Group], list[str]]:
        """In a thread: seal the groups that are new into packs in `folder`; memory holds one group."""
        for leftover in self._folder.iterdir():
            leftover.unlink()
        groups: dict[int, Group] = {}
        packs: list[str] = []
        offset = PACK
        with local_errors(self._folder / "packs", "written"), ExitStack() as files:
            file: BinaryIO | None = None

            def on_group(number: int, plain: bytes) -> None:
                nonlocal file, offset
                digest = self._ring.digest(plain)
                old = known.get(digest)
                if old is not None:
                    groups[number] = old
                    return
                if file is None or offset >= PACK:
                    packs.append(self._random(16).hex())
                    file, offset = files.enter_context((self._folder / packs[-1]).open("xb")), 0
                payload = zstandard.ZstdCompressor(level=3).compress(plain)
                frame = self._ring.seal(Purpose.METADATA, FrameType.CHECKPOINT_GROUP, digest, payload, compressed=True)
                file.write(frame)
                groups[number] = Group(digest, packs[-1], offset, len(frame))
                offset += len(frame)

            size = export_pages(connection, on_group=on_group)
        return size, [groups[number] for number in range(len(groups))], packs

    async def _trim(self, newest: Manifest) -> None:
        """Delete what no kept checkpoint needs: older manifests with their packs, and records; never claims."""
        oldest = newest.point.checkpoints[0]
        manifests = [newest]
        if oldest != newest.point.position:
            kept = await self._fetch(oldest)
            if kept is None:
                return  # what it needs is not known: all stays until it is not among the kept ones any more
            manifests.append(kept)
        needed = {group.pack for manifest in manifests for group in manifest.groups}
        for info in await self._transfer.list(f"{self._volume}/{CHECKPOINTS.folder}/"):
            position = CHECKPOINTS.position(info.key)
            if position is None or position >= oldest:
                continue
            old = await self._fetch(position)
            for pack in {group.pack for group in old.groups} - needed if old else set():
                await self._transfer.delete(pack_key(self._volume, pack))
            await self._transfer.delete(info.key)
        point = self._history.point
        if len(newest.point.checkpoints) == KEPT:
            claims = set(point.claims)
            for position in range(point.trimmed + 1, oldest + 1):
                if position not in claims:
                    await self._transfer.delete(JOURNAL.key(self._volume, position))
            self._database.begin()
            self._history.set(msgspec.structs.replace(self._history.point, trimmed=oldest))


# --- restoring one ---


async def restore(
    *,
    create: Callable[[], Database],
    ring: KeyRing,
    members: Members,
    transfer: Transfer,
    folder: Path,
    offload: Offload,
) -> tuple[Database, Point | None]:
    """A database filled from the newest checkpoint that opens; an empty one and None where the volume has none.

    `create` makes an empty database, each time anew. Raises what kept the newest one from opening, where none does.
    """
    volume = ring.volume_id.hex()
    listed = await transfer.list(f"{volume}/{CHECKPOINTS.folder}/")
    positions = sorted(p for info in listed if (p := CHECKPOINTS.position(info.key)) is not None)
    first: InfinitfsError | None = None
    for position in reversed(positions):
        try:
            data = await transfer.get(CHECKPOINTS.key(volume, position))
            manifest = open_manifest(ring, members, position, data)
            return await _fill(create, ring, transfer, folder, offload, manifest), manifest.point
        except (IntegrityError, ObjectNotFound) as error:
            _log.error("The checkpoint %d cannot be used, an older one is tried: %s", position, error)
            first = first or error
    if first is not None:
        raise first
    return create(), None


async def _fill(
    create: Callable[[], Database],
    ring: KeyRing,
    transfer: Transfer,
    folder: Path,
    offload: Offload,
    manifest: Manifest,
) -> Database:
    ends: dict[str, int] = {}
    for group in manifest.groups:
        ends[group.pack] = max(ends.get(group.pack, 0), group.offset + group.length)
    volume = ring.volume_id.hex()
    parallel = trio.CapacityLimiter(8)

    async def fetch(pack: str, end: int) -> None:
        async with parallel:
            await transfer.download(pack_key(volume, pack), 0, end, folder / pack)

    try:
        async with together() as nursery:
            for pack, end in ends.items():
                nursery.start_soon(fetch, pack, end)

        def read_group(number: int) -> bytes:
            return _open_group(ring, folder, manifest.groups[number])

        database = create()
        try:
            await offload(partial(import_pages, database.connection, manifest.size, read_group))
        except BaseException:
            database.close()
            raise
        return database
    finally:
        for pack in ends:
            (folder / pack).unlink(missing_ok=True)


def _open_group(ring: KeyRing, folder: Path, group: Group) -> bytes:
    with (folder / group.pack).open("rb") as file:
        file.seek(group.offset)
        frame = file.read(group.length)
    try:
        opened = ring.open(Purpose.METADATA, FrameType.CHECKPOINT_GROUP, group.digest, frame)
        plain = zstandard.ZstdDecompressor().decompress(opened.payload)
    except DamagedFrame as error:
        raise _damaged(ring, group, error.fields["reason"]) from None
    except zstandard.ZstdError as error:
        raise _damaged(ring, group, str(error)) from None
    if ring.digest(plain) != group.digest:
        raise _damaged(ring, group, "a group is not the one it names")
    return plain


def _damaged(ring: KeyRing, group: Group, reason: str) -> DamagedObject:
    return DamagedObject(key=pack_key(ring.volume_id.hex(), group.pack), reason=reason)
