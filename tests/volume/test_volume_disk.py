"""A local disk that fails under an open volume: what is there can still be read."""

import random
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
import trio
from trio.testing import MockClock

from infinitfs.errors import InfinitfsError, LocalDiskFailed, NoSpace
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.publisher import Publisher
from tests.support.faults import Delay, FaultyStorage
from tests.support.volumes import content, copy_of, drained, killed, make_volume, opened_volume, put, settle_in_vain

OPENED = make_volume()
CONTENT = random.Random(1).randbytes(30_000)


async def test_the_volume_stays_open_where_sending_meets_the_failure(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Publisher, name: str) -> None:
        raise LocalDiskFailed(path="the disk", reason="as planned")

    was_open = False
    with pytest.raises(LocalDiskFailed, match="as planned"):  # of what could not be closed properly
        async with opened_volume(MemoryStorage(), tmp_path, OPENED) as session:
            volume = session.volume
            ino = await put(volume, b"file", CONTENT)
            await drained(session)
            monkeypatch.setattr(Publisher, "_upload", fail)
            await put(volume, b"more", b"more")
            await trio.sleep(10)
            with pytest.raises(LocalDiskFailed):
                await volume.create(ROOT, b"new", 0o100644, 0, 0)
            assert await content(volume, ino) == CONTENT
            was_open = True
    assert was_open


async def test_who_waits_for_the_storage_learns_of_the_failure(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = FaultyStorage(MemoryStorage(), lambda call: None)
    ended = False
    with pytest.raises(LocalDiskFailed):  # of what could not be closed properly
        async with opened_volume(storage, tmp_path, OPENED) as session:
            await drained(session)
            storage.plan = lambda call: Delay(5)
            await put(session.volume, b"file", 10 * CONTENT)

            async def fail() -> None:
                await trio.sleep(7)
                session.volume.database.fail(apsw.IOError("as planned"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                with trio.move_on_after(1000) as patience, pytest.raises(LocalDiskFailed, match="as planned"):
                    await session.drain()
            ended = not patience.cancelled_caught
    assert ended


async def test_nothing_is_read_as_empty_because_its_extents_were_rolled_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """What an fsync made durable has left memory with the flush, and the tables with the failure."""
    storage, count = MemoryStorage(), 300
    refused = 0
    with pytest.raises(InfinitfsError):
        async with opened_volume(storage, tmp_path / "one", OPENED) as session:
            volume = session.volume
            inos = [await put(volume, b"%d" % n, b"%d" % n * 500, durable=True) for n in range(count)]
            connection = volume.database.connection
            connection.pragma("max_page_count", connection.pragma("page_count"))
            await trio.sleep(10)
            assert volume.database.failed is not None
            for n, ino in enumerate(inos):
                try:
                    assert await content(volume, ino) == b"%d" % n * 500
                except NoSpace:
                    refused += 1
                    with pytest.raises(NoSpace):
                        volume.open(ino)  # the kernel has the size 0 for it, and would not ask for a byte
            home, then = killed(tmp_path / "one", tmp_path / "killed"), copy_of(storage)
    assert refused
    async with opened_volume(then, home, OPENED) as session:
        for n, ino in enumerate(inos):
            assert await content(session.volume, ino) == b"%d" % n * 500


async def test_nothing_is_read_as_empty_because_a_flush_could_not_enter_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The database fails between two files of one flush, as the change of another program finds it."""
    wrong: list[int] = []
    with pytest.raises(InfinitfsError):
        async with opened_volume(MemoryStorage(), tmp_path / "one", OPENED) as session:
            volume = session.volume
            inos = [await put(volume, b"%d" % n, b"%d" % n * 500, durable=True) for n in range(40)]
            batches = vars(volume)["_write_back"]._batches
            await settle_in_vain(
                volume, lambda: bool(batches and batches[0].cuts) and len(batches[0].files) < len(inos)
            )
            for n, ino in enumerate(inos):
                with suppress(LocalDiskFailed):
                    wrong += [n] if await content(volume, ino) != b"%d" % n * 500 else []
    assert not wrong
