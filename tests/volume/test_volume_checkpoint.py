"""Checkpoints: when they are taken, what they hold, what is sent and trimmed, and what happens to damaged ones."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import checkpoint as module
from infinitfs.volume.checkpoint import CHECKPOINTS
from infinitfs.volume.journal import JOURNAL
from infinitfs.volume.namespace import ROOT
from tests.support.checkpoints import OPENED, VOLUME, fill, manifest_at, pack_object, packs_of
from tests.support.faults import Call, Delay, FailAfter, FailBefore, Fault, FaultyStorage
from tests.support.volumes import (
    FILE,
    checkpointed,
    drained,
    folders_of,
    killed,
    opened_volume,
    packs,
    picture,
    positions,
    put,
)


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACK", 32 * 1024)


# --- taking and restoring ---


async def test_a_checkpoint_and_the_records_after_it_give_the_same(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 800)
        await put(session.volume, b"file", b"content" * 10_000)
        position = await checkpointed(session)
        assert positions(storage, CHECKPOINTS) == [position]
        assert not list(folders_of(tmp_path / "one", OPENED).checkpoint.iterdir())
        await put(session.volume, b"file", b"patch", offset=100)
        await fill(session, 10, b"second")
        await session.drain()
        seen = await picture(session.volume)
    assert len(packs_of(manifest_at(storage, position))) > 3
    for older in range(1, position):  # they stay until there are two checkpoints, and nobody needs them
        del storage.objects[JOURNAL.key(VOLUME, older)]
    async with opened_volume(storage, tmp_path / "two", OPENED) as session:
        assert await picture(session.volume) == seen
        assert not list(folders_of(tmp_path / "two", OPENED).checkpoint.iterdir())
        for table in ("outbox", "records", "staged"):
            assert session.volume.database.value(f"SELECT count(*) FROM {table}") == 0
        await put(session.volume, b"file", b"more")
        await session.drain()
        seen = await picture(session.volume)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        assert await picture(session.volume) == seen


async def test_a_checkpoint_shows_the_moment_of_its_cut(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Changes go on while the record is on its way and groups are sealed: none of them is in the checkpoint."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 300)
        session.volume.checkpointer.forced = True
        cut = await session.volume.publisher.cut()
        await fill(session, 300, b"later")
        await session.volume.publisher.cut()
        await drained(session)
        position = positions(storage, CHECKPOINTS)[0]
        assert position == cut
    for key in [key for key in storage.objects if "/journal/" in key and (JOURNAL.position(key) or 0) != position]:
        del storage.objects[key]
    async with opened_volume(storage, tmp_path / "two", OPENED, read_only=True) as session:
        names = [name for _, name, *_ in session.volume.entries(ROOT, 0)]
        assert len(names) == 300
        assert all(name.startswith(b"first") for name in names)


@pytest.mark.parametrize(("limit", "value"), [("_SMALLEST", 8_000), ("_RECORDS", 5)])
async def test_a_checkpoint_is_due_by_bytes_or_by_records(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(module, limit, value)
    monkeypatch.setattr(module, "_SHARE", 0.0)
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        for number in range(12):
            assert len(positions(storage, CHECKPOINTS)) <= number
            await fill(session, 30, b"%d" % number)
            await trio.sleep(10)
        assert len(positions(storage, CHECKPOINTS)) == 2, "the last two are kept"
        await session.drain()
        seen = await picture(session.volume)
    async with opened_volume(storage, tmp_path / "two", OPENED) as session:
        assert await picture(session.volume) == seen


async def test_groups_that_did_not_change_are_not_sent_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 3000)
        first = manifest_at(storage, await checkpointed(session))
        before = packs(storage)
        await session.volume.set_xattr(ROOT, b"user.one", b"more")
        second = manifest_at(storage, await checkpointed(session))
        sent = sum(len(storage.objects[pack_object(pack)]) for pack in packs(storage) - before)
        await session.drain()
    whole = sum(group.length for group in first.groups)
    assert whole > 500_000
    assert sent < whole / 4
    assert set(second.groups) & set(first.groups)
    # Another session knows what the storage has already, too.
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        before = packs(storage)
        await session.volume.set_xattr(ROOT, b"user.two", b"more")
        await checkpointed(session)
        assert sum(len(storage.objects[pack_object(pack)]) for pack in packs(storage) - before) < whole / 4


async def test_no_plain_page_leaves(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    mark = b"a-name-nobody-may-read"
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        for number in range(500):
            await session.volume.create(ROOT, mark + b"%d" % number, FILE, 0, 0)
        await checkpointed(session)
    for data in storage.objects.values():
        assert mark not in data
        assert b"SQLite format" not in data
        assert b"CREATE TABLE" not in data


# --- trouble while one is taken ---


async def test_trouble_with_a_checkpoint_leaves_the_volume_alone(autojump_clock: MockClock, tmp_path: Path) -> None:
    inner = MemoryStorage()
    broken = True

    def plan(call: Call) -> Fault | None:
        return FailBefore() if broken and call.operation == "put" and "/checkpoints/" in call.key else None

    async with opened_volume(FaultyStorage(inner, plan), tmp_path / "one", OPENED) as session:
        await fill(session, 300)
        await checkpointed(session)
        assert positions(inner, CHECKPOINTS) == []
        broken = False
        await fill(session, 1, b"second")
        await checkpointed(session)
        assert len(positions(inner, CHECKPOINTS)) == 1
        await session.drain()
        seen = await picture(session.volume)
    async with opened_volume(inner, tmp_path / "two", OPENED) as session:
        assert await picture(session.volume) == seen


async def test_packs_of_a_checkpoint_that_cannot_be_sent_are_taken_back(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The storage has the last pack that was sent, too, though it was not heard of."""
    inner = MemoryStorage()

    def plan(call: Call) -> Fault | None:
        return FailAfter() if call.operation == "put" and len(packs(inner)) == len(before) + 2 else None

    faulty = FaultyStorage(inner, lambda call: None)
    async with opened_volume(faulty, tmp_path / "one", OPENED) as session:
        await fill(session, 800)
        await put(session.volume, b"file", b"content" * 10_000)
        await drained(session)
        before = packs(inner)
        faulty.plan = plan
        await fill(session, 1, b"second")
        await checkpointed(session)
        assert "No checkpoint was made" in caplog.text
        sent = {call.key for call in faulty.calls if call.operation == "put" and "/packs/" in call.key}
        assert len(sent) == len(before) + 3
        assert packs(inner) == before


