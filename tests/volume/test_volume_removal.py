"""What is long goes step by step: others are served in between, and what a crash or an unmount leaves goes later."""

from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from infinitfs.errors import Fenced, InfinitfsError
from infinitfs.mount.session import Session
from infinitfs.storage.base import Buffer
from infinitfs.storage.memory import MemoryStorage
from infinitfs.transfer.files import inline
from infinitfs.volume import removal, volume
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.database import Database
from infinitfs.volume.namespace import ROOT, Namespace
from infinitfs.volume.removal import Removal
from infinitfs.volume.volume import Volume
from tests.support.volumes import (
    START,
    WallClock,
    content,
    copy_of,
    killed,
    opened_volume,
    put,
)

STEP = 3
LONG = Random(0).randbytes(400_000)
LONGER = Random(1).randbytes(2_000_000)


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "STEP", STEP)
    monkeypatch.setattr(volume, "STEP", STEP)


def extents(session: Session, ino: int) -> int:
    return session.volume.database.value("SELECT count(*) FROM extents WHERE ino = ?", (ino,))


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def mounted(
    storage: MemoryStorage, tmp_path: Path, autojump_clock: MockClock
) -> AsyncIterator[tuple[Session, int]]:
    """With a long file that is durable."""
    async with opened_volume(storage, tmp_path / "one") as session:
        ino = await put(session.volume, b"long", LONG, durable=True)
        await session.volume.settle()
        assert extents(session, ino) > 10 * STEP
        yield session, ino


async def test_others_are_served_while_a_long_file_is_removed(mounted: tuple[Session, int]) -> None:
    session, ino = mounted
    before = session.volume.space().inodes
    left = [extents(session, ino)]
    await session.volume.unlink(ROOT, b"long")
    assert session.volume.lookup(ROOT, b"long") is None
    while left[-1]:
        await trio.lowlevel.checkpoint()
        left.append(extents(session, ino))
    steps = [one - other for one, other in pairwise(left)]
    assert max(steps) <= 2 * (STEP + 1), "two, where the next look comes first"
    assert session.volume.space().inodes == before - 1
    await session.volume.sync()
    assert session.volume.database.value("SELECT count(*) FROM inodes WHERE ino = ?", (ino,)) == 0
    assert session.volume.database.value("SELECT sum(refs) FROM blocks") == 0


async def test_a_long_file_that_is_open_goes_when_it_is_closed(mounted: tuple[Session, int]) -> None:
    session, ino = mounted
    session.volume.open(ino)
    await session.volume.unlink(ROOT, b"long")
    await trio.testing.wait_all_tasks_blocked()
    assert await content(session.volume, ino) == LONG
    session.volume.close(ino)
    await trio.testing.wait_all_tasks_blocked()
    assert extents(session, ino) == 0


async def test_what_a_killed_mount_has_not_removed_goes_with_the_next(
    mounted: tuple[Session, int], storage: MemoryStorage, tmp_path: Path
) -> None:
    session, ino = mounted
    await session.volume.unlink(ROOT, b"long")
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    await session.volume.sync()
    left = extents(session, ino)
    assert left
    home = killed(tmp_path / "one", tmp_path / "killed")
    async with opened_volume(copy_of(storage), home) as again:
        assert again.volume.lookup(ROOT, b"long") is None
        await trio.testing.wait_all_tasks_blocked()
        assert extents(again, ino) == 0
        assert again.volume.database.value("SELECT sum(refs) FROM blocks") == 0


class Slow(MemoryStorage):
    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        await trio.sleep(1)
        await super().put(key, data, create=create)


async def test_an_unmount_does_not_wait_and_nothing_is_changed_behind_it(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "STEP", 1)
    storage = Slow()
    async with opened_volume(storage, tmp_path / "one") as session:
        ino = await put(session.volume, b"long", LONGER)
        await session.volume.drain()
        await session.volume.unlink(ROOT, b"long")
    async with opened_volume(storage, tmp_path / "look", read_only=True) as session:
        assert session.volume.lookup(ROOT, b"long") is None
        assert extents(session, ino)
    async with opened_volume(storage, tmp_path / "two") as session:
        await trio.testing.wait_all_tasks_blocked()
        assert extents(session, ino) == 0
        await put(session.volume, b"new", b"data")
        await session.volume.drain()
    async with opened_volume(storage, tmp_path / "one") as session:
        assert extents(session, ino) == 0
        assert session.volume.lookup(ROOT, b"new") is not None


async def truncated(volume: Volume, ino: int, size: int) -> list[int]:
    """Truncate a file; returns the sizes that others saw meanwhile."""
    seen: list[int] = []
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            while True:
                seen.append(volume.attributes(ino).size)
                await trio.lowlevel.checkpoint()

        nursery.start_soon(look)
        await volume.set_attributes(ino, size=size)
        nursery.cancel_scope.cancel()
    return seen


