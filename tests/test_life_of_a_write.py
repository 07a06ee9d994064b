"""One write and one read, hop by hop: what README's "life of a write" and "life of a read" say, with every value.

The hops are those of the data: FUSE adapter, dirty range, intent, cut, id, frame, staged pack, extents, outbox, journal
record, objects; and back on another machine that has nothing but the storage and the key.
"""

import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import msgspec
import pytest
import zstandard
from blake3 import blake3
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from infinitfs.block import pack as packs
from infinitfs.block.index import Location
from infinitfs.config.paths import Paths
from infinitfs.errors import DamagedFrame
from infinitfs.file.extents import Extent
from infinitfs.keys.frame import FrameType, parse_header
from infinitfs.keys.identity import Identity
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.mount.compose import Composition, Machine
from infinitfs.mount.folders import Folders
from infinitfs.mount.operations import Operations
from infinitfs.mount.request import MountRequest
from infinitfs.mount.session import Session
from infinitfs.storage.memory import MemoryStorage
from infinitfs.transfer.client import local_transfer
from infinitfs.transfer.files import inline
from infinitfs.volume.clock import Clock
from infinitfs.volume.descriptor import OpenedVolume, Parameters, create_descriptor, descriptor_key, open_descriptor
from infinitfs.volume.journal import JOURNAL, Kind, object_hash, open_record
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.schema import SCHEMA
from tests.support.cut_reference import Rule
from tests.support.cut_reference import cut as reference_cut
from tests.support.randomness import seeded

PARAMETERS = Parameters(minimum=4096, target=8192, maximum=32768, zeros=4096, pack=1 << 20)
TEXT = b"".join(b"line %d of a text that compresses\n" % i for i in range(1200))
CONTENT = TEXT[:20000] + bytes(16384) + TEXT[20000:]
MODE = 0o100644


class World:
    """A storage, a user's key, a volume's descriptor."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.identity = Identity.generate(seeded(b"alice"))
        descriptor, _ = create_descriptor(
            "drive", self.identity, "alice", PARAMETERS, seeded(b"volume"), created="2026-01-01T00:00:00Z"
        )
        self.opened: OpenedVolume = open_descriptor(descriptor, self.identity, key=None, user_name="alice")
        self.ring: KeyRing = self.opened.ring
        self.id = self.opened.volume_id.hex()
        self.storage.objects[descriptor_key(self.opened.volume_id, 1)] = descriptor

    @asynccontextmanager
    async def mounted(self, home: Path) -> AsyncIterator[tuple[Session, Operations, Folders]]:
        """The volume on a machine whose folders are under `home`, with the FUSE adapter but no kernel."""
        folders = Folders(Paths.from_environment({"INFINITFS_HOME": str(home)}), self.id, "")
        request = MountRequest(volume="drive")
        async with (
            local_transfer(self.storage) as transfer,
            Composition(
                request=request,
                user="alice",
                capacity=0,
                opened=self.opened,
                identity=self.identity,
                folders=folders,
                transfer=transfer,
                machine=Machine(Clock(), secrets.token_bytes, inline, socket.gethostname()),
            ).session() as session,
        ):
            yield session, Operations(session.volume, request), folders


def derived_block_key(ring: KeyRing) -> bytes:
    """The block id key by another library call than the ring's own use of it."""
    secret: bytes = vars(ring)["_secret"]
    key = HKDF(secret, 32, ring.volume_id, SHA256, context=b"infinitfs 1 block id")
    assert isinstance(key, bytes)
    return key