async def test_packs_of_a_checkpoint_that_an_unmount_cuts_off_are_taken_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    inner = MemoryStorage()
    faulty = FaultyStorage(inner, lambda call: None)
    async with opened_volume(faulty, tmp_path / "one", OPENED) as session:
        await fill(session, 800)
        session.volume.checkpointer.forced = True
        faulty.plan = lambda call: Delay(20) if call.operation == "put" and "/packs/" in call.key else None
        await session.drain()
        await trio.sleep(50)
        assert len(packs(inner)) == 2
    assert packs(inner) == set()


async def test_a_full_disk_fails_a_checkpoint_and_nothing_else(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 300)
        with monkeypatch.context() as patch:

            def full(*arguments: object, **options: object) -> int:
                raise OSError(28, "No space left on device")

            patch.setattr(module, "export_pages", full)
            await checkpointed(session)
        assert "No checkpoint was made" in caplog.text
        await fill(session, 1, b"second")
        await checkpointed(session)
        assert len(positions(storage, CHECKPOINTS)) == 1


async def test_killed_while_a_checkpoint_is_on_its_way(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    copies: list[tuple[Path, MemoryStorage]] = []

    def plan(call: Call) -> Fault | None:
        if session.volume.checkpointer.forced is False and call.operation in ("put", "delete"):
            then = MemoryStorage()
            then.objects = dict(storage.objects)
            copies.append((killed(tmp_path / "one", tmp_path / f"copy {len(copies)}"), then))
        return None

    faulty = FaultyStorage(storage, lambda call: None)
    async with opened_volume(faulty, tmp_path / "one", OPENED) as session:
        await fill(session, 100)
        await checkpointed(session)
        await fill(session, 100, b"second")
        await checkpointed(session)
        await fill(session, 100, b"third")
        await session.volume.sync()
        session.volume.checkpointer.forced = True
        faulty.plan = plan
        await drained(session)
        faulty.plan = lambda call: None
        seen = await picture(session.volume)
    assert len(copies) > 5
    for home, then in copies:
        async with opened_volume(then, home, OPENED) as session:
            assert await picture(session.volume) == seen
            await fill(session, 1, b"fourth")
            await checkpointed(session)
            after = await picture(session.volume)
        async with opened_volume(then, tmp_path / f"other {home.name}", OPENED, read_only=True) as session:
            assert await picture(session.volume) == after
