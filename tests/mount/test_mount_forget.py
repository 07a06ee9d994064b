"""What the kernel knew and forgets, without a kernel."""

from pathlib import Path

import pytest
import trio

from infinitfs.mount.operations import Operations
from infinitfs.mount.request import MountRequest
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume.namespace import ROOT, Namespace
from tests.support.volumes import FILE, opened_volume


async def test_a_million_are_forgotten_without_a_look_at_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened_volume(MemoryStorage(), tmp_path / "one") as session:
        volume = session.volume
        kept = [(await volume.create(ROOT, b"%d" % number, FILE, 0, 0)).ino for number in range(5000)]
        gone = (await volume.create(ROOT, b"gone", FILE, 0, 0)).ino
        for ino in (*kept, gone):
            volume.use(ino)
        await volume.unlink(ROOT, b"gone")
        looked: list[int] = []
        inode = Namespace.inode

        def watched(namespace: Namespace, ino: int) -> object:
            looked.append(ino)
            return inode(namespace, ino)

        monkeypatch.setattr(Namespace, "inode", watched)
        turns = 0
        forgotten = trio.Event()

        async def another() -> None:
            nonlocal turns
            while not forgotten.is_set():
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(another)
            operations = Operations(volume, MountRequest(volume="drive"))
            await operations.forget([(ino, 1) for ino in (*kept, gone)])
            forgotten.set()
        assert set(looked) <= {gone}, "only what has no link is looked at"
        assert turns >= 4, "others run meanwhile"
        assert volume.lookup(ROOT, b"4999") is not None
        volume.database.commit()
        assert volume.database.value("SELECT count(*) FROM inodes WHERE ino = ?", (gone,)) == 0
