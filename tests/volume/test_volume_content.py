"""What a reader has brought to it before it asks."""

import random
from pathlib import Path

import trio
from trio.testing import MockClock

from infinitfs.file.readahead import IN_FLIGHT
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume.descriptor import Parameters
from tests.support.volumes import drained, make_volume, opened_volume, put

MI = 2**20
ROUND_TRIP = 0.3


class FarStorage(MemoryStorage):
    """Whose packs are a round trip away; `coming` bytes of them are on their way, `most` were, `brought` came."""

    def __init__(self) -> None:
        super().__init__()
        self.coming = self.most = self.brought = 0

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = await super().get(key, start, length)
        if "/packs/" in key:
            self.coming += len(data)
            self.most = max(self.most, self.coming)
            await trio.sleep(ROUND_TRIP)
            self.coming -= len(data)
            self.brought += len(data)
        return data


async def test_what_comes_next_is_asked_for_when_something_arrives(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage, opened = FarStorage(), make_volume(Parameters())
    plain = random.Random(3).randbytes(64 * MI)
    async with opened_volume(storage, tmp_path / "one", opened) as session:
        ino = await put(session.volume, b"large", plain)
        await drained(session)
    async with opened_volume(storage, tmp_path / "two", opened) as session:
        volume = session.volume
        volume.open(ino)
        for offset in range(0, 8 * MI, MI):
            assert await volume.read(ino, offset, MI) == plain[offset : offset + MI]
        asked = storage.brought + storage.coming
        await trio.sleep(100 * ROUND_TRIP)
        assert storage.coming == 0
        assert asked + 4 * MI < storage.brought, "not all of it was on its way"
        assert 38 * MI < storage.brought < 44 * MI, "four times what was read, without a further read"
        assert storage.most < IN_FLIGHT + 4 * MI
        began = trio.current_time()
        for offset in range(8 * MI, 37 * MI, MI):
            assert await volume.read(ino, offset, MI) == plain[offset : offset + MI]
        assert trio.current_time() == began, "all of it is here"
        volume.close(ino)
