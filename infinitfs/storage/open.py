"""From a record of the configuration to a storage.

Above: the transfer process, which decorates what it gets here, and offline commands. Below: the backends.
Invariant: opening touches neither the network nor the disk, and boto3 is imported for S3 only.
"""

from pathlib import Path

from infinitfs.config.model import FilesystemStorageRecord, StorageRecord
from infinitfs.errors import UsageError
from infinitfs.storage.account import Account
from infinitfs.storage.base import Storage
from infinitfs.storage.filesystem import FilesystemStorage


def open_storage(record: StorageRecord, account: Account | None, *, connections: int = 32) -> Storage:
    """The bare backend of `record`. For S3 it takes some 0.4 s (imports, one client): call it in a thread.

    `connections` bounds the requests in flight to a service. Raises UsageError, and AccessDenied where the
    account names a profile that is not there.
    """
    if isinstance(record, FilesystemStorageRecord):
        return FilesystemStorage(Path(record.path))
    if account is None:
        raise UsageError(problem=f'The storage "{record.name}" is on S3: give it credentials.')
    from infinitfs.storage.s3 import S3Storage

    return S3Storage(record, account, connections=connections)
