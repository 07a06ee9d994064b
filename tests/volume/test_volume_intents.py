"""What an fsync of little makes durable, through everything that may happen to the file before its blocks are made."""

import errno
import os
import random
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from infinitfs.block import growing
from infinitfs.block.batch import Cut, Request
from infinitfs.block.writer import Storing
from infinitfs.errors import Fenced, LocalDiskFailed, NoSpace
from infinitfs.file.dirty import Bytes
from infinitfs.file.file import File
from infinitfs.mount import operations
from infinitfs.mount.session import Session
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import writeback
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.schema import ADDED
from infinitfs.volume.volume import Volume
from tests.support.held import Held
from tests.support.volumes import (
    START,
    WallClock,
    checkpointed,
    content,
    copy_of,
    drained,
    folders_of,
    killed,
    make_volume,
    opened_volume,
    put,
)

T = TypeVar("T")
KI = 1024
OPENED = make_volume()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def rows(volume: Volume) -> list[tuple[int, ...]]:
    return volume.database.rows("SELECT ino, file, offset, length, clip FROM intents ORDER BY intent")


def files(home: Path) -> list[Path]:
    return sorted(folders_of(home, OPENED).intents.iterdir())


def slow_flushes(patched: pytest.MonkeyPatch, seconds: float = 20) -> None:
    """Each batch waits for a while before anything of it is stored."""
    whole = Storing.cut

    async def slowly(storing: Storing, requests: Sequence[Request]) -> list[Cut]:
        await trio.sleep(seconds)
        return await whole(storing, requests)

    patched.setattr(Storing, "cut", slowly)


class Crash:
    """The home of a machine that was killed at a moment, and what the storage held."""

    def __init__(self, folder: Path, storage: MemoryStorage, number: int) -> None:
        self.home = killed(folder / "one", folder / f"killed {number}")
        self.storage = copy_of(storage)

    async def content(self, name: bytes) -> bytes | None:
        """Of a file after the next mount; and a machine that has only the storage then sees the same."""
        async with opened_volume(self.storage, self.home, OPENED) as session:
            seen = await _seen(session, name)
            await drained(session)
            assert await _seen(session, name) == seen
            assert rows(session.volume) == []
        assert files(self.home) == []
        async with opened_volume(self.storage, self.home.with_suffix(".other"), OPENED) as session:
            assert await _seen(session, name) == seen
        return seen


async def _seen(session: Session, name: bytes) -> bytes | None:
    found = session.volume.lookup(ROOT, name)
    return None if found is None else await content(session.volume, found.ino)


async def test_an_fsync_of_little_makes_no_blocks_and_survives(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"file", b"plain text " * 100, durable=True)
        assert session.volume.database.value("SELECT count(*) FROM blocks") == 0
        assert [row[0] for row in rows(session.volume)] == [ino]
        (path,) = files(tmp_path / "one")
        assert b"plain" not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
        crash = Crash(tmp_path, storage, 1)
        await trio.sleep(10)
        assert session.volume.database.value("SELECT count(*) FROM blocks") > 0, "made when it was old enough"
        assert rows(session.volume) == []
        assert files(tmp_path / "one") == []
        later = Crash(tmp_path, storage, 2)
    assert await crash.content(b"file") == b"plain text " * 100
    assert await later.content(b"file") == b"plain text " * 100


