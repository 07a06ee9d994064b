"""Who may write: claims, releases, take-overs, and a storage that shows another history than it did."""

import errno
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec
import pytest
import trio
from trio.testing import MockClock

from infinitfs.errors import Fenced, HistoryRolledBack, InfinitfsError, NotFound, StorageUnreachable, VolumeOwned
from infinitfs.storage.memory import MemoryStorage
from infinitfs.transfer.files import inline
from infinitfs.volume.clock import Clock
from infinitfs.volume.history import History
from infinitfs.volume.journal import JOURNAL, Kind, open_record, seal_record
from infinitfs.volume.lease import PAUSE, Lease
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.volume import Volume
from tests.support.faults import FailAfter, FaultyStorage
from tests.support.volumes import (
    ALICE,
    START,
    WallClock,
    content,
    copy_of,
    drained,
    killed,
    make_volume,
    opened_volume,
    positions,
    put,
)

T = TypeVar("T")
OPENED = make_volume()
VOLUME = OPENED.volume_id.hex()


def names(volume: Volume) -> set[bytes]:
    return {name for _, name, *_ in volume.entries(ROOT, 0)}


async def write(storage: MemoryStorage | FaultyStorage, home: Path, *files: bytes, take_over: bool = False) -> None:
    """One mount that writes each file into a record of its own, and ends in order."""
    async with opened_volume(storage, home, OPENED, take_over=take_over) as session:
        for name in files:
            await put(session.volume, name, name)
            await session.drain()


async def refused(
    storage: MemoryStorage | FaultyStorage, home: Path, expected: type[InfinitfsError], *, take_over: bool = False
) -> InfinitfsError:
    with pytest.raises(expected) as caught:
        async with opened_volume(storage, home, OPENED, take_over=take_over):
            pass
    return caught.value


# --- claims and releases ---


