"""Packs that nothing names: what a checkpoint or a lost owner left goes, and never what somebody may still name."""

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from infinitfs.errors import Fenced
from infinitfs.mount.session import Session
from infinitfs.storage.base import ObjectInfo
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import checkpoint, collector
from infinitfs.volume.checkpoint import CHECKPOINTS
from infinitfs.volume.namespace import ROOT
from tests.support.checkpoints import OPENED, VOLUME, fill, flip, manifest_at, nobodys, packs_of
from tests.support.faults import Call, Delay, FailBefore, Fault, FaultyStorage
from tests.support.volumes import (
    checkpointed,
    content,
    copy_of,
    drained,
    killed,
    opened_volume,
    packs,
    positions,
    put,
)

NOISE = random.Random(1).randbytes(30_000)


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PACK", 8 * 1024)


def is_manifest(call: Call) -> bool:
    return call.operation == "put" and "/checkpoints/" in call.key


def no_manifests(call: Call) -> Fault | None:
    return FailBefore() if is_manifest(call) else None


@asynccontextmanager
async def left_over(storage: MemoryStorage, home: Path) -> AsyncIterator[tuple[FaultyStorage, Session]]:
    """A session in which a checkpoint ended before its manifest was there."""
    faulty = FaultyStorage(storage, no_manifests)
    async with opened_volume(faulty, home, OPENED) as session:
        await fill(session, 100)
        await put(session.volume, b"file", NOISE)
        await checkpointed(session)
        faulty.plan = lambda call: None
        assert nobodys(storage, session)
        yield faulty, session


async def check_newest(storage: MemoryStorage, home: Path, count: int = 101) -> None:
    """The newest checkpoint is whole, and a fresh machine has all that the last one had."""
    assert packs_of(manifest_at(storage, positions(storage, CHECKPOINTS)[-1])) <= packs(storage)
    async with opened_volume(storage, home, OPENED, read_only=True) as session:
        found = session.volume.lookup(ROOT, b"file")
        assert found is not None
        assert await content(session.volume, found.ino) == NOISE
        assert len(list(session.volume.entries(ROOT, 0))) == count