async def test_times_survive_with_the_bytes(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        ino = await put(volume, b"file", noise(100))
        await volume.set_attributes(ino, mtime=12345, ctime=START + 67890)
        volume.open(ino)
        await volume.fsync(ino)
        assert len(rows(volume)) == 1
        await volume.fsync(ino)
        assert len(rows(volume)) == 1, "nothing is new"
        await volume.set_attributes(ino, mtime=54321, ctime=START + 98765)
        await volume.fsync(ino)
        assert len(rows(volume)) == 2
        crash = Crash(tmp_path, storage, 1)
        volume.close(ino)
    async with opened_volume(crash.storage, crash.home, OPENED) as session:
        found = session.volume.lookup(ROOT, b"file")
        assert found is not None
        assert (found.mtime, found.ctime, found.size) == (54321, START + 98765, 100)


async def test_times_of_a_flush_are_not_hidden_by_older_ones(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An fsync during it has noted them, and outlives it."""
    storage, wall = MemoryStorage(), WallClock()
    async with opened_volume(storage, tmp_path / "one", OPENED, wall=wall) as session:
        volume = session.volume
        ino = await put(volume, b"file", noise(100))
        volume.open(ino)
        with monkeypatch.context() as patched:
            slow_flushes(patched, 2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.settle)
                await trio.testing.wait_all_tasks_blocked()
                for mtime in (111, 222):
                    await volume.write(ino, 50, noise(100, mtime))
                    await volume.set_attributes(ino, mtime=mtime)
                    if mtime == 111:
                        await volume.fsync(ino)
        await volume.fsync(ino)
        assert len(rows(volume)) == 2
        wall.now += 1000
        await volume.link(ino, ROOT, b"other name")
        await volume.sync()
        crash = Crash(tmp_path, storage, 1)
        volume.close(ino)
    async with opened_volume(crash.storage, crash.home, OPENED) as session:
        found = session.volume.lookup(ROOT, b"file")
        assert found is not None
        assert (found.mtime, found.ctime) == (222, START + 1000)


async def test_the_last_fsync_counts_whatever_came_between(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Overwritten, flushed, cut, grown again, overwritten."""
    storage = MemoryStorage()
    crashes: list[tuple[Crash, bytes]] = []
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        model = bytearray(noise(20 * KI))
        ino = await put(volume, b"file", bytes(model), durable=True)
        volume.open(ino)

        async def write(offset: int, data: bytes) -> None:
            await volume.write(ino, offset, data)
            model[offset : offset + len(data)] = data

        async def synced() -> None:
            await volume.fsync(ino)
            crashes.append((Crash(tmp_path, storage, len(crashes)), bytes(model)))

        await write(100, noise(5 * KI, 2))
        await synced()
        await volume.settle()
        await write(3000, noise(9 * KI, 3))
        await synced()
        await volume.settle()
        assert rows(volume) == []
        await synced()
        await write(1000, noise(5 * KI, 4))
        await synced()
        await volume.set_attributes(ino, size=2000)
        del model[2000:]
        await synced()
        await volume.set_attributes(ino, size=9000)
        model.extend(bytes(7000))
        await synced()
        await write(8000, noise(3 * KI, 5))
        await synced()
        await volume.set_attributes(ino, size=0)
        model.clear()
        await synced()
        await write(0, b"again")
        await synced()
        volume.close(ino)
    for crash, expected in crashes:
        assert await crash.content(b"file") == expected


async def test_what_was_cut_off_does_not_come_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A truncation that nobody fsynced is in the tables all the same."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"file", noise(20 * KI), durable=True)
        await session.volume.set_attributes(ino, size=5000)
        await session.volume.set_attributes(ino, size=8000)
        await session.volume.database.sync()
        crash = Crash(tmp_path, storage, 1)
    assert await crash.content(b"file") == noise(20 * KI)[:5000] + bytes(3000)


async def test_a_removed_file_leaves_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"kept open", noise(9000), durable=True)
        await put(session.volume, b"file", noise(9000), durable=True)
        session.volume.open(ino)
        await session.volume.unlink(ROOT, b"file")
        await session.volume.unlink(ROOT, b"kept open")
        assert [row[0] for row in rows(session.volume)] == [ino]
        await session.volume.sync()
        crash = Crash(tmp_path, storage, 1)
        session.volume.close(ino)
        assert rows(session.volume) == []
        await trio.sleep(2)
        assert files(tmp_path / "one") == [], "and no block was ever made of it"
        assert session.volume.database.value("SELECT count(*) FROM blocks") == 0
    assert await crash.content(b"file") is None
    async with opened_volume(crash.storage, crash.home, OPENED) as session:
        assert session.volume.space().inodes == 1


async def test_many_scattered_pieces_are_one_intent_and_much_in_one_piece_is_none(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage, source = MemoryStorage(), random.Random(1)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        model = bytearray(noise(1024 * KI))
        ino = await put(volume, b"file", bytes(model), durable=True)
        assert rows(volume) == [], "blocks were made of it"
        volume.open(ino)
        for _ in range(600):
            at = source.randrange(0, len(model) - KI)
            model[at : at + KI] = data = source.randbytes(KI)
            await volume.write(ino, at, data)
        await volume.fsync(ino)
        assert len(rows(volume)) == 1
        assert volume.database.value("SELECT count(*) FROM extents") < 300
        crash = Crash(tmp_path, storage, 1)
        volume.close(ino)
    assert await crash.content(b"file") == bytes(model)


# --- on its way to the disk ---


async def test_who_waits_together_shares_a_sync(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, held, syncs = MemoryStorage(), Held("_extend"), 0
    extend = growing.GrowingFiles.extend

    def counted(files: growing.GrowingFiles, descriptor: int, size: int, buffers: list[bytes]) -> None:
        nonlocal syncs
        syncs += 1
        extend(files, descriptor, size, buffers)

    monkeypatch.setattr(growing.GrowingFiles, "extend", counted)
    async with opened_volume(storage, tmp_path / "one", OPENED, offload=held) as session:
        held.holding = True
        async with trio.open_nursery() as nursery:
            for number in range(10):
                name = b"file %d" % number
                nursery.start_soon(partial(put, session.volume, name, name * 50, durable=True))
            await trio.testing.wait_all_tasks_blocked()
            held.go.set()
        assert syncs <= 2, "the first, and all that came meanwhile"
        assert len(rows(session.volume)) == 10
        crash = Crash(tmp_path, storage, 1)
    async with opened_volume(crash.storage, crash.home, OPENED) as session:
        for number in range(10):
            assert await _seen(session, b"file %d" % number) == b"file %d" % number * 50


async def test_a_second_fsync_waits_for_the_first(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Though it finds nothing that is new."""
    held, done = Held("_extend"), []
    async with opened_volume(MemoryStorage(), tmp_path / "one", OPENED, offload=held) as session:
        ino = await put(session.volume, b"file", noise(100), durable=True)
        session.volume.open(ino)
        await session.volume.write(ino, 50, noise(100, 2))
        held.holding = True

        async def synced() -> None:
            await session.volume.fsync(ino)
            done.append(len(rows(session.volume)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(synced)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(synced)
            await trio.testing.wait_all_tasks_blocked()
            early = list(done)
            held.go.set()
        assert early == [] and done == [2, 3]
        session.volume.close(ino)


async def test_a_second_fsync_relies_on_no_first_that_is_not_durable(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has what was written, and still looks at it."""
    storage, go, pieces = MemoryStorage(), trio.Event(), writeback._pieces

    async def slowly(file: File, ranges: list[tuple[int, int]]) -> list[tuple[int, Bytes]]:
        if ranges:
            await go.wait()
        return await pieces(file, ranges)

    monkeypatch.setattr(writeback, "_pieces", slowly)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"file", noise(100))
        session.volume.open(ino)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.volume.fsync, ino)
            await trio.testing.wait_all_tasks_blocked()
            await session.volume.fsync(ino)
            crash = Crash(tmp_path, storage, 1)
            go.set()
        session.volume.close(ino)
    assert await crash.content(b"file") == noise(100)


async def test_a_second_fsync_relies_on_no_first_that_failed(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of room, which the second, that has nothing new to say, does not need."""
    extend, failures = growing.GrowingFiles.extend, 0

    def full(files: growing.GrowingFiles, descriptor: int, size: int, buffers: list[bytes]) -> None:
        if sum(map(len, buffers)) > 500:
            raise NoSpace(what="the disk", remedy="free some")
        extend(files, descriptor, size, buffers)

    held = Held("_extend")
    async with opened_volume(MemoryStorage(), tmp_path / "one", OPENED, offload=held) as session:
        ino = await put(session.volume, b"file", noise(1000))
        session.volume.open(ino)
        held.holding = True

        async def synced() -> None:
            nonlocal failures
            try:
                await session.volume.fsync(ino)
            except NoSpace:
                failures += 1

        with monkeypatch.context() as patched:
            patched.setattr(growing.GrowingFiles, "extend", full)
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(synced)
                    await trio.testing.wait_all_tasks_blocked()
                held.go.set()
        assert failures == 2
        session.volume.close(ino)


async def test_what_was_written_again_during_a_flush_counts_twice(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An intent would have both, and a frame holds no more than 64 MiB."""
    monkeypatch.setattr(writeback, "_MUCH", 12_000)
    async with opened_volume(MemoryStorage(), tmp_path / "one", OPENED) as session:
        volume = session.volume
        ino = await put(volume, b"file", noise(9000))
        volume.open(ino)
        slow_flushes(monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.settle)
            await trio.testing.wait_all_tasks_blocked()
            await volume.write(ino, 0, noise(9000, 2))
            began = trio.current_time()
            await volume.fsync(ino)
            assert trio.current_time() > began, "it waited for the flush, and flushed"
        assert rows(volume) == []
        volume.close(ino)


async def test_a_flush_and_a_truncation_meanwhile_count(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage, held = MemoryStorage(), Held("_extend")
    async with opened_volume(storage, tmp_path / "one", OPENED, offload=held) as session:
        volume = session.volume
        flushed = await put(volume, b"flushed", noise(9000))
        cut = await put(volume, b"cut", noise(9000))
        gone = await put(volume, b"gone", noise(9000))
        emptied = await put(volume, b"emptied", noise(9000))
        for ino in (flushed, cut, gone, emptied):
            volume.open(ino)
        held.holding = True
        async with trio.open_nursery() as nursery:
            for ino in (flushed, cut, gone, emptied):
                nursery.start_soon(volume.fsync, ino)
            await trio.testing.wait_all_tasks_blocked()
            in_core = vars(volume)["_in_core"]
            await vars(volume)["_write_back"].flush([in_core.opened(flushed)])
            await volume.write(flushed, 0, b"newer")
            await vars(volume)["_write_back"].flush([in_core.opened(flushed)])
            await volume.set_attributes(cut, size=100)
            await volume.set_attributes(cut, size=200)
            await volume.set_attributes(emptied, size=0)
            await volume.unlink(ROOT, b"gone")
            volume.close(gone)
            held.go.set()
        assert {(row[0], row[4]) for row in rows(volume)} == {(cut, 100), (emptied, 0)}, "their times are new"
        crash = Crash(tmp_path, storage, 1)
        for ino in (flushed, cut, emptied):
            volume.close(ino)
    async with opened_volume(crash.storage, crash.home, OPENED) as session:
        assert await _seen(session, b"flushed") == b"newer" + noise(9000)[5:]
        assert await _seen(session, b"cut") == noise(9000)[:100] + bytes(100)
        assert await _seen(session, b"gone") is None
        assert await _seen(session, b"emptied") == b""


async def test_an_fsync_does_not_wait_for_a_flush_that_goes_on(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it makes durable outlives the flush, which has an older part of the file only."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        ino = await put(volume, b"file", noise(9000))
        volume.open(ino)
        slow_flushes(monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.settle)
            await trio.testing.wait_all_tasks_blocked()
            await volume.write(ino, 5000, b"newer")
            began = trio.current_time()
            await volume.fsync(ino)
            assert trio.current_time() == began
            first = Crash(tmp_path, storage, 1)
        assert len(rows(volume)) == 1, "of the newer bytes"
        second = Crash(tmp_path, storage, 2)
        volume.close(ino)
    expected = bytearray(noise(9000))
    expected[5000:5005] = b"newer"
    assert await first.content(b"file") == bytes(expected)
    assert await second.content(b"file") == bytes(expected)


async def test_what_a_flush_contains_needs_no_intent(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was appended after the flush had begun."""
    async with opened_volume(MemoryStorage(), tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"file", noise(9000))
        session.volume.open(ino)
        slow_flushes(monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.volume.settle)
            await trio.testing.wait_all_tasks_blocked()
            await session.volume.fsync(ino)
            assert len(rows(session.volume)) == 1
        assert rows(session.volume) == []
        session.volume.close(ino)


async def test_a_flush_that_leaves_tails_leaves_none_that_was_fsynced(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        ino = (await volume.create(ROOT, b"file", 0o100644, 0, 0)).ino
        volume.open(ino)
        await volume.write(ino, 0, noise(9000))
        await volume.fsync(ino)
        await vars(volume)["_write_back"]._flush_wanted(
            list(vars(vars(volume)["_in_core"])["_files"].values()), whole=False
        )
        await volume.sync()
        crash = Crash(tmp_path, storage, 1)
        volume.close(ino)
    assert await crash.content(b"file") == noise(9000)


async def test_a_file_of_intents_stays_until_it_is_durable_that_no_row_names_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        intents = vars(session.volume)["_intents"]
        await put(session.volume, b"file", noise(9000), durable=True)
        await session.volume.unlink(ROOT, b"file")
        finished = intents.finished()
        assert len(finished) == 1
        await put(session.volume, b"other", noise(100), durable=True)
        await vars(session.volume)["_write_back"].flush_all()
        assert rows(session.volume) == [], "but that is not durable"
        await intents.remove(finished)
        crash = Crash(tmp_path, storage, 1)
    assert await crash.content(b"other") == noise(100)


async def test_a_record_has_what_was_fsynced_before_its_changes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A new version that was synced and took the old one's name: nobody who has the storage alone sees neither."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        await put(volume, b"file", b"old", durable=True)
        await drained(session)
        await put(volume, b"new", b"newer", durable=True)
        await volume.rename(ROOT, b"new", ROOT, b"file", 0)
        assert len(rows(volume)) == 1, "and the rename waited for no block"
        await volume.sync()
        crash = Crash(tmp_path, storage, 1)
        await volume.publisher.cut()
        assert rows(volume) == []
        await trio.sleep(0.1)
        then = copy_of(storage)
    assert await crash.content(b"file") == b"newer"
    async with opened_volume(then, tmp_path / "two", OPENED, take_over=True) as session:
        assert await _seen(session, b"file") == b"newer"


async def test_what_is_fsynced_while_a_record_is_cut_is_flushed(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_volume(MemoryStorage(), tmp_path / "one", OPENED) as session:
        volume = session.volume
        ino = await put(volume, b"file", b"content")
        volume.open(ino)
        async with trio.open_nursery() as nursery, vars(volume)["_write_back"]._lock:
            nursery.start_soon(volume.publisher.cut)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(volume.fsync, ino)
            await trio.testing.wait_all_tasks_blocked()
            assert rows(volume) == []
        assert rows(volume) == []
        assert volume.database.value("SELECT count(*) FROM blocks") == 1
        volume.close(ino)


# --- failures ---


class FullOs:
    """The module `os`, with a disk that is full for files in folders of these names."""

    def __init__(self, *folders: str, error: int = errno.ENOSPC) -> None:
        self.folders = folders
        self.error = error

    def fdatasync(self, descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().parent.name in self.folders:
            raise OSError(self.error, os.strerror(self.error))
        os.fdatasync(descriptor)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


async def test_without_room_for_it_blocks_are_made_at_once(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        monkeypatch.setattr(growing, "os", FullOs("intents"))
        ino = await put(volume, b"file", noise(9000), durable=True)
        assert rows(volume) == []
        crash = Crash(tmp_path, storage, 1)
        monkeypatch.setattr(growing, "os", FullOs("intents", "staging"))
        volume.open(ino)
        await volume.write(ino, 100, b"newer")
        for _ in range(2):
            with pytest.raises(NoSpace):
                await volume.fsync(ino)
        monkeypatch.setattr(growing, "os", os)
        await volume.fsync(ino)
        assert len(rows(volume)) == 1
        later = Crash(tmp_path, storage, 2)
        volume.close(ino)
    assert await crash.content(b"file") == noise(9000)
    assert await later.content(b"file") == noise(9000)[:100] + b"newer" + noise(9000)[105:]


async def test_all_who_wait_learn_of_a_failure(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whatever it is: none of them is told that its bytes are durable."""
    held = Held("_extend")

    async with opened_volume(MemoryStorage(), tmp_path / "one", OPENED, offload=held) as session:
        numbers = [await put(session.volume, b"file %d" % number, noise(100)) for number in range(5)]
        failed = []

        async def synced(ino: int) -> None:
            try:
                await session.volume.fsync(ino)
            except ZeroDivisionError:
                failed.append(ino)

        for ino in numbers:
            session.volume.open(ino)
        held.holding, held.failure = True, ZeroDivisionError()
        async with trio.open_nursery() as nursery:
            for ino in numbers:
                nursery.start_soon(synced, ino)
            await trio.testing.wait_all_tasks_blocked()
            held.go.set()
        assert sorted(failed) == numbers
        assert rows(session.volume) == []
        held.failure = None
        await synced(numbers[0])
        assert [row[0] for row in rows(session.volume)] == numbers[:1]
        for ino in numbers:
            session.volume.close(ino)


async def test_a_disk_that_failed_is_not_tried_again(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_volume(MemoryStorage(), tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"file", noise(9000))
        session.volume.open(ino)
        monkeypatch.setattr(growing, "os", FullOs("intents", error=errno.EIO))
        with pytest.raises(LocalDiskFailed):
            await session.volume.fsync(ino)
        monkeypatch.setattr(growing, "os", os)
        with pytest.raises(LocalDiskFailed):
            await session.volume.fsync(ino)
        session.volume.close(ino)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [_flip, Path.unlink, lambda path: os.truncate(path, 100)])
async def test_what_was_damaged_is_never_taken_for_content(
    tmp_path: Path, autojump_clock: MockClock, harm: Callable[[Path], None]
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await put(session.volume, b"file", noise(9000), durable=True)
        crash = Crash(tmp_path, storage, 1)
    (path,) = files(crash.home)
    harm(path)
    with pytest.raises(LocalDiskFailed, match="what was synced"):
        async with opened_volume(crash.storage, crash.home, OPENED):
            pass


async def test_frames_that_changed_their_places_do_not_open(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        for name in (b"one", b"two"):
            await put(session.volume, name, name * 100, durable=True)
        (first, second) = (row[2:4] for row in rows(session.volume))
        crash = Crash(tmp_path, storage, 1)
    (path,) = files(crash.home)
    data = path.read_bytes()
    assert first[1] == second[1]
    path.write_bytes(data[second[0] :] + data[: second[0]])
    with pytest.raises(LocalDiskFailed, match="damaged"):
        async with opened_volume(crash.storage, crash.home, OPENED):
            pass


# --- other openings ---


async def test_a_read_only_session_shows_it_and_leaves_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await put(session.volume, b"file", noise(9000), durable=True)
        crash = Crash(tmp_path, storage, 1)
    for _ in range(2):
        async with opened_volume(crash.storage, crash.home, OPENED, read_only=True) as session:
            assert await _seen(session, b"file") == noise(9000)
            found = session.volume.lookup(ROOT, b"file")
            assert found is not None
            session.volume.open(found.ino)
            await session.volume.fsync(found.ino)
            assert len(rows(session.volume)) == 1
            session.volume.close(found.ino)
    assert await crash.content(b"file") == noise(9000)


async def test_it_is_unsent_where_another_machine_has_taken_over(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"file", noise(9000))
        await drained(session)
        session.volume.open(ino)
        await session.volume.write(ino, 0, b"newer")
        await session.volume.fsync(ino)
        session.volume.database.commit()
        crash = Crash(tmp_path, storage, 1)
        session.volume.close(ino)
    async with opened_volume(crash.storage, tmp_path / "two", OPENED, take_over=True) as session:
        await put(session.volume, b"other", b"content")
        await drained(session)
    with pytest.raises(Fenced):
        async with opened_volume(crash.storage, crash.home, OPENED, take_over=True):
            pass


def change_tables(session: Session, statement: str) -> None:
    database = session.volume.database
    database.commit()
    database.begin(journaled=False)
    database.connection.execute(statement)
    database.commit()


async def test_a_database_and_a_checkpoint_of_an_earlier_version_open(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await put(session.volume, b"file", noise(9000))
        await session.volume.settle()
        change_tables(session, "DROP TABLE intents")
        await checkpointed(session)
        change_tables(session, ADDED)
    async with opened_volume(storage, tmp_path / "two", OPENED) as session:
        assert await _seen(session, b"file") == noise(9000)
        change_tables(session, "DROP TABLE intents")
        await session.volume.database.sync()
        copy = killed(tmp_path / "two", tmp_path / "copy")
        then = copy_of(storage)
        change_tables(session, ADDED)
    async with opened_volume(then, copy, OPENED) as session:
        await put(session.volume, b"file", noise(100, 2), durable=True)
        assert len(rows(session.volume)) == 1


async def test_a_replay_has_one_at_a_time_in_memory(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Many may be of the same bytes."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        volume = session.volume
        ino = await put(volume, b"file", b"")
        volume.open(ino)
        for number in range(50):
            await volume.write(ino, 0, noise(200 * KI, number))
            await volume.fsync(ino)
        home, then = killed(tmp_path / "one", tmp_path / "killed"), copy_of(storage)
        volume.close(ino)
    tracemalloc.start()
    async with opened_volume(then, home, OPENED) as session:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert await _seen(session, b"file") == noise(200 * KI, 49)
    assert peak < 5_000 * KI


async def test_the_oldest_time_that_is_kept_survives(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage, oldest = MemoryStorage(), vars(operations)["_kept_time"](-(2**70))
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        ino = await put(session.volume, b"file", b"data")
        session.volume.open(ino)
        await session.volume.set_attributes(ino, mtime=oldest)
        await session.volume.fsync(ino)
        home, then = killed(tmp_path / "one", tmp_path / "killed"), copy_of(storage)
        session.volume.close(ino)
    async with opened_volume(then, home, OPENED) as session:
        assert session.volume.attributes(ino).mtime == oldest
