"""A storage in this process's memory.

Above: tests and simulations. Below: nothing.
Invariant: the reference for the contract of `base.Storage`: every call is one step between two checkpoints.
"""

from collections.abc import AsyncGenerator

import trio

from infinitfs.errors import DamagedObject, ObjectExists, ObjectNotFound
from infinitfs.storage.base import Buffer, ObjectInfo, Storage
from infinitfs.storage.naming import check_key, check_prefix


class MemoryStorage(Storage):
    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.objects: dict[str, bytes] = {}

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = await self._find(key)
        end = len(data) if length is None else start + length
        if max(start, end) > len(data):
            raise DamagedObject(key=key, reason=f"it ends at byte {len(data)}")
        return data[start:end]

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        check_key(key)
        await trio.lowlevel.checkpoint()
        if create and key in self.objects:
            raise ObjectExists(key=key, storage=self.name)
        self.objects[key] = bytes(data)

    async def size(self, key: str) -> int:
        return len(await self._find(key))

    async def delete(self, key: str) -> None:
        check_key(key)
        await trio.lowlevel.checkpoint()
        self.objects.pop(key, None)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        check_prefix(prefix)
        await trio.lowlevel.checkpoint()
        found = [ObjectInfo(key, len(data)) for key, data in self.objects.items() if key.startswith(prefix)]
        for info in sorted(found, key=lambda info: info.key):
            yield info

    async def _find(self, key: str) -> bytes:
        check_key(key)
        await trio.lowlevel.checkpoint()
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectNotFound(key=key, storage=self.name) from None
