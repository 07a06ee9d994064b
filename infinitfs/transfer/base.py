"""What upper layers ask of the transfer process.

Above: `block/`, `volume/`, `mount/`. Below: `client`, or a fake in a test.
Invariant: every call is idempotent, so whoever carries it out may repeat it after a failure.
"""

from pathlib import Path
from typing import Protocol

from infinitfs.storage.base import Buffer, ObjectInfo

Listing = list[ObjectInfo]


class Transfer(Protocol):
    """A storage reached through another process. Every call raises what `storage.base.Storage` documents,
    NoSpace or LocalFileFailed where a local file is at fault, and StorageFailed where the other process
    keeps dying."""

    async def upload(self, key: str, path: Path) -> None:
        """Store the whole file `path` as the object `key`, replacing one of that name."""

    async def download(self, key: str, start: int, length: int, path: Path, *, whole: bool = False) -> None:
        """Write the bytes `[start, start + length)` of an object, `whole` where that is all of it, to `path`, a new
        file in an existing folder.

        A file of that name is replaced; after an error or a cancellation none is left, so `path` should be a
        name that nobody uses again. The file is not synced.
        """

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        """Store a small object (at most `protocol.MESSAGE_LIMIT`, less a header). With `create`:
        ObjectExists where an object of that name holds anything, unless an earlier attempt of this same
        call wrote it."""

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes `[start, start + length)` of a small object, or of a small part of one."""

    async def size(self, key: str) -> int:
        """The size of an object in bytes."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    async def list(self, prefix: str) -> Listing:
        """All objects whose key starts with `prefix`, in ascending order of their keys."""
