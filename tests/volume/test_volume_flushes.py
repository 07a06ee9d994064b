"""Flushes of what is too much for memory: one batch is cut while others are on their way to the disk."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import apsw
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from infinitfs.errors import InfinitfsError, LocalDiskFailed, NoSpace
from infinitfs.mount.session import Session
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import writeback
from infinitfs.volume.intents import Intents
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.volume import Volume
from tests.support.held import Held
from tests.support.volumes import (
    FILE,
    content,
    copy_of,
    drained,
    killed,
    make_volume,
    opened_volume,
    put,
    settle_in_vain,
)

HIGH = 100_000
"""Enough for a pack."""


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeback, "SOME", HIGH)
    monkeypatch.setattr(writeback, "HIGH", HIGH)
    monkeypatch.setattr(writeback, "MOST", 2 * HIGH)
    monkeypatch.setattr(writeback, "FULL", 10 * HIGH)


def noise(size: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(size)


def full_disk() -> Held:
    """For as long as it is holding."""
    held = Held("_append")
    held.failure = NoSpace(what="the disk", remedy="free some")
    held.holding = True
    held.go.set()
    return held


async def opened_file(session: Session) -> int:
    ino = (await session.volume.create(ROOT, b"file", FILE, 0, 0)).ino
    session.volume.open(ino)
    return ino


async def two_batches(session: Session, held: Held) -> tuple[int, bytes]:
    """A file of which both are cut and neither is durable, and what it holds."""
    ino, data = await opened_file(session), noise(4 * HIGH)
    held.holding = True
    await session.volume.write(ino, 0, data[: 2 * HIGH])
    await trio.testing.wait_all_tasks_blocked()
    await session.volume.write(ino, 2 * HIGH, data[2 * HIGH :])
    await trio.testing.wait_all_tasks_blocked()
    assert len(vars(session.volume)["_write_back"]._batches) == 2
    return ino, data


async def seen_elsewhere(storage: MemoryStorage, home: Path) -> bytes:
    """The file on a machine that has only the storage."""
    async with opened_volume(storage, home, make_volume()) as session:
        found = session.volume.lookup(ROOT, b"file")
        assert found is not None
        return await content(session.volume, found.ino)


async def test_a_batch_is_cut_while_the_one_before_is_on_its_way(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage, held = MemoryStorage(), Held("_append")
    async with opened_volume(storage, tmp_path / "one", offload=held) as session:
        ino, data = await two_batches(session, held)
        assert await content(session.volume, ino) == data, "of what is on its way, too"
        changed = noise(30_000, 1)
        await session.volume.write(ino, HIGH, changed)
        data = data[:HIGH] + changed + data[HIGH + 30_000 :]
        assert await content(session.volume, ino) == data
        held.holding = False
        held.go.set()
        await trio.testing.wait_all_tasks_blocked()
        memory = vars(session.volume)["_write_back"]
        assert memory.bytes < 30_000 + 2 * 16384, "what was written meanwhile, and a tail"
        await session.volume.fsync(ino)
        crash, then = killed(tmp_path / "one", tmp_path / "killed"), copy_of(storage)
        await drained(session)
        session.volume.close(ino)
    assert await seen_elsewhere(storage, tmp_path / "other") == data
    async with opened_volume(then, crash) as session:
        assert await content(session.volume, ino) == data


async def test_what_is_cut_off_while_it_is_on_its_way_does_not_come_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage, held = MemoryStorage(), Held("_append")
    async with opened_volume(storage, tmp_path / "one", offload=held) as session:
        ino, data = await two_batches(session, held)
        await session.volume.set_attributes(ino, size=HIGH)
        await session.volume.set_attributes(ino, size=3 * HIGH)
        data = data[:HIGH] + bytes(2 * HIGH)
        assert await content(session.volume, ino) == data
        held.holding = False
        held.go.set()
        await drained(session)
        assert await content(session.volume, ino) == data
        session.volume.close(ino)
    assert await seen_elsewhere(storage, tmp_path / "other") == data


async def test_batches_behind_one_that_fails_are_as_dirty_as_before(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage, held = MemoryStorage(), Held("_append")
    async with opened_volume(storage, tmp_path / "one", offload=held) as session:
        ino, data = await two_batches(session, held)
        memory = vars(session.volume)["_write_back"]
        held.failure = NoSpace(what="the disk", remedy="free some")
        held.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert memory.bytes == len(data) and not memory._batches
        assert await content(session.volume, ino) == data
        with pytest.raises(NoSpace):
            session.volume.check_error(ino)
        assert "free some" in caplog.text and "free some" in str(session.status().trouble)
        caplog.clear()
        held.holding = False
        await session.volume.fsync(ino)
        assert memory.bytes == 0 and session.status().trouble is None
        await drained(session)
        session.volume.close(ino)
    assert await seen_elsewhere(storage, tmp_path / "other") == data


async def test_an_fsync_ends_a_stream_of_batches(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Somebody who writes on and on keeps nobody from it."""
    held = Held("_append")
    async with opened_volume(MemoryStorage(), tmp_path / "one", offload=held) as session:
        volume = session.volume
        large, data = await two_batches(session, held)
        small = (await volume.create(ROOT, b"small", FILE, 0, 0)).ino
        volume.open(small)
        await volume.write(small, 0, noise(300_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.fsync, small)
            await trio.testing.wait_all_tasks_blocked()
            batches = vars(volume)["_write_back"]._batches
            before = len(batches)
            await volume.write(large, len(data), noise(2 * HIGH))
            await trio.testing.wait_all_tasks_blocked()
            after = len(batches)
            held.holding = False
            held.go.set()
        assert before == after, "no other one begins"
        assert volume.database.value(f"SELECT size FROM inodes WHERE ino = {small}") == 300_000
        volume.close(small)
        volume.close(large)


async def test_a_writer_that_stops_leaves_nothing_on_its_way(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What waits for others to fill a pack does not wait for ever."""
    async with opened_volume(MemoryStorage(), tmp_path / "one") as session:
        ino = await opened_file(session)
        for number in range(5):
            await session.volume.write(ino, number * 150_000, noise(150_000, number))
            await trio.testing.wait_all_tasks_blocked()
            assert not vars(session.volume)["_write_back"]._batches
        session.volume.close(ino)


@pytest.mark.parametrize("how", ["truncate", "unlink"])
async def test_a_writer_goes_on_where_others_give_memory_up(
    tmp_path: Path, autojump_clock: MockClock, how: str
) -> None:
    """Nothing is left to flush then, which wakes nobody."""
    held = Held("_append")
    async with opened_volume(MemoryStorage(), tmp_path / "one", offload=held) as session:
        volume = session.volume
        vars(volume)["_kernel_times"] = True
        one, two = [(await volume.create(ROOT, name, FILE, 0, 0)).ino for name in (b"large", b"other")]
        for ino in one, two:
            volume.open(ino)
        await volume.write(two, 0, noise(HIGH // 10))
        await volume.settle()
        held.holding = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.publisher.cut)  # which ends the open pack, and takes a while
            await trio.testing.wait_all_tasks_blocked()
            await volume.write(one, 0, noise(10 * HIGH))
            with trio.move_on_after(1000) as patience:
                async with trio.open_nursery() as writing:
                    writing.start_soon(volume.write, two, 0, b"content")
                    await trio.testing.wait_all_tasks_blocked()
                    if how == "truncate":
                        await volume.set_attributes(one, size=0)
                    else:
                        await volume.unlink(ROOT, b"large")
                        volume.close(one)
                    held.holding = False
                    held.go.set()
            held.go.set()
        assert not patience.cancelled_caught


async def test_files_that_were_emptied_leave_memory(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened_volume(MemoryStorage(), tmp_path / "one") as session:
        volume = session.volume
        vars(volume)["_kernel_times"] = True
        for _ in range(10):
            ino = await opened_file(session)
            await volume.write(ino, 0, b"data")
            await volume.fsync(ino)
            await volume.set_attributes(ino, size=0)
            volume.close(ino)
            await volume.unlink(ROOT, b"file")
        ino = await opened_file(session)
        await volume.write(ino, 0, b"data")
        volume.close(ino)
        await volume.set_attributes(ino, size=0)
        await drained(session)
        assert not vars(volume)["_write_back"]._dirty and vars(volume)["_in_core"].get(ino) is None


async def test_a_flush_that_failed_is_forgotten_with_what_it_was_about(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    held = full_disk()
    async with opened_volume(MemoryStorage(), tmp_path / "one", offload=held) as session:
        ino = await opened_file(session)
        await session.volume.write(ino, 0, noise(HIGH))
        session.volume.close(ino)
        await trio.sleep(7)
        assert "free some" in str(session.status().trouble) and "free some" in caplog.text
        caplog.clear()
        await session.volume.unlink(ROOT, b"file")
        assert session.status().trouble is None
        held.holding = False


async def test_who_writes_on_hears_once_of_a_flush_that_failed_meanwhile(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    held = full_disk()
    async with opened_volume(MemoryStorage(), tmp_path / "one", offload=held) as session:
        ino = await opened_file(session)
        await session.volume.write(ino, 0, noise(1000))
        await trio.sleep(7)
        held.holding = False
        with pytest.raises(NoSpace, match="free some"):
            await session.volume.write(ino, 1000, b"more")
        await session.volume.fsync(ino)
        # The kernel sends nothing again: what it was told an error of was taken all the same.
        assert await content(session.volume, ino) == noise(1000) + b"more"
        session.volume.close(ino)
    caplog.clear()


# --- a file of many ranges ---

OLD = noise(80_000, 2)
APART = 500
RANGES = range(0, len(OLD), APART)


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeback, "STEP", 2)


async def scattered(session: Session, *, durable: bool = False) -> tuple[int, bytearray]:
    """A file that is stored, open and written to in as many places, and what it holds."""
    volume = session.volume
    ino = await put(volume, b"file", OLD, durable=True)
    await volume.settle()
    volume.open(ino)
    model = bytearray(OLD)
    for place in RANGES:
        model[place : place + 50] = noise(50, place)
        await volume.write(ino, place, bytes(model[place : place + 50]))
    if durable:
        await volume.fsync(ino)
    return ino, model


def extents(session: Session, ino: int) -> int:
    return session.volume.database.value("SELECT count(*) FROM extents WHERE ino = ?", (ino,))


async def settled(volume: Volume, look: Callable[[], Awaitable[None]]) -> None:
    """Have everything flushed, and `look` whenever others get their turn meanwhile."""
    over = trio.Event()

    async def settle() -> None:
        await volume.settle()
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        while not over.is_set():
            await trio.lowlevel.checkpoint()
            await look()


def pieces_of(found: bytes) -> set[str]:
    """What became of the ranges: each is of the one moment or of the other."""
    states = set()
    for place in RANGES:
        piece, rest = found[place : place + 50], slice(place + 50, place + APART)
        assert found[rest] == OLD[rest]
        assert piece in (OLD[place : place + 50], noise(50, place))
        states.add("old" if piece == OLD[place : place + 50] else "new")
    return states


@pytest.mark.usefixtures("short_steps")
async def test_others_are_served_while_many_ranges_are_flushed(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one") as session:
        volume = session.volume
        ino, model = await scattered(session)
        seen = [extents(session, ino)]
        changes = {
            2: (100, b"behind what is being flushed"),
            4: (RANGES[-30] - 100, b"before it"),
            5: (RANGES[-60], b"and on it"),
        }

        async def look() -> None:
            if extents(session, ino) == seen[-1]:
                return
            seen.append(extents(session, ino))
            if change := changes.get(len(seen)):
                model[change[0] : change[0] + len(change[1])] = change[1]
                await volume.write(ino, *change)
            if len(seen) == 7:
                del model[RANGES[-20] + 10 :]
                await volume.set_attributes(ino, size=len(model))
            if len(seen) in (6, 10):  # each lets the flush go on for long
                assert await content(volume, ino) == model

        await settled(volume, look)
        assert len(seen) > 8, "in many steps"
        assert await content(volume, ino) == model
        await drained(session)
        volume.close(ino)
    assert await seen_elsewhere(storage, tmp_path / "other") == model


@pytest.mark.usefixtures("short_steps")
@pytest.mark.parametrize("durable", [True, False])
async def test_a_crash_between_steps_leaves_what_was_fsynced(
    tmp_path: Path, autojump_clock: MockClock, durable: bool
) -> None:
    storage = MemoryStorage()
    crashes: list[tuple[Path, MemoryStorage]] = []
    async with opened_volume(storage, tmp_path / "one") as session:
        volume = session.volume
        ino, _ = await scattered(session, durable=durable)
        await volume.write(ino, len(OLD), b"longer")
        known = [extents(session, ino)]

        async def look() -> None:
            if extents(session, ino) > known[-1] + 30:
                known.append(extents(session, ino))
                volume.database.commit()  # as its timer does
                home = killed(tmp_path / "one", tmp_path / f"killed-{len(crashes)}")
                crashes.append((home, copy_of(storage)))

        await settled(volume, look)
        volume.close(ino)
    assert len(crashes) > 4
    for home, then in crashes:
        async with opened_volume(then, home) as session:
            found = await content(session.volume, ino)
            states = pieces_of(found)
            assert states == {"new"} if durable else states <= {"old", "new"}
            assert found[len(OLD) :] in (b"", b"longer")
            await drained(session)
            assert await content(session.volume, ino) == found


@pytest.mark.usefixtures("short_steps")
async def test_an_fsync_between_steps_counts_though_an_older_one_is_there(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What it is about is in the tables in part, and the older intent is played back over these."""
    storage, newer = MemoryStorage(), b"2" * 50
    crashes: list[tuple[Path, MemoryStorage]] = []
    async with opened_volume(storage, tmp_path / "one") as session:
        volume = session.volume
        ino, model = await scattered(session, durable=True)
        for place in (RANGES[0], RANGES[-1]):
            model[place : place + 50] = newer
            await volume.write(ino, place, newer)
        before = extents(session, ino)

        async def look() -> None:
            if not crashes and extents(session, ino) > before + 40:
                await volume.fsync(ino)
                home = killed(tmp_path / "one", tmp_path / "killed")
                crashes.append((home, copy_of(storage)))
                assert vars(volume)["_write_back"].bytes, "the flush goes on"

        await settled(volume, look)
        volume.close(ino)
    ((home, then),) = crashes
    async with opened_volume(then, home) as session:
        assert await content(session.volume, ino) == model


async def test_an_intent_that_cannot_be_ended_leaves_the_bytes_in_memory(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Intents, ino: int, number: int) -> None:
        raise session.volume.database.fail(apsw.IOError("as planned"))

    with pytest.raises(LocalDiskFailed):
        async with opened_volume(MemoryStorage(), tmp_path / "one") as session:
            ino = await put(session.volume, b"file", OLD, durable=True)
            monkeypatch.setattr(Intents, "contain", fail)
            with pytest.raises(LocalDiskFailed):
                await session.volume.settle()
            assert vars(session.volume)["_write_back"].bytes == len(OLD)
            file = vars(session.volume)["_in_core"].get(ino)
            assert b"".join(bytes(piece) for _, piece in file.overlay(0, len(OLD))) == OLD
    assert "as planned" in caplog.text
    caplog.clear()


@pytest.mark.usefixtures("short_steps")
async def test_a_database_that_fails_between_steps_leaves_no_wrong_bytes(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage()
    with pytest.raises(InfinitfsError):
        async with opened_volume(storage, tmp_path / "one") as session:
            volume = session.volume
            ino, model = await scattered(session)
            before = extents(session, ino)
            await settle_in_vain(volume, lambda: extents(session, ino) >= before + 20)
            with suppress(LocalDiskFailed):
                assert await content(volume, ino) == model
            home = killed(tmp_path / "one", tmp_path / "killed")
    assert "as planned" in caplog.text
    caplog.clear()
    async with opened_volume(copy_of(storage), home) as session:
        pieces_of(await content(session.volume, ino))
