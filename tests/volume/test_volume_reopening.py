"""A volume closed, abandoned or lost with its machine, and opened again: what was promised is there."""

import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from infinitfs.block.staging import Staging
from infinitfs.errors import NoSpace, ReadOnly, StorageUnreachable
from infinitfs.mount.session import Session
from infinitfs.storage.base import Buffer
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import writeback
from infinitfs.volume.journal import JOURNAL
from infinitfs.volume.namespace import RENAME_EXCHANGE, ROOT
from infinitfs.volume.volume import Volume
from tests.support.faults import Call, FailAfter, Fault, FaultyStorage
from tests.support.volumes import (
    FILE,
    FOLDER,
    START,
    WallClock,
    content,
    copy_of,
    drained,
    folders_of,
    killed,
    make_volume,
    opened_volume,
    packs,
    picture,
    positions,
    put,
)

T = TypeVar("T")


async def fill(volume: Volume, wall: WallClock) -> None:
    """Something of everything that a file system holds."""
    source = random.Random(7)
    docs = await volume.create(ROOT, b"docs", FOLDER | stat.S_ISGID, 1000, 50)
    inner = await volume.create(docs.ino, "größe".encode("latin-1"), FOLDER, 1000, 1000)
    text = b"".join(b"line %d\n" % i for i in range(9000))
    await put(volume, b"text", text, parent=docs.ino)
    await put(volume, b"noise", source.randbytes(200_000), parent=inner.ino)
    twin = await put(volume, b"twin", text, parent=inner.ino)
    wall.now += 10**9
    await volume.link(twin, ROOT, b"hard link")
    sparse = await put(volume, b"sparse", b"end", offset=20 * 2**20)
    await volume.set_attributes(sparse, size=30 * 2**20)
    cut = await put(volume, b"cut", source.randbytes(50_000))
    await volume.set_attributes(cut, size=20_001)
    await put(volume, b"cut", b"patch" * 100, offset=10_000)
    await put(volume, b"empty", b"")
    wall.now += 1
    await volume.create(ROOT, b"symbolic", stat.S_IFLNK | 0o777, 1000, 1000, target=b"docs/\xff\xfe")
    await volume.create(ROOT, b"fifo", stat.S_IFIFO | 0o600, 0, 0)
    await volume.create(ROOT, b"device", stat.S_IFBLK | 0o660, 0, 6, rdev=0x801)
    await volume.set_xattr(twin, b"user.mime\xff", b"text/plain")
    await volume.set_xattr(docs.ino, b"user.empty", b"")
    await volume.set_attributes(twin, mode=FILE & ~0o777 | 0o4711, uid=7, gid=8, atime=1, mtime=999_999_999)
    await put(volume, b"n" * 255, b"long name")
    gone = await put(volume, b"gone", source.randbytes(9000))
    await volume.unlink(ROOT, b"gone")
    await volume.rename(ROOT, b"cut", docs.ino, b"text", RENAME_EXCHANGE)
    assert volume.lookup(ROOT, b"gone") is None
    assert gone


