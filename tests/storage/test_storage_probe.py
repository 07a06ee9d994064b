"""What `storage create` and `check` find out, over storages and folders that misbehave."""

import errno
from pathlib import Path

import pytest

from infinitfs.config.model import FilesystemStorageRecord
from infinitfs.errors import (
    AccessDenied,
    InfinitfsError,
    NoSpace,
    StorageRejected,
    StorageUnreachable,
    UsageError,
)
from infinitfs.storage.base import Buffer
from infinitfs.storage.filesystem import FilesystemStorage
from infinitfs.storage.memory import MemoryStorage
from infinitfs.storage.probe import check, check_filesystem, make_filesystem
from tests.support.faults import Call, FailBefore, Fault, FaultyStorage, Truncate


class Unconditional(MemoryStorage):
    """Takes `create` for a wish."""

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        await super().put(key, data)


async def test_a_service_that_ignores_conditions() -> None:
    storage = Unconditional()
    assert await check(storage) is False
    assert storage.objects == {}


async def test_a_service_that_knows_no_conditions() -> None:
    class Ignorant(MemoryStorage):
        async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
            if create:
                raise StorageRejected(storage=self.name, action="write", reason="NotImplemented")
            await super().put(key, data)

    storage = Ignorant()
    assert await check(storage) is False
    assert storage.objects == {}


async def test_a_good_storage() -> None:
    storage = MemoryStorage()
    await storage.put("other", b"1")
    assert await check(storage) is True
    assert storage.objects == {"other": b"1"}


@pytest.mark.parametrize("operation", ["get", "list", "put"])
async def test_whatever_fails_nothing_is_left(operation: str) -> None:
    inner = MemoryStorage()
    made = 0

    def plan(call: Call) -> Fault | None:
        nonlocal made
        made += call.operation == operation
        return FailBefore() if made == 2 and call.operation == operation else None

    with pytest.raises(StorageUnreachable):
        await check(FaultyStorage(inner, plan))
    assert inner.objects == {}


@pytest.mark.parametrize(("operation", "fault"), [("put", Truncate(10)), ("get", Truncate(64 - 1))], ids=["put", "get"])
async def test_a_storage_that_tells_lies(operation: str, fault: Fault) -> None:
    inner = MemoryStorage()
    with pytest.raises(InfinitfsError, match="something else"):
        await check(FaultyStorage(inner, lambda call: fault if call.operation == operation else None))
    assert inner.objects == {}


def at(folder: Path, capacity: int = 0) -> FilesystemStorageRecord:
    return FilesystemStorageRecord(name="f", path=str(folder), capacity=capacity, created="")


async def test_a_good_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "storage"
    for _ in range(2):
        make_filesystem(at(folder))
        assert await check_filesystem(at(folder)) == []
    storage = FilesystemStorage(folder)
    assert [info async for info in storage.list("")] == []
    await storage.put("a", b"1", create=True)


async def test_a_folder_that_is_no_storage_is_not_made_one_by_a_check(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing") * 2:
        with pytest.raises(StorageUnreachable, match="its disk is not mounted, or it is no storage"):
            await check_filesystem(at(folder))


async def test_a_capacity_the_disk_does_not_have(tmp_path: Path) -> None:
    make_filesystem(at(tmp_path))
    (warning,) = await check_filesystem(at(tmp_path, capacity=1 << 60))
    assert "less than the capacity" in warning


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absolute"):
        make_filesystem(at(Path("relative")))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StorageRejected, match="make a storage there"):
        make_filesystem(at(file))


def test_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, mode: int, parents: bool, exist_ok: bool) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(AccessDenied, match="make a storage there"):
        make_filesystem(at(tmp_path))


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 1, 4096

    make_filesystem(at(tmp_path))
    monkeypatch.setattr("os.statvfs", lambda folder: Full)
    with pytest.raises(NoSpace):
        await check_filesystem(at(tmp_path))


async def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    make_filesystem(at(tmp_path))
    monkeypatch.setattr(Path, "hardlink_to", fail)
    with pytest.raises(StorageRejected, match="hard links"):
        await check_filesystem(at(tmp_path))
