"""Client and worker in one process, over a storage in memory."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from infinitfs.config.model import FilesystemStorageRecord
from infinitfs.errors import (
    DamagedObject,
    InfinitfsError,
    LocalFileFailed,
    ObjectExists,
    ObjectNotFound,
    StorageFailed,
    UsageError,
)
from infinitfs.storage.account import StaticKeys
from infinitfs.storage.base import Buffer, ObjectInfo, Storage
from infinitfs.storage.ledger import Ledger, Usage
from infinitfs.storage.memory import MemoryStorage
from infinitfs.transfer.base import Transfer
from infinitfs.transfer.client import TransferClient, local_transfer
from infinitfs.transfer.files import inline
from infinitfs.transfer.protocol import Open
from infinitfs.transfer.worker import serve
from tests.support.faults import Delay, FaultyStorage, script

_OPENING = Open(record=FilesystemStorageRecord(name="test", path="", created=""))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


class BusyStorage(MemoryStorage):
    """Puts under `packs/` and gets under `cold/` wait until `open` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = trio.Event()
        self.waiting: list[str] = []

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        if key.startswith("packs/"):
            self.waiting.append(key)
            await self.open.wait()
        await super().put(key, data, create=create)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if key.startswith("cold/"):
            self.waiting.append(key)
            await self.open.wait()
        return await super().get(key, start, length)


class DyingStorage(MemoryStorage):
    """The worker dies `deaths` times, each time after a put was applied and before it is answered."""

    def __init__(self, deaths: int) -> None:
        super().__init__()
        self.deaths = deaths
        self.puts = 0
        self.stream: trio.abc.AsyncResource | None = None

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        self.puts += 1
        try:
            await super().put(key, data, create=create)
        finally:
            if self.deaths and self.stream is not None:
                self.deaths -= 1
                with trio.CancelScope(shield=True):
                    await self.stream.aclose()


@contextlib.asynccontextmanager
async def mortal_transfer(storage: DyingStorage) -> AsyncIterator[TransferClient]:
    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = memory_stream_pair()
        storage.stream = theirs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs, lambda *_: contextlib.nullcontext(storage), inline)
            yield ours
            nursery.cancel_scope.cancel()

    client = TransferClient()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run, connect, _OPENING)
        await client.opened()
        yield client
        nursery.cancel_scope.cancel()


async def test_a_client_is_a_transfer() -> None:
    async with local_transfer(MemoryStorage()) as client:
        transfer: Transfer = client
        await transfer.put("a", b"1")
        assert await transfer.get("a") == b"1"


async def test_small_objects() -> None:
    storage = MemoryStorage()
    async with local_transfer(storage) as client:
        await client.put("journal/1", memoryview(b"one"), create=True)
        await client.put("journal/2", bytearray(b"three"))
        assert await client.get("journal/2") == b"three"
        assert await client.get("journal/2", 1, 3) == b"hre"
        assert await client.size("journal/1") == 3
        assert await client.list("journal/") == [ObjectInfo("journal/1", 3), ObjectInfo("journal/2", 5)]
        await client.delete("journal/1")
        await client.delete("journal/1")
        assert storage.objects == {"journal/2": b"three"}


async def test_files_go_up_and_come_down(tmp_path: Path) -> None:
    storage = MemoryStorage()
    pack = bytes(range(256)) * 9000
    (tmp_path / "staged").write_bytes(pack)
    async with local_transfer(storage) as client:
        await client.upload("packs/a", tmp_path / "staged")
        await client.download("packs/a", 1000, 5000, tmp_path / "part")
        (tmp_path / "whole").write_bytes(b"what an earlier attempt left")
        await client.download("packs/a", 0, len(pack), tmp_path / "whole")
        assert (client.stats.uploaded, client.stats.downloaded) == (len(pack), len(pack) + 5000)
        assert client.stats.calls == {"upload": 1, "download": 2}
        assert client.stats.ledger.requests["put"] == Usage(1, len(pack))
        assert client.stats.ledger.requests["get"] == Usage(2, len(pack) + 5000)
    assert storage.objects["packs/a"] == pack
    assert (tmp_path / "part").read_bytes() == pack[1000:6000]
    assert (tmp_path / "whole").read_bytes() == pack
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o600


