"""What is particular to the storage in a folder: durability, leftovers, errors of the disk."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infinitfs.errors import (
    AccessDenied,
    InfinitfsError,
    NoSpace,
    ObjectExists,
    ObjectNotFound,
    StorageFailed,
    StorageRejected,
    StorageUnreachable,
)
from infinitfs.storage.filesystem import FilesystemStorage, prepare


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "deep" / "storage"
    prepare(made)
    return made


@pytest.fixture
def storage(folder: Path) -> FilesystemStorage:
    return FilesystemStorage(folder)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def folders(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir())


def watch_syncs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced from now on."""
    synced: list[str] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(".infinitfs/*" if path.parent.name == ".infinitfs" else str(path.relative_to(folder)))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    return synced


def modes(folder: Path, only_files: bool = False) -> set[int]:
    paths = [path for path in folder.rglob("*") if path.is_file() or not only_files]
    return {stat.S_IMODE(path.stat().st_mode) for path in paths}


@contextmanager
def unmounted(folder: Path) -> Iterator[None]:
    """Puts the folder away for the time."""
    away = folder.rename(folder.with_name("away"))
    yield
    away.rename(folder)


@contextmanager
def mountpoint(folder: Path) -> Iterator[None]:
    """An empty folder for the time; fails where it did not stay empty."""
    folder.mkdir()
    yield
    folder.rmdir()


async def test_one_private_file_an_object_and_no_leftovers(folder: Path, storage: FilesystemStorage) -> None:
    await storage.put("v/packs/aa/x", b"12")
    await storage.put("v/journal/1", b"3", create=True)
    with pytest.raises(ObjectExists):
        await storage.put("v/journal/1", b"4", create=True)
    assert files(folder) == ["v/journal/1", "v/packs/aa/x"]
    assert (folder / "v/packs/aa/x").read_bytes() == b"12"
    assert modes(folder) == {0o600, 0o700}
    assert modes(folder, only_files=True) == {0o600}
    assert (folder / "v/journal/1").stat().st_nlink == 1


async def test_everything_new_is_synced_before_it_is_acknowledged(
    folder: Path, storage: FilesystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = watch_syncs(folder, monkeypatch)
    await storage.put("v/packs/x", b"1")
    # The bytes first; then each new folder's own name in the folder above it; then the object's name.
    assert synced == [".infinitfs/*", ".", "v", "v/packs"]
    synced.clear()
    await storage.put("v/packs/y", b"1", create=True)
    assert synced == [".infinitfs/*", "v/packs"]
    synced.clear()
    await storage.delete("v/packs/y")
    assert synced == ["v/packs"]
    synced.clear()
    # Another writer may have made these folders and not have synced them yet.
    await FilesystemStorage(folder).put("v/packs/z", b"1")
    assert synced == [".infinitfs/*", ".", "v", "v/packs"]


async def test_only_old_leftovers_are_removed(folder: Path, storage: FilesystemStorage) -> None:
    old, young = folder / ".infinitfs/old", folder / ".infinitfs/young"
    for path in (old, young):
        path.write_bytes(b"torn")
    day_before_yesterday = young.stat().st_mtime - 2 * 24 * 3600
    os.utime(old, (day_before_yesterday, day_before_yesterday))
    await storage.put("a", b"1")
    assert files(folder) == [".infinitfs/young", "a"]
    assert [info.key async for info in storage.list("")] == ["a"]


async def test_a_failed_put_leaves_the_old_object_and_no_temporary_file(
    folder: Path, storage: FilesystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.put("a", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFailed, match="Input/output error"):
        await storage.put("a", b"new")
    assert (folder / "a").read_bytes() == b"old"
    assert files(folder) == ["a"]


async def test_symbolic_links_are_not_followed(folder: Path, storage: FilesystemStorage, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    (folder / "file").symlink_to(tmp_path / "outside/secret")
    (folder / "folder").symlink_to(tmp_path / "outside")
    assert [info.key async for info in storage.list("")] == []
    for call in (storage.get("file"), storage.size("file")):
        with pytest.raises(ObjectNotFound):
            await call
    await storage.put("file", b"mine")
    assert (tmp_path / "outside/secret").read_bytes() == b"secret"
    assert await storage.get("file") == b"mine"


async def test_an_empty_mountpoint_is_not_taken_for_the_storage(folder: Path, storage: FilesystemStorage) -> None:
    await storage.put("a", b"1")
    with unmounted(folder):
        await expect_unreachable(storage)
        with mountpoint(folder):
            await expect_unreachable(storage)
    assert await storage.get("a") == b"1"


async def expect_unreachable(storage: FilesystemStorage) -> None:
    for call in (
        storage.get("a"),
        storage.size("a"),
        storage.delete("a"),
        storage.put("b", b"2"),
        storage.put("b", b"2", create=True),
    ):
        with pytest.raises(StorageUnreachable, match="not mounted"):
            await call
    with pytest.raises(StorageUnreachable, match="not mounted"):
        async for _ in storage.list(""):
            pass


async def test_a_folder_goes_with_the_last_object_in_it(
    folder: Path, storage: FilesystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("v/journal/1", "v/packs/aa/a", "v/packs/aa/b"):
        await storage.put(key, b"1")
    await storage.delete("v/packs/aa/a")
    assert folders(folder) == [".infinitfs", "v", "v/journal", "v/packs", "v/packs/aa"]
    synced = watch_syncs(folder, monkeypatch)
    await storage.delete("v/packs/aa/b")
    assert folders(folder) == [".infinitfs", "v", "v/journal"]
    assert synced == ["v"]
    await storage.delete("v/journal/1")
    assert folders(folder) == [".infinitfs"]
    synced.clear()
    await storage.put("v/packs/aa/c", b"1")
    assert synced == [".infinitfs/*", ".", "v", "v/packs", "v/packs/aa"]


@pytest.mark.parametrize("create", [False, True])
async def test_a_folder_that_goes_meanwhile_is_made_again(
    create: bool, folder: Path, storage: FilesystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another process removes it with the last object in it."""
    await storage.put("v/packs/a", b"1")
    (folder / "v/packs/a").unlink()
    name = "hardlink_to" if create else "replace"
    original = getattr(Path, name)
    times = iter([shutil.rmtree])

    def late(first: Path, second: Path) -> None:
        for remove in times:
            remove(folder / "v")
        original(first, second)

    monkeypatch.setattr(Path, name, late)
    await storage.put("v/packs/b", b"2", create=create)
    assert await storage.get("v/packs/b") == b"2"
    assert files(folder) == ["v/packs/b"]


async def test_a_key_is_no_folder_of_another(storage: FilesystemStorage) -> None:
    await storage.put("a", b"1")
    await storage.put("b/c", b"1")
    for key in ("a/below", "b"):
        with pytest.raises(StorageRejected):
            await storage.put(key, b"2")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.EIO, StorageFailed),
        (errno.ESTALE, StorageFailed),
        (errno.EFBIG, StorageRejected),
    ],
)
async def test_errors_of_the_disk(
    number: int, expected: type[InfinitfsError], storage: FilesystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(expected) as caught:
        await storage.put("a", b"1")
    assert type(caught.value) is expected


async def test_a_filesystem_without_hard_links(storage: FilesystemStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", fail)
    with pytest.raises(StorageRejected, match="no hard links"):
        await storage.put("a", b"1", create=True)


async def test_a_link_whose_answer_got_lost(storage: FilesystemStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Path.hardlink_to

    def lose(self: Path, target: Path) -> None:
        link(self, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(Path, "hardlink_to", lose)
    await storage.put("a", b"1", create=True)
    assert await storage.get("a") == b"1"
