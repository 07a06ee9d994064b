"""What readers get who go forward, and those who jump."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from infinitfs.block.index import Location
from infinitfs.block.reader import BlockReader, Part
from infinitfs.errors import LocalDiskFailed
from infinitfs.file.extents import Extent
from infinitfs.file.readahead import IN_FLIGHT, LONG, ReadAhead
from infinitfs.storage.base import Buffer
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.descriptor import Parameters
from infinitfs.volume.volume import Volume
from tests.support.volumes import drained, make_volume, opened_volume, put

MI = 2**20
ROUND_TRIP = 0.3
RATE = 50 * MI  # bytes a second


class FarStorage(MemoryStorage):
    """Whose packs are a round trip away, over a line of RATE; `coming` bytes of them are on their way, `most` were,
    `brought` came."""

    def __init__(self) -> None:
        super().__init__()
        self._free = 0.0
        self.coming = self.most = self.brought = 0
        self.asked: dict[str, list[tuple[int, int]]] = {}

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = await super().get(key, start, length)
        if "/packs/" in key:
            self.asked.setdefault(key, []).append((start, len(data)))
            self.coming += len(data)
            self.most = max(self.most, self.coming)
            self._free = max(self._free, trio.current_time() + ROUND_TRIP) + len(data) / RATE
            await trio.sleep_until(self._free)
            self.coming -= len(data)
            self.brought += len(data)
        return data


PLAIN = random.Random(3).randbytes(64 * MI)


@asynccontextmanager
async def far_file(folder: Path) -> AsyncIterator[tuple[FarStorage, Volume, int]]:
    """A file of `PLAIN`, open, of which this machine has nothing."""
    storage, opened = FarStorage(), make_volume(Parameters())
    async with opened_volume(storage, folder / "one", opened) as session:
        ino = await put(session.volume, b"large", PLAIN)
        await drained(session)
    async with opened_volume(storage, folder / "two", opened) as session:
        session.volume.open(ino)
        yield storage, session.volume, ino


async def read(volume: Volume, ino: int, start: int, end: int) -> None:
    for offset in range(start, end, MI):
        assert await volume.read(ino, offset, MI) == PLAIN[offset : offset + MI]


async def test_what_comes_next_is_asked_for_when_something_arrives(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with far_file(tmp_path) as (storage, volume, ino):
        await read(volume, ino, 0, 8 * MI)
        asked = storage.brought + storage.coming
        await trio.sleep(100 * ROUND_TRIP)
        assert storage.coming == 0
        assert asked + 4 * MI < storage.brought, "not all of it was on its way"
        assert 38 * MI < storage.brought < 44 * MI, "four times what was read, without a further read"
        assert storage.most < IN_FLIGHT[0] + 4 * MI
        began = trio.current_time()
        await read(volume, ino, 8 * MI, 37 * MI)
        assert trio.current_time() == began, "all of it is here"
        volume.close(ino)


async def test_large_requests_end_where_packs_do(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = ReadAhead.arrived
    # The clock jumps while threads work, so how long requests take is not told.
    monkeypatch.setattr(ReadAhead, "arrived", lambda ahead, start, end, _: arrived(ahead, start, end, LONG / 8))
    async with far_file(tmp_path) as (storage, volume, ino):
        await read(volume, ino, 0, 64 * MI)
        volume.close(ino)
        whole = [key for key, asked in storage.asked.items() if asked == [(0, await storage.size(key))]]
        assert len(whole) > len(storage.asked) // 2 > 3, "of the first packs parts were wanted sooner"


async def test_for_who_goes_away_nothing_more_is_asked(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with far_file(tmp_path) as (storage, volume, ino):
        await read(volume, ino, 0, 12 * MI)
        volume.close(ino)
        await trio.sleep(100 * ROUND_TRIP)
        assert storage.brought < 12 * MI + 2 * IN_FLIGHT[0], "and not all of the window, four times what was read"


async def test_what_cannot_be_fetched_ahead_is_left_for_the_read(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task in the background that fails would end the mount."""
    async with far_file(tmp_path) as (_, volume, ino):
        await read(volume, ino, 0, MI)
        extents = Blocks.extents

        def failing(blocks: Blocks, ino: int, start: int, end: int) -> list[tuple[Extent, Location]]:
            if start >= 6 * MI:
                raise LocalDiskFailed(path="volume.db", reason="it is gone")
            return extents(blocks, ino, start, end)

        monkeypatch.setattr(Blocks, "extents", failing)
        await read(volume, ino, MI, 5 * MI)
        await trio.sleep(100 * ROUND_TRIP)
        with pytest.raises(LocalDiskFailed):
            await read(volume, ino, 6 * MI, 7 * MI)
        await read(volume, ino, 4 * MI, 5 * MI)
        volume.close(ino)


