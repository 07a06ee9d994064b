"""When packs leave: not while programs wait for a flush, but never much later."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from infinitfs.block.batch import Cut, Stored
from infinitfs.block.writer import Storing
from infinitfs.storage.base import Buffer
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import writeback
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.publisher import _YIELD, Publisher
from tests.support.held import Held
from tests.support.volumes import FILE, FOLDER, drained, opened_volume, put

SIZE = 2**20


class TimedStorage(MemoryStorage):
    """Knows when packs came."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[float] = []

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        await super().put(key, data, create=create)
        if "/packs/" in key:
            self.came.append(trio.current_time())


def slow_flushes(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every batch takes so long, with its packs closed at its beginning."""
    whole = Storing.stored

    async def slowly(storing: Storing, cuts: Sequence[Cut]) -> list[Stored]:
        stored = await whole(storing, cuts)
        await trio.sleep(seconds)
        return stored

    monkeypatch.setattr(Storing, "stored", slowly)


@pytest.mark.parametrize("flush", [0.5, 20.0])
async def test_a_pack_waits_for_the_end_of_a_flush_but_not_for_long(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, flush: float
) -> None:
    storage = TimedStorage()
    async with opened_volume(storage, tmp_path / "one") as session:
        slow_flushes(monkeypatch, flush)
        began = trio.current_time()
        await put(session.volume, b"large", Random(1).randbytes(SIZE), durable=True)
        assert trio.current_time() == pytest.approx(began + flush)
        await session.volume.drain()
        many = [when for when in storage.came if when < began + flush + 0.001]
        assert len(many) >= 8, "packs of 64 KiB"
        assert min(storage.came) == pytest.approx(began + min(flush, _YIELD))


async def test_packs_do_not_wait_where_much_waits_for_the_storage(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = TimedStorage()
    async with opened_volume(storage, tmp_path / "one", backlog=3 * SIZE) as session:
        slow_flushes(monkeypatch, 20.0)
        began = trio.current_time()
        await put(session.volume, b"large", Random(1).randbytes(SIZE), durable=True)
        assert min(storage.came) < began + 1, "a quarter of what may"


async def test_who_waits_for_the_storage_waits_for_no_flush_of_others(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_volume(TimedStorage(), tmp_path / "one") as session:
        # One flush follows the other without an end.
        monkeypatch.setattr(Publisher, "flushed", lambda self, everything: None)
        await put(session.volume, b"large", Random(1).randbytes(SIZE), durable=True)
        began = trio.current_time()
        await session.volume.drain()
        assert trio.current_time() - began < _YIELD / 2


async def test_closed_files_are_flushed_before_open_ones(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody syncs them, or writes them again; of an open one that is small pieces an fsync makes no blocks at once."""
    monkeypatch.setattr(writeback, "SOME", 100_000)
    monkeypatch.setattr(writeback, "MOST", 200_000)
    async with opened_volume(TimedStorage(), tmp_path / "one") as session:
        volume = session.volume
        memory = vars(volume)["_write_back"]
        ino = (await volume.create(ROOT, b"open", FILE, 0, 0)).ino
        volume.open(ino)
        await volume.write(ino, 0, Random(1).randbytes(110_000))
        await trio.sleep(0.6)
        assert memory.bytes == 110_000
        await put(volume, b"closed", Random(2).randbytes(50_000))
        await trio.sleep(0.6)
        assert memory.bytes == 110_000
        await volume.write(ino, 110_000, Random(3).randbytes(100_000))
        await trio.sleep(0.6)
        assert memory.bytes < 20_000, "what ended at a cut point"
        volume.close(ino)


async def test_a_record_that_was_sealed_while_nobody_waited_any_more_is_sent(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    held = Held("fdatasync")
    async with opened_volume(MemoryStorage(), tmp_path / "one", offload=held) as session:
        volume = session.volume
        await drained(session)
        await volume.create(ROOT, b"first", FOLDER, 0, 0)
        held.holding = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.sync)
            await trio.testing.wait_all_tasks_blocked()

            async def give_up() -> None:
                await trio.testing.wait_all_tasks_blocked()
                assert volume.publisher.pending_records == 1
                waiting.cancel()
                await trio.testing.wait_all_tasks_blocked()
                held.holding = False
                held.go.set()

            with trio.CancelScope() as waiting:
                nursery.start_soon(give_up)
                await volume.publisher.publish_all()
        with trio.move_on_after(1000) as patience:
            await session.drain()
        assert not patience.cancelled_caught


async def test_what_is_committed_while_the_log_is_copied_is_sent(tmp_path: Path, autojump_clock: MockClock) -> None:
    held = Held("_checkpoint")
    async with opened_volume(MemoryStorage(), tmp_path / "one", offload=held) as session:
        volume = session.volume
        await drained(session)
        held.holding = True
        vars(volume.database)["_relieve_at"] = 0  # the log is long
        await volume.create(ROOT, b"first", FOLDER, 0, 0)
        await trio.sleep(5)  # a record is cut meanwhile
        assert not volume.publisher.unsent
        await volume.create(ROOT, b"second", FOLDER, 0, 0)
        await volume.sync()
        held.holding = False
        held.go.set()
        await trio.sleep(10)
        assert not volume.publisher.unsent


async def test_a_record_that_nobody_waited_for_to_be_sealed_is_sent(tmp_path: Path, autojump_clock: MockClock) -> None:
    """No thread was free for it until then."""
    held = Held("seal_record")
    async with opened_volume(MemoryStorage(), tmp_path / "one", offload=held) as session:
        volume = session.volume
        await drained(session)
        await volume.create(ROOT, b"first", FOLDER, 0, 0)
        await volume.sync()
        await trio.sleep(0.1)
        held.holding = True
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await trio.testing.wait_all_tasks_blocked()
                waiting.cancel()
                held.holding = False
                held.go.set()

            with trio.CancelScope() as waiting:
                nursery.start_soon(give_up)
                await volume.publisher.publish_all()
        await trio.sleep(60)
        assert not volume.publisher.unsent
