"""Whether a storage is what its record says, before anybody relies on it.

Above: `storage create`, `storage check` and `doctor`. Below: the backends.
Invariant: nothing but one small object of a random name is written, and it is removed again whatever happens.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from infinitfs.config.model import FilesystemStorageRecord, S3StorageRecord
from infinitfs.errors import (
    InfinitfsError,
    NoSpace,
    ObjectExists,
    ObjectNotFound,
    StorageRejected,
    UsageError,
)
from infinitfs.storage.account import Account
from infinitfs.storage.base import Storage
from infinitfs.storage.filesystem import FilesystemStorage, explain, prepare
from infinitfs.storage.naming import is_key

if TYPE_CHECKING:
    from infinitfs.storage.s3 import S3Storage

_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # GLACIER_IR is read at once, these after hours
_LEAST_SPACE = 64 << 20  # bytes: a few packs
_CLEAN_UP = 20  # seconds

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET_ELSEWHERE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


async def check_s3(record: S3StorageRecord, account: Account) -> tuple[S3StorageRecord, list[str]]:
    """Try everything a volume will need of the bucket, within `record.path`.

    Returns the record, `conditional` as the service really behaves, and warnings for the user. Raises
    UsageError (region, bucket's name, path, storage class, a bucket that is elsewhere), BucketNotFound,
    AccessDenied, StorageUnreachable, StorageRejected.
    """
    storage = await trio.to_thread.run_sync(_open, record, account)
    try:
        bucket = await storage.describe()
        if bucket.region and bucket.region != record.region:
            problem = f'The bucket "{record.bucket}" is in the region {bucket.region}, not in {record.region}'
            raise UsageError(problem=f"{problem}: use --region {bucket.region}.")
        conditional = await check(storage)
    finally:
        await storage.aclose()
    warnings = []
    if bucket.versioned:
        expire = "have a lifecycle rule expire noncurrent versions"
        warnings.append(f'The bucket "{record.bucket}" keeps old versions, so deleting frees nothing: {expire}.')
    if bucket.locked:
        other = "use a bucket without it"
        warnings.append(f'The bucket "{record.bucket}" has object lock, so deleting may free nothing: {other}.')
    return msgspec.structs.replace(record, conditional=conditional), warnings


async def check_filesystem(record: FilesystemStorageRecord) -> list[str]:
    """Make the folder a storage and try everything a volume will need of it. Returns warnings for the user.

    Raises UsageError, AccessDenied, NoSpace, StorageUnreachable, StorageRejected.
    """
    folder = Path(record.path)
    if not folder.is_absolute():
        raise UsageError(problem=f'The folder "{record.path}" of a storage must be an absolute path.')

    def make() -> int:
        try:
            prepare(folder)
            status = os.statvfs(folder)
        except OSError as error:
            raise explain(error, str(folder), "make a storage there") from error
        return status.f_bavail * status.f_frsize

    free = await trio.to_thread.run_sync(make)
    if free < _LEAST_SPACE:
        raise NoSpace(what=record.path, remedy="make room there or choose another disk")
    if not await check(FilesystemStorage(folder)):
        raise StorageRejected(storage=record.path, action="create a file only once", reason="no working hard links")
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


def _open(record: S3StorageRecord, account: Account) -> "S3Storage":
    from infinitfs.storage.regions import check_region
    from infinitfs.storage.s3 import S3Storage, custom_endpoint

    custom = bool(custom_endpoint(record))
    check_region(record.region, custom=custom)
    check_bucket_name(record.bucket, custom=custom)
    if record.path and not is_key(record.path):
        raise UsageError(problem=f'"{record.path}" is not a folder\'s path in a bucket: use letters, digits and "/".')
    if record.storage_class in _ARCHIVES:
        problem = f"The storage class {record.storage_class} is an archive that cannot be read at once"
        raise UsageError(problem=f"{problem}: use GLACIER_IR or another class.")
    # Whatever an earlier check said of conditions is asked again.
    return S3Storage(msgspec.structs.replace(record, conditional=True), account, connections=4)


def check_bucket_name(bucket: str, *, custom: bool) -> None:
    """Raise UsageError where no bucket can have this name. Services other than AWS (`custom`) allow more."""
    if custom:
        legal = _BUCKET_ELSEWHERE.fullmatch(bucket) is not None
    else:
        legal = _BUCKET.fullmatch(bucket) is not None and ".." not in bucket and not _ADDRESS.fullmatch(bucket)
        legal = legal and not bucket.startswith(_RESERVED_STARTS) and not bucket.endswith(_RESERVED_ENDS)
    if not legal:
        rule = 'buckets have 3 to 63 of a-z, 0-9, "-" and "."'
        raise UsageError(problem=f'"{bucket}" cannot be the name of a bucket: {rule}.')
