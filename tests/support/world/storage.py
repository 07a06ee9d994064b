"""What stands between a volume and its objects in a world: faults, a gate that closes at the crash, and crash points.

Above: `life`. Below: `tests.support.faults`, `transfer.client`.
Invariant: a request that comes after the crash does nothing; one that is under way then may still be done, as on a
network.
"""

from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from random import Random
from typing import TypeVar

from infinitfs.errors import DamagedObject, InfinitfsError, StorageUnreachable
from infinitfs.storage.base import Buffer, ObjectInfo, Storage
from infinitfs.storage.memory import MemoryStorage
from infinitfs.transfer.base import Listing
from infinitfs.transfer.client import TransferClient
from tests.support.faults import (
    Call,
    Delay,
    FailAfter,
    FailBefore,
    Fault,
    Partition,
    Plan,
    Truncate,
    failed,
    unreachable,
)
from tests.support.world.disk import Point

T = TypeVar("T")

FAULTS: tuple[Fault, ...] = (
    FailBefore(unreachable),
    FailBefore(failed),
    FailAfter(unreachable),
    FailAfter(unreachable),
    Delay(0.05),
    Delay(2.0),
    Partition(5.0),
    Partition(60.0),
    Truncate(0),
    Truncate(100),
    Truncate(5000),
)
"""Truncate is for gets: a put that stores half an object and claims success has lost it, whoever wrote it."""


class Crashed(Exception):
    """What code of a life that has ended meets."""


class Plans:
    """Faults that can be switched off, for the calls of the check itself."""

    def __init__(self, source: Random, rate: float) -> None:
        self._source = source
        self._rate = rate
        self.on = True
        self.truncated: set[str] = set()
        """Keys of objects of which a get saw the beginning only: these may be called damaged."""

    def plan(self) -> Plan:
        def decide(call: Call) -> Fault | None:
            fault = self._source.choice(FAULTS) if self._source.random() < self._rate else None
            if not self.on:
                return None
            if isinstance(fault, Truncate):
                if call.operation != "get":
                    return None
                self.truncated.add(call.key)
            return fault

        return decide

    def excuse(self, error: InfinitfsError) -> bool:
        """Whether an error comes of a fault of the storage."""
        if isinstance(error, DamagedObject):
            return error.fields["key"] in self.truncated
        return isinstance(error, StorageUnreachable)


class Gate(Storage):
    """`inner` until `closed`."""

    def __init__(self, inner: MemoryStorage) -> None:
        self.name = inner.name
        self.closed = False
        self._inner = inner

    def _check(self) -> None:
        if self.closed:
            raise Crashed

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._check()
        return await self._inner.get(key, start, length)

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        self._check()
        await self._inner.put(key, data, create=create)

    async def size(self, key: str) -> int:
        self._check()
        return await self._inner.size(key)

    async def delete(self, key: str) -> None:
        self._check()
        await self._inner.delete(key)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        self._check()
        async for info in self._inner.list(prefix):
            yield info


class PointedTransfer:
    """`client` with a crash point before and after every call, named by the call and the folder of its object."""

    def __init__(self, client: TransferClient, point: Point) -> None:
        self._client = client
        self._point = point
        self.stats = client.stats

    async def upload(self, key: str, path: Path) -> None:
        await self._pointed("upload", key, self._client.upload(key, path))

    async def download(self, key: str, start: int, length: int, path: Path, *, whole: bool = False) -> None:
        await self._pointed("download", key, self._client.download(key, start, length, path, whole=whole))

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        await self._pointed("put", key, self._client.put(key, data, create=create))

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return await self._pointed("get", key, self._client.get(key, start, length))

    async def size(self, key: str) -> int:
        return await self._pointed("size", key, self._client.size(key))

    async def delete(self, key: str) -> None:
        await self._pointed("delete", key, self._client.delete(key))

    async def list(self, prefix: str) -> Listing:
        return await self._pointed("list", prefix, self._client.list(prefix))

    async def _pointed(self, operation: str, key: str, call: Awaitable[T]) -> T:
        name = f"transfer {operation} {key.split('/')[1]}"
        self._point(name, "before")
        value = await call
        self._point(name, "after")
        return value
