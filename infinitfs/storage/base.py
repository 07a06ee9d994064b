"""The interface of an object store.

Above: the decorators and `transfer/`. Below: one backend a module.
Invariant: an object appears whole or not at all, and once acknowledged it is there for every later call
(read-after-write, as S3 documents it since 2020). A call either returns, or raises an error of `errors.py`;
nothing else leaves a backend.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing shows it: `key` relative to the storage's folder, `size` in bytes."""

    key: str
    size: int


class Storage(ABC):
    """Keys are relative to the storage's folder: ASCII, `/`-separated, no empty, `.` or `..` part."""

    name: str
    """How messages name this storage, e.g. `s3://bucket/folder`."""

    @abstractmethod
    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes `[start, start + length)` of an object, all from `start` on where `length` is None.

        Raises ObjectNotFound; DamagedObject where the object ends before `start + length` (it was truncated).
        """

    async def get_whole(self, key: str, size: int) -> bytes:
        """As `get` of all of an object, whose `size` the caller knows: some services send that faster than a range."""
        return await self.get(key, 0, size)

    @abstractmethod
    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        """Store an object, replacing one of that name, or with `create` raising ObjectExists (atomically)."""

    @abstractmethod
    async def size(self, key: str) -> int:
        """The size of an object in bytes. Raises ObjectNotFound."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    @abstractmethod
    def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        """All objects whose key starts with `prefix`, in ascending order of keys, however many there are."""

    async def aclose(self) -> None:  # noqa: B027
        """Release connections and threads. Calls after it are an error."""