async def test_what_a_checkpoint_without_a_manifest_left_is_freed(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with left_over(storage, tmp_path / "one") as (faulty, session):
        left = nobodys(storage, session)
        stored = session.volume.space().stored
        faulty.plan = no_manifests
        assert await session.volume.collector.collect() == (0, 0), "not before there is a younger checkpoint"
        assert packs(storage) >= left
        faulty.plan = lambda call: None
        assert (await session.volume.collector.collect()).packs > len(left), "and what the second one left"
        assert not packs(storage) & left
        assert nobodys(storage, session) == set()
        assert session.volume.space().stored == stored
        objects = dict(storage.objects)
        assert (await session.volume.collector.collect()).packs == 0
        assert storage.objects == objects, "no checkpoint is made where nothing is left over"
        await session.drain()
    await check_newest(storage, tmp_path / "two")


async def test_they_are_looked_for_in_the_first_run_and_in_some_later_ones(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "INTERVAL", 10)
    monkeypatch.setattr(collector, "_SEARCH", 3)
    storage = MemoryStorage()
    async with left_over(storage, tmp_path / "one") as (faulty, session):
        await trio.sleep(15)
        assert nobodys(storage, session) == set()
        await trio.sleep(50)
        listed = [call for call in faulty.calls if call.operation == "list" and call.key.endswith("/packs/")]
        assert len(listed) == 2


async def test_killed_between_any_two_steps_nothing_stays_and_nothing_is_lost(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """While a checkpoint is sent, and while what another one left is collected."""
    storage = MemoryStorage()
    copies: list[tuple[Path, MemoryStorage]] = []

    def plan(call: Call) -> Fault | None:
        if call.operation in ("put", "delete"):
            copies.append((killed(tmp_path / "one", tmp_path / f"copy {len(copies)}"), copy_of(storage)))
        return None

    async with left_over(storage, tmp_path / "one") as (faulty, session):
        faulty.plan = plan
        await session.volume.collector.collect()
        plan(Call("put", "", 0))
        faulty.plan = lambda call: None
    assert len(copies) > 8
    for home, then in copies:
        async with opened_volume(then, home, OPENED) as session:
            await session.volume.collector.collect()
            assert nobodys(then, session) == set()
            assert session.volume.database.value("SELECT count(*) FROM packs WHERE live = 0") == 0
        await check_newest(then, tmp_path / f"other {home.name}")


async def test_packs_that_an_owner_sent_before_it_lost_the_volume_are_freed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "zero", OPENED) as session:
        await put(session.volume, b"file", NOISE)
        await session.drain()
    faulty = FaultyStorage(storage, lambda call: None)
    with pytest.raises(Fenced):
        async with opened_volume(faulty, tmp_path / "one", OPENED) as session:
            faulty.plan = lambda call: FailBefore() if "/journal/" in call.key else None
            await put(session.volume, b"lost", random.Random(2).randbytes(30_000))
            await session.volume.settle()
            await trio.sleep(30)
            async with opened_volume(storage, tmp_path / "two", OPENED, take_over=True) as other:
                left = nobodys(storage, other)
                assert (await other.volume.collector.collect()).packs == len(left) == 1
                assert not packs(storage) & left
                assert nobodys(storage, other) == set()
                await other.drain()
            faulty.plan = lambda call: None
            await session.drain()


async def test_who_lost_the_volume_deletes_nothing_of_the_next_owner(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Its listing has a pack of the other machine, whose record is not sent yet."""
    storage = MemoryStorage()
    with pytest.raises(Fenced):
        async with opened_volume(storage, tmp_path / "one", OPENED) as session:
            await drained(session)
            other_way = FaultyStorage(storage, lambda call: None)
            async with opened_volume(other_way, tmp_path / "two", OPENED, take_over=True) as other:
                await drained(other)
                other_way.plan = lambda call: FailBefore() if "/journal/" in call.key else None
                ino = await put(other.volume, b"file", NOISE)
                await other.volume.settle()
                await trio.sleep(20)
                assert len(packs(storage)) == 1
                try:
                    await session.volume.collector.collect()
                finally:
                    other_way.plan = lambda call: None
                    await other.drain()
                    await other.volume.forget()
                    assert await content(other.volume, ino) == NOISE


@pytest.mark.parametrize("moment", ["while it is collected", "later"])
@pytest.mark.parametrize("take_over", [False, True])
async def test_a_manifest_that_comes_late_harms_nobody(
    autojump_clock: MockClock, tmp_path: Path, moment: str, take_over: bool
) -> None:
    """The request was on its way when the machine that made it was killed, and its packs were leftovers meanwhile."""
    storage = MemoryStorage()
    late: dict[str, bytes] = {}
    listings = 0

    def arriving(call: Call) -> None:
        nonlocal listings
        listings += call.operation == "list" and "/checkpoints/" in call.key
        if listings == 2:  # the first was for what manifests name, this is for groups that need not be sent again
            storage.objects.update(late)

    class Holding(MemoryStorage):
        async def put(self, key: str, data: object, *, create: bool = False) -> None:
            if "/checkpoints/" in key:
                late[key] = bytes(data)  # type: ignore[call-overload]
                await trio.sleep_forever()
            await super().put(key, data, create=create)  # type: ignore[arg-type]

    holding = Holding()
    async with opened_volume(holding, tmp_path / "one", OPENED) as session:
        await fill(session, 800)
        await put(session.volume, b"file", NOISE)
        await checkpointed(session)
        home, storage = killed(tmp_path / "one", tmp_path / "killed"), copy_of(holding)

    faulty = FaultyStorage(storage, lambda call: None)
    async with opened_volume(faulty, tmp_path / "new" if take_over else home, OPENED, take_over=take_over) as session:
        await drained(session)
        if moment == "while it is collected":
            faulty.plan = arriving
        assert (await session.volume.collector.collect()).packs
        storage.objects.update(late)
        await check_newest(storage, tmp_path / "two", 801)
        await session.volume.set_xattr(ROOT, b"user.one", b"more")
        await checkpointed(session)
        await session.drain()
    async with opened_volume(storage, tmp_path / "three", OPENED) as session:
        await session.volume.set_xattr(ROOT, b"user.two", b"more")
        await checkpointed(session)
        await session.drain()
    assert not late.keys() & storage.objects.keys(), "and it is trimmed like any other"
    await check_newest(storage, tmp_path / "four", 801)


async def test_a_manifest_that_comes_while_names_are_looked_for_may_be_used(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It is not listed any more, and the next checkpoint takes its groups before its packs are entered."""
    late: dict[str, bytes] = {}

    class Slow(MemoryStorage):
        async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
            async for info in super().list(prefix):
                yield info
            if late and "/checkpoints/" in prefix:
                self.objects.update(late)
                late.clear()
                await trio.sleep(20)

    storage = Slow()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 800)
        await put(session.volume, b"file", NOISE)
        position = await checkpointed(session)
        await session.drain()
    key = CHECKPOINTS.key(VOLUME, position)
    manifest = storage.objects.pop(key)
    async with opened_volume(storage, tmp_path / "one", OPENED, seed=b"second") as session:
        late[key] = manifest
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.volume.collector.collect)
            await trio.sleep(10)
            await session.volume.set_xattr(ROOT, b"user.one", b"more")
            position = await checkpointed(session)
        assert packs_of(manifest_at(storage, position)) <= packs(storage)
        await session.drain()
    await check_newest(storage, tmp_path / "two", 801)


async def test_a_checkpoint_under_way_keeps_its_packs(autojump_clock: MockClock, tmp_path: Path) -> None:
    """It is sent while packs and manifests are listed, and ends before or after that."""
    for pause in (0, 8, 16, 24, 32):
        storage = MemoryStorage()
        faulty = FaultyStorage(storage, lambda call: None)
        async with opened_volume(faulty, tmp_path / f"one {pause}", OPENED) as session:
            await fill(session, 100)
            await put(session.volume, b"file", NOISE)
            await drained(session)
            faulty.plan = lambda call: Delay(7 if call.operation in ("list", "get") else 1)
            session.volume.checkpointer.forced = True
            await session.volume.set_xattr(ROOT, b"user.one", b"more")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.volume.drain)
                await trio.sleep(pause)
                assert await session.volume.collector.collect() == (0, 0)
            await trio.sleep(60)
            faulty.plan = lambda call: None
            assert nobodys(storage, session) == set()
        await check_newest(storage, tmp_path / f"two {pause}")


async def test_what_a_manifest_that_cannot_be_read_names_is_kept(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 100)
        await put(session.volume, b"file", NOISE)
        key = CHECKPOINTS.key(VOLUME, await checkpointed(session))
        await session.drain()
    before = packs(storage)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        flip(storage, key)
        assert await session.volume.collector.collect() == (0, 0)
        assert key in caplog.text
        flip(storage, key)
        assert packs(storage) == before
    await check_newest(storage, tmp_path / "two")


async def test_what_is_no_pack_of_the_volume_is_left_alone(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    names = ("packs/note", "packs/no/note", f"packs/ab/{'cd' * 16}", f"packs/cd/{'cd' * 8}")
    foreign = {f"{VOLUME}/{name}": b"x" for name in names}
    storage.objects.update(foreign)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await session.volume.collector.collect()
    assert foreign.items() <= storage.objects.items()
