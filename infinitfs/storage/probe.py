"""Whether a storage is what its record says, before anybody relies on it.

Above: `storage create`, `storage check`; `probe_s3`, for what is particular to buckets. Below: the backends.
Invariant: a check writes nothing but one small object of a random name, which it removes again whatever happens. Only
`make_filesystem` makes a storage: a check of one whose disk is away must not put another in its place.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

import trio

from infinitfs.config.model import FilesystemStorageRecord
from infinitfs.errors import (
    InfinitfsError,
    NoSpace,
    ObjectExists,
    ObjectNotFound,
    StorageRejected,
    UsageError,
)
from infinitfs.storage.base import Storage
from infinitfs.storage.filesystem import FilesystemStorage, explain, prepare

_LEAST_SPACE = 64 << 20  # bytes: a few packs
_CLEAN_UP = 20  # seconds


def make_filesystem(record: FilesystemStorageRecord) -> None:
    """Make the folder a storage, for a check to follow. Blocking.

    Raises UsageError, AccessDenied, NoSpace, StorageFailed, StorageRejected.
    """
    folder = Path(record.path)
    if not folder.is_absolute():
        raise UsageError(problem=f'The folder "{record.path}" of a storage must be an absolute path.')
    try:
        prepare(folder)
    except OSError as error:
        raise explain(error, record.path, "make a storage there") from error


async def check_filesystem(record: FilesystemStorageRecord) -> list[str]:
    """Try everything a volume will need of the folder, which must be a storage. Returns warnings for the user.

    Raises AccessDenied, NoSpace, StorageUnreachable, StorageRejected.
    """
    if not await check(FilesystemStorage(Path(record.path))):
        raise StorageRejected(storage=record.path, action="create a file only once", reason="no working hard links")

    def measure() -> int:
        try:
            status = os.statvfs(record.path)
        except OSError as error:
            raise explain(error, record.path, "tell its free space") from error
        return status.f_bavail * status.f_frsize

    free = await trio.to_thread.run_sync(measure)
    if free < _LEAST_SPACE:
        raise NoSpace(what=record.path, remedy="make room there or choose another disk")
    if record.capacity > free:
        return [f'The folder "{record.path}" has only {free >> 20} MiB free, less than the capacity asked for.']
    return []


async def check(storage: Storage) -> bool:
    """Write, read, list and delete a small object. Returns whether `create` refuses to replace one."""
    # The name is that of a pack, so that the storage class is tried as well.
    folder = f"probe-{secrets.token_hex(8)}"
    key, first, second = f"{folder}/packs/probe", secrets.token_bytes(64), secrets.token_bytes(64)
    try:
        await _expect_listed(storage, folder, [])
        await _expect_missing(storage, key)
        await storage.delete(key)  # before there is anything that could not be deleted any more
        conditional = await _create(storage, key, first)
        await _expect_content(storage, key, first)
        await _expect_listed(storage, folder, [key])
        try:
            await storage.put(key, second, create=True)
        except ObjectExists:
            await _expect_content(storage, key, first)
        except StorageRejected:
            conditional = False
        else:
            conditional = False
        await storage.delete(key)
        await _expect_listed(storage, folder, [])
    finally:
        with trio.move_on_after(_CLEAN_UP, shield=True), suppress(InfinitfsError):
            await storage.delete(key)
    return conditional


async def _create(storage: Storage, key: str, data: bytes) -> bool:
    """Store an object that is not there. Returns False where the service knows no conditions at all."""
    try:
        await storage.put(key, data, create=True)
    except StorageRejected:
        await storage.put(key, data)
        return False
    return True


async def _expect_missing(storage: Storage, key: str) -> None:
    """S3 says that an object is missing only to who may list: to others it is as forbidden as any."""
    try:
        await storage.get(key)
    except ObjectNotFound:
        return
    raise StorageRejected(storage=storage.name, action="read", reason="it gave what nobody had stored")


async def _expect_content(storage: Storage, key: str, data: bytes) -> None:
    try:
        same = await storage.get(key) == data and await storage.get(key, 8, 16) == data[8:24]
    except ObjectNotFound:
        same = False
    if not same:
        raise StorageRejected(storage=storage.name, action="store an object", reason="it gave back something else")


async def _expect_listed(storage: Storage, folder: str, keys: list[str]) -> None:
    if [info.key async for info in storage.list(f"{folder}/")] != keys:
        raise StorageRejected(storage=storage.name, action="list", reason="what it showed is not what is there")