@pytest.mark.parametrize("compressible", [False, True])
async def test_who_jumps_reads_what_is_there(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, compressible: bool
) -> None:
    """Over blocks of a megabyte, stored, rewritten in part, waiting in memory, and holes."""
    storage, source, parts = MemoryStorage(), random.Random(5), 0
    read_part = BlockReader.read_part

    async def counted(reader: BlockReader, location: Location, start: int, length: int) -> Buffer | None:
        nonlocal parts
        part = await read_part(reader, location, start, length)
        parts += part is not None
        return part

    monkeypatch.setattr(BlockReader, "read_part", counted)

    def noise(size: int) -> bytes:
        return b"".join(b"line %d\n" % i for i in range(size // 8))[:size] if compressible else source.randbytes(size)

    plain = bytearray(noise(9 * MI))
    async with opened_volume(storage, tmp_path / "one", make_volume(Parameters())) as session:
        volume = session.volume
        ino = await put(volume, b"large", bytes(plain))
        volume.open(ino)
        for step in range(600):
            if step in (100, 300):
                await drained(session)
            if step % 4 == 0:
                at, data = source.randrange(len(plain)), noise(source.randrange(1, 9000))
                plain[at : at + len(data)] = data
                await volume.write(ino, at, data)
            if step == 200:
                plain += bytes(3 * MI)
                await volume.set_attributes(ino, size=len(plain))
            at, length = source.randrange(len(plain)), source.choice([1, 4096, 4096, 16384, 70_000])
            assert bytes(await volume.read(ino, at, length)) == plain[at : at + length]
        volume.close(ino)
    assert parts > 200, "of a block that is open whole, or of one in segments"


async def test_where_blocks_meet_no_block_is_opened_whole(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = random.Random(7).randbytes(9 * MI)
    async with opened_volume(MemoryStorage(), tmp_path / "one", make_volume(Parameters())) as session:
        volume = session.volume
        ino = await put(volume, b"large", plain)
        volume.open(ino)
        await drained(session)
        extents = Blocks.extents
        ends: list[int] = []

        def seen(blocks: Blocks, ino: int, start: int, end: int) -> list[tuple[Extent, Location]]:
            found = extents(blocks, ino, start, end)
            ends.extend(extent.end for extent, _ in found)
            return found

        monkeypatch.setattr(Blocks, "extents", seen)
        assert await volume.read(ino, 0, len(plain)) == plain
        volume.close(ino)
        volume.open(ino)
        await volume.forget()
        inner = sorted({end for end in ends if end < len(plain)}, key=lambda end: end % 1000)
        assert len(inner) > 3

        def whole(*_: object) -> None:
            raise AssertionError("a block was opened whole")

        monkeypatch.setattr(BlockReader, "read", whole)
        for end in inner * 2:
            await volume.read(ino, (end + 3 * MI) % len(plain), 10)
            assert bytes(await volume.read(ino, end - 1000, 4096)) == plain[end - 1000 : end + 3096]
        volume.close(ino)


async def test_much_is_read_at_a_time(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From blocks that open in part, side by side, rewritten, waiting in memory, and damaged in the cache."""
    storage, source, joined = MemoryStorage(), random.Random(6), 0
    read_joined = BlockReader.read_joined

    async def counted(reader: BlockReader, parts: Sequence[Part]) -> memoryview | None:
        nonlocal joined
        found = await read_joined(reader, parts)
        joined += found is not None
        return found

    monkeypatch.setattr(BlockReader, "read_joined", counted)
    plain = bytearray(source.randbytes(12 * MI))
    async with opened_volume(storage, tmp_path / "one", make_volume(Parameters())) as session:
        volume = session.volume
        ino = await put(volume, b"large", bytes(plain))
        volume.open(ino)
        for step in range(150):
            if step in (30, 80):
                await drained(session)
            if step == 50:
                await volume.forget()
            if step == 90:
                for path in (tmp_path / "one").rglob("*.0.*"):
                    frame = bytearray(path.read_bytes())
                    frame[len(frame) // 2] ^= 1
                    path.write_bytes(frame)
            if step % 10 == 0:
                at, data = source.randrange(len(plain)), source.randbytes(source.randrange(1, 300_000))
                plain[at : at + len(data)] = data
                await volume.write(ino, at, data)
            at, length = source.randrange(len(plain)), source.choice([MI // 2, MI, 3 * MI])
            assert bytes(await volume.read(ino, at, length)) == plain[at : at + length]
        volume.close(ino)
    assert joined > 50
