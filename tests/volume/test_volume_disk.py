"""A local disk that fails under an open volume: what is there can still be read."""

import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from infinitfs.errors import LocalDiskFailed
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.publisher import Publisher
from tests.support.volumes import content, drained, make_volume, opened_volume, put

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