async def test_what_goes_up_at_once_is_all_counted(tmp_path: Path) -> None:
    (tmp_path / "staged").write_bytes(bytes(1000))
    async with local_transfer(MemoryStorage()) as client, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(client.upload, f"packs/{number}", tmp_path / "staged")
    assert client.stats.uploaded == 5000


async def test_a_path_need_not_be_unicode(tmp_path: Path) -> None:
    storage = MemoryStorage()
    path = tmp_path / "\udcff"
    path.write_bytes(b"1")
    async with local_transfer(storage) as client:
        await client.upload("a", path)
    assert storage.objects == {"a": b"1"}


async def test_a_listing_longer_than_one_message_part_is_whole_and_in_order() -> None:
    storage = MemoryStorage()
    storage.objects = {f"p/{number:05}": b"" for number in range(25_000)}
    async with local_transfer(storage) as client:
        assert [info.key for info in await client.list("p/")] == list(storage.objects)


async def test_errors_arrive_as_they_are(tmp_path: Path) -> None:
    async with local_transfer(MemoryStorage("the store")) as client:
        with pytest.raises(ObjectNotFound) as missing:
            await client.get("a")
        assert missing.value.fields == {"key": "a", "storage": "the store"}
        await client.put("a", b"1", create=True)
        with pytest.raises(ObjectExists):
            await client.put("a", b"1", create=True)
        with pytest.raises(DamagedObject):
            await client.download("a", 0, 2, tmp_path / "down")
        with pytest.raises(LocalFileFailed, match="No such file"):
            await client.upload("a", tmp_path / "missing")
        with pytest.raises(LocalFileFailed, match="No such file"):
            await client.download("a", 0, 1, tmp_path / "missing" / "down")
        assert client.stats.errors == 3, "a missing object and one that exists are answers"
        assert await client.get("a") == b"1"
    assert names(tmp_path) == []


async def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    storage = MemoryStorage()
    storage.objects["a"] = b"1"
    async with local_transfer(storage) as client:
        with pytest.raises(LocalFileFailed):
            await client.upload("b", tmp_path / "link")
        await client.download("a", 0, 1, tmp_path / "link")
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"
    assert (tmp_path / "link").read_bytes() == b"1"


class DefectiveStorage(MemoryStorage):
    async def size(self, key: str) -> int:
        raise KeyError("defect")


async def test_a_defect_fails_its_request_and_no_other() -> None:
    async with local_transfer(DefectiveStorage()) as client:
        await client.put("a", b"1")
        with pytest.raises(InfinitfsError, match="KeyError"):
            await client.size("a")
        assert await client.get("a") == b"1"
        assert client.stats.restarts == 0


class ShortStorage(MemoryStorage):
    """Breaks its contract: a range comes short without an error."""

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return (await super().get(key))[start:-1]


async def test_a_short_download_is_a_damaged_object_and_leaves_no_file(tmp_path: Path) -> None:
    storage = ShortStorage()
    storage.objects["packs/a"] = b"12345"
    async with local_transfer(storage) as client:
        with pytest.raises(DamagedObject, match="packs/a"):
            await client.download("packs/a", 0, 5, tmp_path / "down")
    assert names(tmp_path) == []


async def test_a_cancelled_request_ends_in_the_worker_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = FaultyStorage(MemoryStorage(), script(Delay(1e6), Delay(1e6)))
    async with local_transfer(storage, connections=1) as client:
        with trio.move_on_after(1) as scope:
            await client.put("a", b"1")
        assert scope.cancelled_caught
        with trio.move_on_after(1):
            await client.download("a", 0, 1, tmp_path / "down")
        assert client.stats.in_flight == 0
        await client.put("b", b"2")  # the only connection is free again
        assert trio.current_time() < 10
    assert storage.inner.objects == {"b": b"2"}  # type: ignore[attr-defined]
    assert names(tmp_path) == []


async def test_a_download_that_was_cancelled_too_late_leaves_no_file(tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.objects["a"] = b"1"
    async with local_transfer(storage) as client:
        for patience in range(60):  # one more step of the scheduler each time
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.download, "a", 0, 1, tmp_path / "down")
                    for _ in range(patience):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            await wait_all_tasks_blocked()
            if scope.cancelled_caught:
                assert names(tmp_path) == []
            (tmp_path / "down").unlink(missing_ok=True)