async def test_a_write_and_a_read_through_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    ring = world.ring
    synced = _spy_on_fdatasync(monkeypatch)
    async with world.mounted(tmp_path / "one") as (session, operations, folders):
        volume = session.volume
        database = volume.database
        claimed = session.status().position
        assert claimed == 1, "the claim is the first record"

        # Operations.write -> Volume.write -> File.write: the bytes are a dirty range, and nothing else.
        inode = await volume.create(ROOT, b"report.txt", MODE, 0, 0)
        volume.open(inode.ino)
        assert await operations.write(inode.ino, 0, CONTENT) == len(CONTENT)
        file = vars(volume)["_in_core"].opened(inode.ino)
        assert [(run.offset, b"".join(run.chunks)) for run in file.dirty.runs()] == [(0, CONTENT)]
        assert volume.attributes(inode.ino).size == len(CONTENT)
        assert database.rows("SELECT * FROM extents") == []

        # Operations.fsync -> WriteBack.intend -> Intents.append: sealed as they are, synced, named by a row, synced.
        synced.clear()
        await operations.fsync(inode.ino, False)
        (intents,) = folders.intents.iterdir()
        assert synced[-2:] == [str(intents), f"{folders.database}-wal"]
        ((file_number, start, length),) = database.rows("SELECT file, offset, length FROM intents")
        assert (str(file_number), start, length) == (intents.name, 0, intents.stat().st_size)
        context = b"intent" + struct.pack("<QQ", file_number, start)
        intended = ring.open(Purpose.METADATA, FrameType.INTENT, context, intents.read_bytes()).payload
        assert bytes(intended[-len(CONTENT) :]) == CONTENT
        assert file.dirty
        assert database.rows("SELECT * FROM extents") == []

        # WriteBack.flush -> BlockWriter.store: cut, id, compress, seal.
        synced.clear()
        await volume.settle()
        assert database.rows("SELECT * FROM intents") == []
        assert list(folders.intents.iterdir()) == []
        rule = Rule(ring.gear(), PARAMETERS.minimum, PARAMETERS.target, PARAMETERS.maximum, PARAMETERS.zeros)
        pieces = reference_cut(CONTENT, rule, True)
        assert sum(length for length, _ in pieces) == len(CONTENT)
        holes = [length for length, fingerprint in pieces if fingerprint is None]
        assert holes
        assert sum(holes) >= 16384 - 8
        expected, offset = [], 0
        for length, fingerprint in pieces:
            if fingerprint is not None:
                plain = CONTENT[offset : offset + length]
                expected.append((offset, length, blake3(plain, key=derived_block_key(ring)).digest()))
            offset += length

        # Staging.append: the frames lie in one staged pack, which was synced before the log of the database was.
        (staged,) = list(folders.staging.iterdir())
        assert synced[-2:] == [str(staged), f"{folders.database}-wal"]
        frames = staged.read_bytes()

        # Blocks.add and Blocks.edit: one block a piece, one extent a block, nothing for the zeros.
        located = volume_extents(session, inode.ino)
        assert [(e.offset, e.length, where.id) for e, where in located] == expected
        for extent, where in located:
            assert (extent.skip, where.size, where.pack) == (0, extent.length, staged.name)
            frame = frames[where.offset : where.offset + where.length]
            header = parse_header(frame)
            assert (header.type, header.epoch, header.size) == (FrameType.BLOCK, 1, where.length)
            opened = ring.open(Purpose.DATA, FrameType.BLOCK, where.id, frame)
            payload = bytes(opened.payload)
            plain = zstandard.ZstdDecompressor().decompress(payload) if opened.compressed else payload
            assert plain == CONTENT[extent.offset : extent.end]
            assert opened.compressed or extent.length < 100, "text compresses, unless there is next to none"
            with pytest.raises(DamagedFrame):
                ring.open(Purpose.DATA, FrameType.BLOCK, bytes(32), frame)
        assert TEXT[:64] not in frames

        # Database.commit: the changeset of it all is in the outbox, at the position of the record to come.
        positions = {row[0] for row in database.rows("SELECT position FROM outbox")}
        assert positions == {claimed + 1} == {database.position}
        changesets = [row[0] for row in database.rows("SELECT changeset FROM outbox ORDER BY id")]
        assert not [key for key in world.storage.objects if "/packs/" in key]

        # Publisher.cut and run: the pack is ended by its index and uploaded, then the record is created.
        await session.drain()
        pack_key = packs.object_key(world.id, staged.name)
        stored = world.storage.objects[pack_key]
        assert stored[: len(frames)] == frames
        start, length = packs.index_span(stored[-packs.TRAILER.size :], len(stored))
        entries = packs.open_index(ring, staged.name, stored[start : start + length])
        assert [tuple(entry) for entry in entries] == [(w.id, w.offset, w.length, w.size) for _, w in located]
        data = world.storage.objects[JOURNAL.key(world.id, claimed + 1)]
        record = open_record(ring, world.opened.member, claimed + 1, data)
        assert record.kind is Kind.CHANGES
        assert record.changesets[:-1] == changesets, "and one more: the pack's size, known once it was ended"
        claim = world.storage.objects[JOURNAL.key(world.id, claimed)]
        assert record.previous == object_hash(claim)
        assert open_record(ring, world.opened.member, claimed, claim).kind is Kind.CLAIM

        # Acknowledged: the history is there, the outbox is empty, the staged pack has become cache.
        assert session.status().position == claimed + 1
        assert database.rows("SELECT * FROM outbox UNION ALL SELECT position, hash, object FROM records") == []
        assert list(folders.staging.iterdir()) == []
        assert session.status().cache_bytes == len(stored)
        volume.close(inode.ino)

    # The journal alone makes the same extents in an empty database.
    replica = apsw.Connection(":memory:")
    replica.execute(SCHEMA)
    for changeset in record.changesets:
        apsw.Changeset.apply(changeset, replica)
    rows = replica.execute("SELECT offset, length, block, skip FROM extents ORDER BY offset").fetchall()
    assert [Extent(*map(int_of, row)) for row in rows] == [extent for extent, _ in located]

    # --- and back, on a machine that has only the storage and the key ---

    async with world.mounted(tmp_path / "two") as (session, operations, folders):
        volume = session.volume
        found = volume.lookup(ROOT, b"report.txt")
        assert found is not None
        assert (found.ino, found.size, found.mode) == (inode.ino, len(CONTENT), MODE)
        volume.open(found.ino)

        # Operations.read -> Volume.read: the extents name the same places; nothing is in memory, staging or cache.
        assert volume_extents(session, found.ino) == [
            (extent, where._replace(pack_size=len(stored))) for extent, where in located
        ]
        assert session.status().cache_bytes == 0
        before = session.status().downloaded_bytes
        extent = located[1][0]
        assert (
            bytes(await operations.read(found.ino, extent.offset + 10, 100))
            == (CONTENT[extent.offset + 10 : extent.offset + 110])
        )

        # PackCache.read fetched what was missing, sealed; BlockReader opened it, checked its id and sliced it.
        cached = [path for path in folders.cache.rglob("*") if path.is_file()]
        assert session.status().downloaded_bytes - before == len(stored)
        assert b"".join(path.read_bytes() for path in cached) == stored
        assert session.status().cache_misses == 1

        # The rest comes from the cache, the zeros from nowhere.
        assert bytes(await operations.read(found.ino, 0, len(CONTENT) + 1000)) == CONTENT
        assert session.status().downloaded_bytes - before == len(stored)
        volume.close(found.ino)

    assert msgspec.to_builtins(record)  # every field of a record is plain data


def volume_extents(session: Session, ino: int) -> list[tuple[Extent, Location]]:
    found: list[tuple[Extent, Location]] = vars(session.volume)["_blocks"].extents(ino, 0, 1 << 40)
    return found


def int_of(value: object) -> int:
    assert isinstance(value, int)
    return value


def _spy_on_fdatasync(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of files as they are synced."""
    synced: list[str] = []
    real = os.fdatasync

    def spy(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", spy)
    return synced