async def test_another_machine_sees_the_same_from_the_storage_alone(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage, opened, wall = MemoryStorage(), make_volume(), WallClock()
    async with opened_volume(storage, tmp_path / "one", opened, wall=wall) as session:
        await fill(session.volume, wall)
        await session.drain()
        seen = await picture(session.volume)
        assert session.volume.backlog == 0
        assert not session.volume.publisher.unsent
    async with opened_volume(storage, tmp_path / "two", opened) as session:
        assert await picture(session.volume) == seen
        assert session.volume.space().stored == sum(
            len(data) for key, data in storage.objects.items() if "/packs/" in key
        )
    sparse = seen.nodes[b"sparse"]
    assert sparse.inode.size == 30 * 2**20
    assert sparse.inode.allocated == 3
    assert seen.nodes[b"cut"].content.startswith(b"line 0\n"), "exchanged"
    assert seen.nodes[b"hard link"].inode.nlink == 2


async def test_what_is_not_drained_is_sent_by_the_next_mount(autojump_clock: MockClock, tmp_path: Path) -> None:
    inner = MemoryStorage()
    storage, opened, wall = FaultyStorage(inner, lambda call: None), make_volume(), WallClock()
    async with opened_volume(storage, tmp_path / "one", opened, wall=wall) as session:
        await drained(session)
        storage.partitioned = True
        await fill(session.volume, wall)
        with pytest.raises(StorageUnreachable):
            await session.drain(patience=20)
        seen = await picture(session.volume)
        assert session.volume.backlog > 200_000
    storage.partitioned = False
    async with opened_volume(storage, tmp_path / "one", opened) as session:
        assert await picture(session.volume) == seen
        await session.drain()
    async with opened_volume(inner, tmp_path / "two", opened) as session:
        assert await picture(session.volume) == seen


async def test_without_the_storage_an_owner_opens_and_reads_what_is_here(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage, opened = FaultyStorage(MemoryStorage(), lambda call: None), make_volume()
    data = random.Random(1).randbytes(100_000)
    async with opened_volume(storage, tmp_path / "one", opened) as session:
        await drained(session)
        storage.partitioned = True
        await put(session.volume, b"file", data, durable=True)
        copy = killed(tmp_path / "one", tmp_path / "copy")
    async with opened_volume(storage, copy, opened) as session:
        found = session.volume.lookup(ROOT, b"file")
        assert found is not None
        assert await content(session.volume, found.ino) == data
    with pytest.raises(StorageUnreachable):
        async with opened_volume(storage, tmp_path / "two", opened):
            pass


async def test_a_read_only_session_changes_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage, opened = MemoryStorage(), make_volume()
    async with opened_volume(storage, tmp_path / "one", opened) as session:
        ino = await put(session.volume, b"file", b"content")
        await session.drain()
    before = dict(storage.objects)
    async with opened_volume(storage, tmp_path / "two", opened, read_only=True) as session:
        assert await content(session.volume, ino) == b"content"
        with pytest.raises(ReadOnly):
            await session.volume.unlink(ROOT, b"file")
        await trio.sleep(60)
    assert storage.objects == before


# --- killed at any moment ---


class Moments:
    """An offload that calls `at` before and after every call that would be in a thread."""

    def __init__(self) -> None:
        self.at: Callable[[], None] = lambda: None

    async def __call__(self, call: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        self.at()
        result = call()
        self.at()
        return result


@pytest.mark.parametrize("little", [writeback._LITTLE, 20_000, 0])
async def test_a_process_killed_at_any_moment_loses_nothing_that_was_fsynced(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little: int
) -> None:
    """However much of it has become blocks, in whole or in part."""
    monkeypatch.setattr(writeback, "_LITTLE", little)
    monkeypatch.setattr(writeback, "_PIECE", 0)
    storage, opened, moments = MemoryStorage(), make_volume(), Moments()
    promised: dict[bytes, bytes] = {}
    snapshots: list[tuple[Path, MemoryStorage, dict[bytes, bytes]]] = []
    seen = 0

    def take() -> None:
        nonlocal seen
        seen += 1
        if seen % 9 == 0:
            home = killed(tmp_path / "one", tmp_path / f"copy {len(snapshots)}")
            snapshots.append((home, copy_of(storage), dict(promised)))

    source = random.Random(3)
    async with opened_volume(storage, tmp_path / "one", opened, offload=moments) as session:
        moments.at = take
        for step in range(12):
            name = b"file %d" % (step % 5)
            data = source.randbytes(source.randrange(1, 40_000))
            promised.pop(name, None)
            ino = await put(session.volume, name, data, durable=True)
            await session.volume.set_attributes(ino, size=len(data))
            await session.volume.sync()
            promised[name] = data
            await trio.sleep(source.choice([0, 0.1, 4]))
            if step == 8:
                await session.volume.rename(ROOT, b"file 3", ROOT, b"renamed", 0)
                promised[b"renamed"] = promised.pop(b"file 3")
                await session.volume.sync()
        moments.at = lambda: None
    assert len(snapshots) >= 10
    for home, then, files in snapshots:
        async with opened_volume(then, home, opened) as session:
            await holds(session, files)
            await put(session.volume, b"after", b"the crash")
            await session.drain()
        async with opened_volume(then, tmp_path / f"other {home.name}", opened) as session:
            await holds(session, files | {b"after": b"the crash"})


async def holds(session: Session, files: dict[bytes, bytes]) -> None:
    for name, data in files.items():
        found = session.volume.lookup(ROOT, name)
        if name == b"renamed" and found is None:
            continue
        assert found is not None, name
        assert await content(session.volume, found.ino) == data, name


async def test_a_file_open_without_a_name_ends_with_the_crash(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage, opened = MemoryStorage(), make_volume()
    async with opened_volume(storage, tmp_path / "one", opened) as session:
        volume = session.volume
        ino = await put(volume, b"file", random.Random(1).randbytes(30_000))
        await volume.settle()
        volume.open(ino)
        await volume.unlink(ROOT, b"file")
        await volume.sync()
        assert len(await volume.read(ino, 0, 10)) == 10
        copy = killed(tmp_path / "one", tmp_path / "copy")
        then = copy_of(storage)
        volume.close(ino)
    async with opened_volume(then, copy, opened) as session:
        assert session.volume.space().inodes == 1
        session.volume.database.commit()
        assert session.volume.database.value("SELECT count(*) FROM extents") == 0
        await session.drain()
        freed = await session.volume.collector.collect()
        assert freed.packs == 1
        assert packs(then) == set()


# --- records ---


class Recording(MemoryStorage):
    """Remembers what was to be put under every key of a record, and takes none while `closed`."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.attempts: dict[int, set[bytes]] = {}

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        if "/journal/" in key:
            position = JOURNAL.position(key)
            assert position is not None
            self.attempts.setdefault(position, set()).add(bytes(data))
            if self.closed:
                raise StorageUnreachable(storage=self.name, reason="as planned")
        await super().put(key, data, create=create)


async def test_every_retry_sends_the_same_bytes_also_after_a_restart(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage, opened = Recording(), make_volume()
    async with opened_volume(storage, tmp_path / "one", opened) as session:
        await drained(session)
        storage.closed = True
        await put(session.volume, b"file", b"content", durable=True)
        await trio.sleep(10)
        copies = [killed(tmp_path / "one", tmp_path / "copy")]
        await put(session.volume, b"another", b"content", durable=True)
        await trio.sleep(60)
        copies.append(killed(tmp_path / "one", tmp_path / "later copy"))
    waiting = set(storage.attempts) - set(positions(storage, JOURNAL))
    assert waiting
    storage.closed = False
    for copy in copies:
        then = Recording()
        then.objects, then.attempts = dict(storage.objects), storage.attempts
        async with opened_volume(then, copy, opened, seed=b"other randomness") as session:
            await drained(session)
            assert session.volume.publisher.fenced is None
            assert session.volume.lookup(ROOT, b"file") is not None
        assert all(len(storage.attempts[position]) == 1 for position in waiting)
        storage.attempts = {position: storage.attempts[position] for position in waiting}


async def test_a_record_whose_answer_was_lost_is_known_as_own(autojump_clock: MockClock, tmp_path: Path) -> None:
    def plan(call: Call) -> Fault | None:
        if call.operation == "put" and "/journal/" in call.key and call.key not in lost:
            lost.add(call.key)
            return FailAfter()
        return None

    lost: set[str] = set()
    inner, opened = MemoryStorage(), make_volume()
    async with opened_volume(FaultyStorage(inner, plan), tmp_path / "one", opened) as session:
        for number in range(3):
            await put(session.volume, b"file %d" % number, b"content")
            await session.drain()
        assert session.volume.publisher.fenced is None
        assert session.status().state == "draining"
    assert len(lost) == len(positions(inner, JOURNAL)) == 5, "claim, root and file, file, file, release"
    async with opened_volume(inner, tmp_path / "two", opened) as session:
        assert len(list(session.volume.entries(ROOT, 0))) == 3


async def test_killed_between_a_put_and_its_answer(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The storage has the record, this machine does not know: the next mount sends it again, as its own."""
    copies: list[Path] = []

    def plan(call: Call) -> Fault | None:
        if call.operation == "put" and "/journal/" in call.key and armed and not copies:
            copies.append(tmp_path / "copy")
            return FailAfter()
        if copies and not copies[0].exists():
            killed(tmp_path / "one", copies[0])
        return None

    armed = False
    inner, opened = MemoryStorage(), make_volume()
    async with opened_volume(FaultyStorage(inner, plan), tmp_path / "one", opened) as session:
        await drained(session)
        await put(session.volume, b"file", b"content")
        await session.volume.settle()
        armed = True
        await trio.sleep(30)
        then = copy_of(inner)
        acknowledged = session.volume.publisher.position
    async with opened_volume(then, copies[0], opened) as session:
        assert session.volume.publisher.position <= acknowledged
        await drained(session)
        assert session.volume.publisher.position == acknowledged
        assert session.volume.lookup(ROOT, b"file") is not None
        await put(session.volume, b"another", b"content")
        await session.drain()


async def test_an_fsync_that_is_to_be_remote_needs_no_drain(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage, opened = MemoryStorage(), make_volume()
    async with opened_volume(storage, tmp_path / "one", opened, fsync="remote") as session:
        await put(session.volume, b"file", b"content", durable=True)
        then = copy_of(storage)
    async with opened_volume(then, tmp_path / "two", opened, take_over=True) as session:
        found = session.volume.lookup(ROOT, b"file")
        assert found is not None
        assert await content(session.volume, found.ino) == b"content"


async def test_times_are_those_of_the_wall_clock_and_come_back_to_the_nanosecond(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage, opened, wall = MemoryStorage(), make_volume(), WallClock()
    async with opened_volume(storage, tmp_path / "one", opened, wall=wall) as session:
        wall.now = START + 123_456_789
        ino = await put(session.volume, b"file", b"content")
        await session.drain()
    async with opened_volume(storage, tmp_path / "two", opened) as session:
        inode = session.volume.attributes(ino)
        assert {inode.atime, inode.mtime, inode.ctime, inode.created} == {START + 123_456_789}
    assert (folders_of(tmp_path / "two", opened).database).exists()


def test_the_copy_of_a_killed_home_has_all_of_a_log_that_ends_with_zeros(tmp_path: Path) -> None:
    """One in 256 does: what is left out of a copy would look like a loss."""
    log = b"page" * 1024 + bytes(2)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "volume-wal").write_bytes(log + bytes(2**20))
    copied = (killed(tmp_path / "home", tmp_path / "copy") / "volume-wal").read_bytes()
    assert copied.startswith(log)
    assert len(copied) < 2**16


@pytest.mark.parametrize("size", [30_000, 300_000])
async def test_a_read_only_session_reads_what_was_not_sent(
    autojump_clock: MockClock, tmp_path: Path, size: int
) -> None:
    """In a pack that was open when the process was killed, and in closed ones."""
    inner, data = MemoryStorage(), random.Random(size).randbytes(size)
    storage = FaultyStorage(inner, lambda call: None)
    async with opened_volume(storage, tmp_path / "one") as session:
        storage.partitioned = True
        ino = await put(session.volume, b"file", data)
        await session.volume.settle()
        home, then = killed(tmp_path / "one", tmp_path / "killed"), copy_of(inner)
        storage.partitioned = False
    async with opened_volume(then, home, read_only=True) as session:
        assert await content(session.volume, ino) == data
    async with opened_volume(then, home) as session:
        assert await content(session.volume, ino) == data
        await session.drain()


async def test_a_full_disk_keeps_nobody_from_reading(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that a killed process had open gets no index then."""
    inner = MemoryStorage()
    storage = FaultyStorage(inner, lambda call: None)
    async with opened_volume(storage, tmp_path / "one") as session:
        storage.partitioned = True
        ino = await put(session.volume, b"file", b"content")
        await session.volume.settle()
        home, then = killed(tmp_path / "one", tmp_path / "killed"), copy_of(inner)
        storage.partitioned = False

    def fail(*_: object) -> None:
        raise NoSpace(what="the disk", remedy="free some")

    monkeypatch.setattr(Staging, "_append", fail)
    async with opened_volume(then, home, read_only=True) as session:
        assert await content(session.volume, ino) == b"content"
