"""Giving space back: condemn, delete, forget, in that order, and never a pack that somebody refers to."""

import random
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from infinitfs.errors import InfinitfsError
from infinitfs.file.extents import END, Edit, Extent
from infinitfs.keys import frame
from infinitfs.mount.session import Session
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import publisher
from infinitfs.volume.database import Database
from infinitfs.volume.journal import JOURNAL
from infinitfs.volume.namespace import ROOT
from tests.support.faults import Call, Delay, FailAfter, FailBefore, Fault, FaultyStorage
from tests.support.held import Held
from tests.support.volumes import content, copy_of, drained, killed, make_volume, opened_volume, packs, picture, put

OPENED = make_volume()


def noise(seed: int, length: int = 30_000) -> bytes:
    return random.Random(seed).randbytes(length)


def known_packs(database: Database) -> set[str]:
    return {bytes(row[0]).hex() for row in database.rows("SELECT name FROM packs")}


def live_references(database: Database, pack: str) -> int:
    return database.value(
        "SELECT count(*) FROM extents JOIN blocks USING (block) JOIN packs USING (pack) WHERE packs.name = ?",
        (bytes.fromhex(pack),),
    )


class Watched(MemoryStorage):
    """Fails a test at a DELETE of a pack that the open volume may not send yet, or ever."""

    def __init__(self) -> None:
        super().__init__()
        self.session: Session | None = None
        self.log: list[tuple[str, str]] = []

    async def put(self, key: str, data: object, *, create: bool = False) -> None:
        await super().put(key, data, create=create)  # type: ignore[arg-type]
        self.log.append(("put", key))

    async def delete(self, key: str) -> None:
        if "/packs/" in key and self.session is not None:
            volume, name = self.session.volume, key.rpartition("/")[2]
            assert live_references(volume.database, name) == 0
            condemned = volume.database.value("SELECT condemned FROM packs WHERE name = ?", (bytes.fromhex(name),))
            assert 0 < condemned <= volume.publisher.position
            assert JOURNAL.key(OPENED.volume_id.hex(), condemned) in self.objects
        await super().delete(key)
        self.log.append(("delete", key))