async def test_small_requests_and_downloads_do_not_wait_behind_a_backlog_of_uploads(tmp_path: Path) -> None:
    storage = BusyStorage()
    storage.objects["warm"] = b"1"
    (tmp_path / "staged").write_bytes(b"pack")
    async with local_transfer(storage, connections=8) as client, trio.open_nursery() as nursery:
        for number in range(64):
            nursery.start_soon(client.upload, f"packs/{number}", tmp_path / "staged")
        await wait_all_tasks_blocked()
        assert len(storage.waiting) == 5  # 8, less 2 for small requests, less 1 for downloads
        await client.put("journal/1", b"record", create=True)
        await client.download("warm", 0, 1, tmp_path / "down")
        assert await client.size("journal/1") == 6
        storage.open.set()
    assert len(storage.objects) == 66


async def test_a_small_request_does_not_wait_behind_downloads(tmp_path: Path) -> None:
    storage = BusyStorage()
    storage.objects["cold/a"] = b"1"
    async with local_transfer(storage, connections=4) as client, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(client.download, "cold/a", 0, 1, tmp_path / str(number))
        await wait_all_tasks_blocked()
        assert len(storage.waiting) == 3
        await client.put("journal/1", b"record")
        storage.open.set()


async def test_one_connection_is_enough(tmp_path: Path) -> None:
    (tmp_path / "staged").write_bytes(b"pack")
    async with local_transfer(MemoryStorage(), connections=1) as client:
        await client.upload("a", tmp_path / "staged")
        await client.download("a", 0, 4, tmp_path / "down")
        assert await client.get("a") == b"pack"


async def test_a_create_whose_answer_was_lost_succeeds_after_a_restart(autojump_clock: MockClock) -> None:
    storage = DyingStorage(deaths=2)
    async with mortal_transfer(storage) as client:
        await client.put("journal/1", b"ours", create=True)
        assert (client.stats.restarts, storage.puts) == (2, 3)
    assert storage.objects == {"journal/1": b"ours"}


async def test_a_create_that_met_another_writer_after_a_restart_does_not(autojump_clock: MockClock) -> None:
    storage = DyingStorage(deaths=1)
    storage.objects["journal/1"] = b"theirs"
    async with mortal_transfer(storage) as client:
        with pytest.raises(ObjectExists):
            await client.put("journal/1", b"ours", create=True)
    assert storage.objects == {"journal/1": b"theirs"}


async def test_a_worker_that_dies_over_every_attempt_fails_the_request(autojump_clock: MockClock) -> None:
    storage = DyingStorage(deaths=5)
    async with mortal_transfer(storage) as client:
        with pytest.raises(StorageFailed, match="died 5 times"):
            await client.put("a", b"1")
        await client.put("b", b"2")
        assert storage.puts == 6


async def test_a_renewal_of_the_keys_is_no_death() -> None:
    storage = BusyStorage()
    storage.objects["cold/a"] = b"1"
    async with local_transfer(storage) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.get, "cold/a")
        for sends in range(1, 8):
            await wait_all_tasks_blocked()
            assert len(storage.waiting) == sends
            client.renew(StaticKeys(access_key_id="AKIA", secret_access_key=str(sends)))
        storage.open.set()
    assert client.stats.errors == 0


async def test_requests_made_while_the_worker_is_away_are_sent_when_it_is_back(
    autojump_clock: MockClock,
) -> None:
    storage = DyingStorage(deaths=1)
    async with mortal_transfer(storage) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.put, "a", b"1")
        await wait_all_tasks_blocked(0.01)
        with trio.move_on_after(0):
            await client.put("never", b"")  # cancelled before anybody saw it
        await client.put("b", b"2")
    assert storage.objects == {"a": b"1", "b": b"2"}


async def test_a_storage_that_cannot_be_opened_says_why() -> None:
    @contextlib.asynccontextmanager
    async def refuse(opening: Open, _: Ledger) -> AsyncIterator[Storage]:
        if opening.record.name == "test":
            raise UsageError(problem='There is no "test".')
        yield MemoryStorage()

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs, refuse, inline)
            yield ours

    client = TransferClient()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run, connect, _OPENING)
        with pytest.raises(UsageError, match='There is no "test"'):
            await client.opened()
        nursery.cancel_scope.cancel()


async def test_the_error_of_the_body_leaves_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with local_transfer(MemoryStorage()):
            raise ZeroDivisionError