async def test_a_long_file_is_truncated_in_steps(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "STEP", 1)
    wall = WallClock()
    async with opened_volume(MemoryStorage(), tmp_path / "one", wall=wall) as session:
        ino = await put(session.volume, b"long", LONG, durable=True)
        await session.volume.settle()
        wall.now += 1
        seen = await truncated(session.volume, ino, 50_000)
        assert len(set(seen)) > 5
        assert sorted(seen, reverse=True) == seen
        assert min(seen) >= 50_000
        attributes = session.volume.attributes(ino)
        assert (attributes.size, attributes.mtime, attributes.ctime) == (50_000, START + 1, START + 1)
        assert await content(session.volume, ino) == LONG[:50_000]
        await session.volume.set_attributes(ino, size=60_000)
        assert await content(session.volume, ino) == LONG[:50_000] + bytes(10_000)


async def test_what_was_written_behind_the_new_end_goes_with_a_long_file(mounted: tuple[Session, int]) -> None:
    session, ino = mounted
    session.volume.open(ino)
    await session.volume.write(ino, 399_000, b"x" * 5000)
    await session.volume.write(ino, 1000, b"y" * 1000)
    await truncated(session.volume, ino, 1500)
    assert await content(session.volume, ino) == LONG[:1000] + b"y" * 500
    await session.volume.settle()
    assert await content(session.volume, ino) == LONG[:1000] + b"y" * 500
    session.volume.close(ino)


async def test_a_crash_in_between_leaves_the_file_shorter(
    mounted: tuple[Session, int], storage: MemoryStorage, tmp_path: Path
) -> None:
    session, ino = mounted
    home = tmp_path / "killed"

    async def crash() -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        session.volume.database.commit()
        killed(tmp_path / "one", home)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(crash)
        await session.volume.set_attributes(ino, size=0)
    async with opened_volume(copy_of(storage), home) as again:
        size = again.volume.attributes(ino).size
        assert 0 < size < len(LONG)
        assert await content(again.volume, ino) == LONG[:size]


class Tables:
    """A removal of an inode that goes in three steps, and what it asks before each."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = Database(folder / "volume.db", bytes(32), inline)
        self.database.create()
        blocks, self.namespace = Blocks(self.database), Namespace(self.database)
        self.removal = Removal(self.namespace, blocks, self.changing)
        self.namespace.create_root(0, 0, 1)
        self.ino = self.namespace.create(ROOT, b"long", 0o100644, 0, 0, 1).ino
        self.namespace.update(self.ino, nlink=0, allocated=100)
        self.may = trio.Event()
        self.failure: InfinitfsError | None = None
        steps = [70, 70, 30, 0]
        monkeypatch.setattr(blocks, "step", lambda *_: steps.pop(0))
        monkeypatch.setattr(blocks, "shorten", lambda _, size, allocated: size)

    async def changing(self) -> None:
        await self.may.wait()
        if self.failure is not None:
            raise self.failure

    @property
    def allocated(self) -> int:
        return self.namespace.inode(self.ino).allocated


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    made = Tables(tmp_path, monkeypatch)
    yield made
    made.database.close()


async def test_who_waits_for_a_removal_returns_when_it_is_done(tables: Tables, autojump_clock: MockClock) -> None:
    await tables.removal.done()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tables.removal.run)
        tables.removal.remove(tables.ino)
        with trio.move_on_after(1) as patience:
            await tables.removal.done()
        assert patience.cancelled_caught and tables.allocated == 100
        tables.may.set()
        await tables.removal.done()
        assert tables.namespace.inodes == 1
        nursery.cancel_scope.cancel()


async def test_what_is_held_while_it_asks_does_not_go_on(tables: Tables, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tables.removal.run)
        tables.removal.remove(tables.ino)
        await trio.testing.wait_all_tasks_blocked()
        tables.removal.hold()
        tables.may.set()
        await tables.removal.done()
    assert tables.allocated == 100


async def test_where_nothing_may_be_changed_it_is_left_to_the_next_mount(
    tables: Tables, autojump_clock: MockClock
) -> None:
    tables.failure = Fenced(volume="drive", owner="another", state="here")
    tables.may.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tables.removal.run)
        tables.removal.remove(tables.ino)
        await tables.removal.done()
    assert tables.allocated == 100


async def test_a_drain_does_not_race_with_a_removal(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "STEP", 1)
    async with opened_volume(Slow(), tmp_path / "one") as session:
        ino = await put(session.volume, b"long", LONGER)
        await session.volume.drain()
        await session.volume.unlink(ROOT, b"long")
        await session.drain()
        assert extents(session, ino)
        assert session.volume.backlog == 0 and not session.volume.publisher.unsent


async def test_a_collection_waits_for_what_is_being_removed(mounted: tuple[Session, int]) -> None:
    session, _ = mounted
    await session.volume.drain()
    await session.volume.unlink(ROOT, b"long")
    assert (await session.volume.collect()).packs > 5
    assert session.volume.database.value("SELECT count(*) FROM packs") == 0


async def test_what_is_being_removed_is_not_found_again(mounted: tuple[Session, int]) -> None:
    session, ino = mounted
    session.volume.use(ino)
    await session.volume.unlink(ROOT, b"long")
    assert session.volume.lookup(ino, b".") is not None
    session.volume.release_use(ino)
    assert session.volume.database.value("SELECT count(*) FROM inodes WHERE ino = ?", (ino,))
    assert session.volume.lookup(ino, b".") is None