async def test_a_dead_pack_is_condemned_then_deleted_then_forgotten(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = Watched()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        storage.session = session
        await put(session.volume, b"dead", noise(1))
        await drained(session)
        (dead,) = packs(storage)
        await put(session.volume, b"alive", noise(2))
        await drained(session)
        assert (await session.volume.collector.collect()).packs == 0
        size = len(storage.objects[f"{OPENED.volume_id.hex()}/packs/{dead[:2]}/{dead}"])
        stored = session.volume.space().stored
        await session.volume.unlink(ROOT, b"dead")
        del storage.log[:]
        freed = await session.volume.collector.collect()
        assert freed == (1, size)
        assert session.volume.space().stored == stored - size
        assert dead not in packs(storage)
        kinds = ["record" if "/journal/" in key else "pack" for _, key in storage.log]
        assert kinds == ["record", "record", "pack", "record"], "unlink, condemn, delete, forget"
        assert known_packs(session.volume.database) == packs(storage)
        assert (await session.volume.collector.collect()).packs == 0
        found = session.volume.lookup(ROOT, b"alive")
        assert found is not None
        assert await content(session.volume, found.ino) == noise(2)
        await session.drain()
    async with opened_volume(storage, tmp_path / "two", OPENED) as session:
        assert known_packs(session.volume.database) == packs(storage)


async def test_a_pack_with_one_live_block_stays(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await put(session.volume, b"dead", noise(1))
        ino = await put(session.volume, b"alive", noise(2))
        await drained(session)
        await session.volume.unlink(ROOT, b"dead")
        assert len(packs(storage)) == 1
        assert (await session.volume.collector.collect()).packs == 0
        await session.volume.set_attributes(ino, size=1)
        assert (await session.volume.collector.collect()).packs == 0
        await session.volume.set_attributes(ino, size=0)
        assert (await session.volume.collector.collect()).packs == 1
        assert packs(storage) == set()


async def test_content_that_comes_back_before_the_condemn_record_keeps_its_pack(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await put(session.volume, b"first", noise(1))
        await drained(session)
        await session.volume.unlink(ROOT, b"first")
        await drained(session)
        before = packs(storage)
        ino = await put(session.volume, b"second", noise(1))
        await session.volume.settle()
        assert (await session.volume.collector.collect()).packs == 0
        assert packs(storage) == before
        assert await content(session.volume, ino) == noise(1)


async def test_a_reference_that_is_not_committed_yet_keeps_its_pack(autojump_clock: MockClock, tmp_path: Path) -> None:
    """A flush ends, and the collector gets the lock before the transaction with the new count of references ends."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        ino = await put(volume, b"first", noise(1))
        await drained(session)
        blocks, lock = vars(volume)["_blocks"], vars(volume.collector)["_flush_lock"]
        extents = [extent for extent, _ in blocks.extents(ino, 0, END)]
        await volume.unlink(ROOT, b"first")
        second = (await volume.create(ROOT, b"second", 0o100644, 0, 0)).ino
        await drained(session)
        async with trio.open_nursery() as nursery, lock:
            nursery.start_soon(volume.collector.collect)
            await trio.testing.wait_all_tasks_blocked()
            # What the end of a flush does: no await from here to the release of the lock.
            blocks.edit(second, [Edit(0, 30_000, tuple(Extent(*extent) for extent in extents))], 0)
            vars(volume)["_namespace"].update(second, size=30_000, allocated=30_000)
        assert len(packs(storage)) == 1
        assert await content(volume, second) == noise(1)


async def test_a_block_is_not_read_as_the_one_that_had_its_number(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"old", noise(1), durable=True)
        assert await content(session.volume, ino) == noise(1), "and its blocks are kept open"
        await drained(session)
        await session.volume.unlink(ROOT, b"old")
        assert (await session.volume.collector.collect()).packs == 1
        ino = await put(session.volume, b"new", noise(2), durable=True)
        assert await content(session.volume, ino) == noise(2)


# --- interrupted ---


async def garbage(session: Session) -> None:
    """Two dead packs and two live ones."""
    for number in range(4):
        await put(session.volume, b"%d" % number, noise(number))
        await drained(session)
    await session.volume.unlink(ROOT, b"0")
    await session.volume.unlink(ROOT, b"2")


async def check_collected(storage: MemoryStorage, home: Path) -> None:
    async with opened_volume(storage, home, OPENED, take_over=True) as session:
        assert known_packs(session.volume.database) == packs(storage)
        assert len(packs(storage)) == 2
        assert session.volume.database.value("SELECT count(*) FROM packs WHERE condemned IS NOT NULL") == 0
        seen = await picture(session.volume)
        assert {name: node.content for name, node in seen.nodes.items()} == {b"1": noise(1), b"3": noise(3)}


async def test_killed_between_any_two_steps_the_next_run_goes_on(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    copies: list[tuple[Path, MemoryStorage]] = []

    def plan(call: Call) -> Fault | None:
        copies.append((killed(tmp_path / "one", tmp_path / f"copy {len(copies)}"), copy_of(storage)))
        return None

    faulty = FaultyStorage(storage, lambda call: None)
    async with opened_volume(faulty, tmp_path / "one", OPENED) as session:
        await garbage(session)
        faulty.plan = plan
        assert (await session.volume.collector.collect()).packs == 2
        plan(Call("end", "", 0))
        faulty.plan = lambda call: None
    assert len(copies) >= 6
    for home, then in copies:
        async with opened_volume(then, home, OPENED) as session:
            await session.volume.collector.collect()
        await check_collected(then, tmp_path / f"other {home.name}")


@pytest.mark.parametrize("fault", [FailBefore(), FailAfter()], ids=["not applied", "answer lost"])
async def test_a_delete_that_fails_is_made_by_the_next_run(
    autojump_clock: MockClock, tmp_path: Path, fault: Fault
) -> None:
    storage = MemoryStorage()
    failures = 0

    def plan(call: Call) -> Fault | None:
        nonlocal failures
        if call.operation == "delete" and failures < 2:
            failures += 1
            return fault
        return None

    async with opened_volume(FaultyStorage(storage, plan), tmp_path / "one", OPENED) as session:
        await garbage(session)
        for _ in range(2):
            with pytest.raises(InfinitfsError):
                await session.volume.collector.collect()
        await session.volume.collector.collect()
    await check_collected(storage, tmp_path / "two")


async def test_another_owner_goes_on_with_what_was_condemned(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()

    def plan(call: Call) -> Fault | None:
        return FailBefore() if call.operation == "delete" else None

    async with opened_volume(FaultyStorage(storage, plan), tmp_path / "one", OPENED) as session:
        await garbage(session)
        with pytest.raises(InfinitfsError):
            await session.volume.collector.collect()
        await session.drain()
    assert len(packs(storage)) == 4
    async with opened_volume(storage, tmp_path / "two", OPENED) as session:
        ino = await put(session.volume, b"again", noise(0), durable=True)
        assert (await session.volume.collector.collect()).packs == 2
        assert await content(session.volume, ino) == noise(0), "nothing refers to a condemned pack"
        await session.volume.unlink(ROOT, b"again")
        await session.volume.collector.collect()
    await check_collected(storage, tmp_path / "three")


# --- any sequence of writes, copies, removals and runs of the collector, side by side ---

Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "patch", "cut", "unlink", "collect", "drain", "wait"]),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    min_size=5,
    max_size=30,
)


async def play(program: list[Step], folder: Path) -> None:
    storage = Watched()
    model: dict[bytes, bytes] = {}
    async with opened_volume(storage, folder / "one", OPENED) as session:
        storage.session = session
        volume = session.volume

        def start(nursery: trio.Nursery, call: Callable[[], Awaitable[object]]) -> None:
            async def run() -> None:
                await call()

            nursery.start_soon(run)

        async with trio.open_nursery() as nursery:
            for what, which, variant in program:
                name = b"file %d" % which
                if what == "put":
                    model[name] = noise(variant, 12_000)
                    await put(volume, name, model[name], durable=variant % 2 == 0)
                    await volume.set_attributes((volume.lookup(ROOT, name) or volume.attributes(ROOT)).ino, size=12_000)
                elif what == "collect":
                    start(nursery, volume.collector.collect)
                elif what == "drain":
                    start(nursery, volume.drain)
                elif what == "wait":
                    await trio.sleep([0, 0.004, 1, 7][variant])
                elif name in model:
                    found = volume.lookup(ROOT, name)
                    assert found is not None
                    if what == "patch":
                        at = variant * 3000
                        model[name] = model[name].ljust(at, b"\0")[:at] + b"patch" + model[name][at + 5 :]
                        await put(volume, name, b"patch", offset=at)
                    elif what == "cut":
                        model[name] = model[name][: variant * 4000]
                        await volume.set_attributes(found.ino, size=len(model[name]))
                    elif what == "unlink":
                        del model[name]
                        await volume.unlink(ROOT, name)
        await session.drain()
        await volume.collector.collect()
        await session.drain()
        storage.session = None
    async with opened_volume(storage, folder / "two", OPENED) as session:
        seen = await picture(session.volume)
        assert {name: node.content for name, node in seen.nodes.items()} == model
        assert known_packs(session.volume.database) == packs(storage)
        assert all(live_references(session.volume.database, pack) for pack in packs(storage))


@settings(max_examples=20, deadline=None)
@given(steps)
def test_no_pack_with_a_live_block_is_ever_deleted(program: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(partial(play, program, Path(folder)), clock=MockClock(autojump_threshold=0))


# --- a run that goes on while the volume is closed


async def until_it_deletes(
    storage: FaultyStorage, session: Session, count: int, delay: float, put_delay: float
) -> None:
    """Return when the run of the first hour has sent its first DELETE; each takes `delay` seconds from then on."""
    for number in range(count):
        await put(session.volume, b"dead %d" % number, noise(number, 70_000))
        await drained(session)
    for number in range(count):
        await session.volume.unlink(ROOT, b"dead %d" % number)
    await session.volume.drain()
    deleting = trio.Event()

    def plan(call: Call) -> Fault:
        if call.operation != "delete":
            return Delay(put_delay)
        deleting.set()
        return Delay(delay)

    storage.plan = plan
    await deleting.wait()


async def test_a_volume_is_given_up_though_a_run_goes_on(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = FaultyStorage(MemoryStorage(), lambda call: None)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await until_it_deletes(storage, session, 60, 0.05, 0.05)
        await trio.sleep(0.5)
        await session.drain()
    async with opened_volume(storage.inner, tmp_path / "two", OPENED) as session:  # and is free for another machine
        await session.volume.collector.collect()


async def test_no_change_of_a_run_follows_the_release(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = FaultyStorage(MemoryStorage(), lambda call: None)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await until_it_deletes(storage, session, 3, 1.0, 0.7)
        await trio.sleep(0.7)
        await session.drain()
    async with opened_volume(storage.inner, tmp_path / "two", OPENED) as session:
        await put(session.volume, b"file", b"content")
        await session.drain()
    async with opened_volume(storage.inner, tmp_path / "one", OPENED) as session:  # without a change of its own
        assert session.volume.lookup(ROOT, b"file") is not None


async def test_no_change_of_a_run_takes_the_position_behind_the_release(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Killed before the release is sealed, the journal would have a gap."""
    inner, held = MemoryStorage(), Held("seal_record")
    storage = FaultyStorage(inner, lambda call: None)
    left: list[tuple[Path, MemoryStorage]] = []

    async def crash() -> None:
        await trio.sleep(1.2)
        left.append((killed(tmp_path / "one", tmp_path / "killed"), copy_of(inner)))
        held.go.set()

    async with (
        trio.open_nursery() as nursery,
        opened_volume(storage, tmp_path / "one", OPENED, offload=held) as session,
    ):
        await until_it_deletes(storage, session, 3, 1.0, 0.0)
        await session.drain()
        held.holding = True
        nursery.start_soon(crash)
    home, then = left[0]
    async with opened_volume(then, home, OPENED) as session:
        await put(session.volume, b"file", b"content")
        await session.drain()
    async with opened_volume(then, tmp_path / "other", OPENED) as session:
        assert session.volume.lookup(ROOT, b"file") is not None


async def test_what_is_condemned_fits_into_records(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        for number in range(2500):
            await put(session.volume, b"%d" % number, noise(number, 200))
        await drained(session)
        for number in range(2500):
            await session.volume.unlink(ROOT, b"%d" % number)
            if number % 100 == 0:
                await drained(session)
        await drained(session)
        monkeypatch.setattr(publisher, "_GATHERED", 8 << 10)
        monkeypatch.setattr(frame, "MAX_PAYLOAD", 64 << 10)
        freed = await session.volume.collector.collect()
        assert freed.packs > 5 and not packs(storage)
        await session.drain()