async def test_a_second_machine_is_refused_while_the_volume_is_owned(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage, wall = MemoryStorage(), WallClock()
    async with opened_volume(storage, tmp_path / "laptop", OPENED, wall=wall) as session:
        await put(session.volume, b"file", b"content")
        await session.drain()
        wall.now += 10**18  # no age of a claim makes it void
        before = dict(storage.objects)
        error = await refused(storage, tmp_path / "desktop", VolumeOwned)
        assert error.fields["user"] == "alice"
        assert error.fields["host"] == "laptop"
        assert error.fields["since"] == "2023-11-14T22:13:20Z"
        assert error.exit_code == 11
        assert storage.objects == before
    async with opened_volume(storage, tmp_path / "desktop", OPENED) as session:
        assert names(session.volume) == {b"file"}
        await put(session.volume, b"other", b"content")
        await session.drain()
    async with opened_volume(storage, tmp_path / "laptop", OPENED) as session:
        assert names(session.volume) == {b"file", b"other"}


async def test_the_same_machine_goes_on_without_a_new_claim(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await put(session.volume, b"file", b"content")
        await drained(session)
        copy, then = killed(tmp_path / "one", tmp_path / "copy"), copy_of(storage)
    before = positions(then, JOURNAL)
    async with opened_volume(then, copy, OPENED) as session:
        await drained(session)
        assert positions(then, JOURNAL) == before


async def test_a_mount_that_could_not_send_everything_stays_the_owner(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage = FaultyStorage(MemoryStorage(), lambda call: None)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await drained(session)
        storage.partitioned = True
        await put(session.volume, b"file", b"content")
    storage.partitioned = False
    await refused(storage, tmp_path / "two", VolumeOwned)
    await write(storage, tmp_path / "one", b"another")
    await write(storage, tmp_path / "two", b"third")


# --- taking over ---


async def test_a_take_over_fences_the_old_writer(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = FaultyStorage(MemoryStorage(), lambda call: None)
    async with opened_volume(storage, tmp_path / "old", OPENED) as old:
        ino = await put(old.volume, b"file", b"content")
        await drained(old)
        async with opened_volume(storage, tmp_path / "new", OPENED, take_over=True) as new:
            assert names(new.volume) == {b"file"}
            await put(new.volume, b"by new", b"content")
            await new.drain()
            # The old one does not know yet: its next record collides with the claim.
            await put(old.volume, b"by old", b"lost?", durable=True)
            with pytest.raises(Fenced) as caught:
                await old.drain()
            assert caught.value.errno == errno.EROFS
            assert "alice on new" in str(caught.value)
            for attempt in (put(old.volume, b"file", b"changed"), old.volume.unlink(ROOT, b"file")):
                with pytest.raises(Fenced):
                    await attempt
            assert await content(old.volume, ino) == b"content"
            assert old.status().state == "read-only" and "alice on new" in str(old.status().trouble)
            assert old.volume.publisher.unsent
            await put(new.volume, b"more", b"content")
            await new.drain()
    for take_over in (False, True):
        error = await refused(storage, tmp_path / "old", Fenced, take_over=take_over)
        assert str(tmp_path / "old") in error.fields["state"]
    async with opened_volume(storage, tmp_path / "third", OPENED) as session:
        assert names(session.volume) == {b"file", b"by new", b"more"}


async def test_a_fenced_writer_without_unsent_changes_comes_back(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = FaultyStorage(MemoryStorage(), lambda call: None)
    async with opened_volume(storage, tmp_path / "old", OPENED) as old:
        await put(old.volume, b"file", b"content")
        await drained(old)
        await write(storage, tmp_path / "new", b"by new", take_over=True)
        # Nothing is sent by the old one, and yet it learns that the volume is no longer its own.
        await trio.sleep(120)
        assert old.volume.publisher.fenced is not None
        with pytest.raises(Fenced):
            await old.volume.unlink(ROOT, b"file")
    async with opened_volume(storage, tmp_path / "old", OPENED) as session:
        assert names(session.volume) == {b"file", b"by new"}


async def test_of_two_machines_that_take_over_at_once_one_does(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "old", OPENED) as session:
        await put(session.volume, b"file", b"content")
        await session.drain()
        copy_of_owned = copy_of(storage)
    outcomes: dict[str, str] = {}

    async def take(home: str) -> None:
        try:
            async with opened_volume(copy_of_owned, tmp_path / home, OPENED, take_over=True) as session:
                await put(session.volume, home.encode(), b"content")
                await session.drain()
                outcomes[home] = "owner"
                await trio.sleep(1000)
        except Fenced:
            outcomes[home] = "fenced"

    with trio.move_on_after(500):
        async with trio.open_nursery() as nursery:
            for home in ("a", "b", "c"):
                nursery.start_soon(take, home)
    assert sorted(outcomes.values()) == ["fenced", "fenced", "owner"]


async def test_a_claim_that_cannot_be_sent_fails_the_mount(autojump_clock: MockClock, tmp_path: Path) -> None:
    inner = MemoryStorage()
    await write(inner, tmp_path / "one", b"file")

    class Refusing(MemoryStorage):
        async def put(self, *arguments: object, **options: object) -> None:
            raise StorageUnreachable(storage="memory", reason="as planned")

    storage = Refusing()
    storage.objects = inner.objects
    before = dict(inner.objects)
    await refused(storage, tmp_path / "two", StorageUnreachable)
    assert inner.objects == before
    await write(inner, tmp_path / "two", b"other")
    await write(inner, tmp_path / "one", b"third")


# --- an older state of this machine ---


async def test_a_restored_backup_of_this_machine_catches_up(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    await write(storage, tmp_path / "one", b"first")
    backup = killed(tmp_path / "one", tmp_path / "backup")
    await write(storage, tmp_path / "one", b"second")
    await write(storage, tmp_path / "two", b"third")
    async with opened_volume(storage, backup, OPENED) as session:
        assert names(session.volume) == {b"first", b"second", b"third"}
        await put(session.volume, b"fourth", b"content")
        await session.drain()


async def test_a_restored_backup_with_unsent_changes_keeps_them(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = FaultyStorage(MemoryStorage(), lambda call: None)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await drained(session)
        await put(session.volume, b"file", b"content", durable=True)
        backup = killed(tmp_path / "one", tmp_path / "backup")
        await put(session.volume, b"file", b"another", durable=True)
        await session.drain()
    await refused(storage, backup, Fenced)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        assert names(session.volume) == {b"file"}


# --- a storage that went back ---


async def test_a_rolled_back_storage_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    await write(storage, tmp_path / "one", b"first", b"second")
    older = copy_of(storage)
    await write(storage, tmp_path / "one", b"third", b"fourth")
    last = positions(storage, JOURNAL)[-1]
    shortened, emptied = copy_of(storage), MemoryStorage()
    del shortened.objects[JOURNAL.key(VOLUME, last)]
    holed = copy_of(storage)
    del holed.objects[JOURNAL.key(VOLUME, last)], holed.objects[JOURNAL.key(VOLUME, last - 2)]
    for rolled_back in (older, shortened, holed, emptied):
        before = dict(rolled_back.objects)
        for take_over in (False, True):
            error = await refused(rolled_back, tmp_path / "one", HistoryRolledBack, take_over=take_over)
            assert error.fields["sequence"] == str(last)
        assert rolled_back.objects == before
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        assert names(session.volume) == {b"first", b"second", b"third", b"fourth"}


async def test_a_volume_that_is_not_there_any_more_is_not_begun_anew(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Deleted elsewhere, while this machine had its record but nothing that pins a state of the storage."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "seen", OPENED, read_only=True):
        pass
    await write(storage, tmp_path / "one", b"file")
    async with opened_volume(storage, tmp_path / "fetched", OPENED, read_only=True) as session:
        assert names(session.volume) == {b"file"}
    storage.objects.clear()
    for home in ("seen", "new", "new"):
        with pytest.raises(NotFound, match="its storage does not have it any more"):
            async with opened_volume(storage, tmp_path / home, OPENED, described=False):
                pass
    assert storage.objects == {}
    await refused(storage, tmp_path / "fetched", HistoryRolledBack)


async def test_a_forked_history_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    await write(storage, tmp_path / "one", b"first")
    fork = copy_of(storage)
    await write(storage, tmp_path / "one", b"second")
    last = positions(storage, JOURNAL)[-1]
    await write(fork, tmp_path / "two", b"other")
    assert positions(fork, JOURNAL)[-1] == last
    await refused(fork, tmp_path / "one", HistoryRolledBack)
    await write(fork, tmp_path / "two", b"more", b"and more")
    await refused(fork, tmp_path / "one", HistoryRolledBack)
    # A storage that joins the two: what this machine saw last, and then the other branch.
    joined = copy_of(storage)
    for position in positions(fork, JOURNAL):
        if position > last:
            key = JOURNAL.key(VOLUME, position)
            joined.objects[key] = fork.objects[key]
    error = await refused(joined, tmp_path / "one", HistoryRolledBack)
    assert error.fields["sequence"] == str(last + 1)
    await write(storage, tmp_path / "one", b"third")


async def test_a_record_that_continues_another_history_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Signed by a member, at the right place, but its chain is broken."""
    storage = MemoryStorage()
    await write(storage, tmp_path / "one", b"first")
    last = positions(storage, JOURNAL)[-1]
    record = open_record(OPENED.ring, OPENED.member, last, storage.objects[JOURNAL.key(VOLUME, last)])
    forged = msgspec.structs.replace(record, position=last + 1, kind=Kind.CLAIM, previous=bytes(32))
    storage.objects[JOURNAL.key(VOLUME, last + 1)] = seal_record(OPENED.ring, ALICE, forged)
    for home in ("one", "two"):
        error = await refused(storage, tmp_path / home, HistoryRolledBack)
        assert error.fields["sequence"] == str(last + 1)


async def test_a_damaged_record_is_named(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    await write(storage, tmp_path / "one", b"first", b"second")
    key = JOURNAL.key(VOLUME, 2)
    data = bytearray(storage.objects[key])
    data[random.Random(1).randrange(len(data))] ^= 1
    whole, storage.objects[key] = storage.objects[key], bytes(data)
    with pytest.raises(InfinitfsError) as caught:
        async with opened_volume(storage, tmp_path / "two", OPENED):
            pass
    assert caught.value.fields["key"] == key
    await write(storage, tmp_path / "one", b"third")  # who has applied it needs it no more
    storage.objects[key] = whole
    await write(storage, tmp_path / "two", b"fourth")


async def test_the_pinned_position_is_that_of_the_last_acknowledged_record(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED, wall=WallClock(START)) as session:
        for number in range(4):
            await put(session.volume, b"file %d" % number, b"content")
            await drained(session)
            point = History(session.volume.database).point
            assert point.position == session.volume.publisher.position == positions(storage, JOURNAL)[-1]
            assert point.claims == [1]
            assert point.owner is not None
            assert point.owner.host == "one"
        await session.drain()
    async with opened_volume(storage, tmp_path / "two", OPENED, read_only=True) as session:
        point = History(session.volume.database).point
        assert point.owner is None
        assert (point.position, point.claims) == (positions(storage, JOURNAL)[-1], [1])
        assert point.journal_bytes == sum(len(data) for key, data in storage.objects.items() if "/journal/" in key)


async def test_a_release_whose_answer_was_lost_lets_another_machine_in_and_this_one_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    inner = MemoryStorage()
    storage = FaultyStorage(inner, lambda call: None)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await put(session.volume, b"file", b"content")
        await session.drain()
        storage.plan = lambda call: FailAfter()
    await write(inner, tmp_path / "two", b"second")
    async with opened_volume(inner, tmp_path / "one", OPENED) as session:
        assert names(session.volume) == {b"file", b"second"}


async def unacknowledged(folder: Path) -> tuple[MemoryStorage, Path]:
    """A storage, and the home of a machine that was killed and does not know that its last record got there."""
    inner = MemoryStorage()
    storage = FaultyStorage(inner, lambda call: None)
    async with opened_volume(storage, folder / "one", OPENED) as session:
        await put(session.volume, b"file", b"content")
        await session.drain()
        storage.plan = lambda call: FailAfter() if "/journal/" in call.key else None
        await put(session.volume, b"more", b"content")
        with trio.move_on_after(60):
            await session.volume.drain()
        home, then = killed(folder / "one", folder / "killed"), copy_of(inner)
        storage.partitioned = True
    return then, home


async def test_changes_whose_answer_was_lost_hide_no_take_over(autojump_clock: MockClock, tmp_path: Path) -> None:
    then, home = await unacknowledged(tmp_path)
    async with opened_volume(then, tmp_path / "two", OPENED, take_over=True) as session:
        await put(session.volume, b"second", b"content")
        await session.drain()
        await refused(then, home, VolumeOwned)


async def test_an_own_record_is_acknowledged_durably_before_its_packs_go(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut in between leaves a database that misses them."""
    then, home = await unacknowledged(tmp_path)
    steps: list[str] = []
    advance = History.advance

    def noted(history: History, position: int, *others: Any) -> None:
        steps.append("advance")
        advance(history, position, *others)

    async def offload(call: Callable[[], T]) -> T:
        steps.append(getattr(getattr(call, "func", call), "__name__", ""))
        return await inline(call)

    monkeypatch.setattr(History, "advance", noted)
    async with opened_volume(then, home, OPENED, offload=offload):
        assert "fdatasync" in steps[steps.index("advance") : steps.index("recover")]


def test_a_pause_begins_with_the_last_word_from_the_storage_whenever_somebody_asks() -> None:
    """A laptop that was suspended right after an acknowledgement is to ask whether it still owns the volume."""
    now = 0.0
    none: Any = None
    publisher: Any = SimpleNamespace(heard=0.0, position=1)
    lease = Lease(ring=none, members=none, transfer=none, publisher=publisher, clock=Clock(elapsed=lambda: now))
    now = PAUSE - 1
    assert not lease.paused()
    publisher.heard, publisher.position = now, 2
    now += PAUSE - 1
    assert not lease.paused()
    publisher.heard, publisher.position = now, 3
    now += 3600
    assert lease.paused()
