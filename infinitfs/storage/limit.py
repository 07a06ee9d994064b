"""Holds a storage to a bandwidth.

Above: `retry`, so that what is sent again is paid for again. Below: any storage, usually a backend.
Invariant: over any span of time the bytes moved one way are at most the rate times that span, plus one call's.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import trio

from infinitfs.storage.base import Buffer, ObjectInfo, Storage


class LimitStorage(Storage):
    """`inner` at most `upload` and `download` bytes a second; None: no limit. Calls are served in the order they
    came."""

    def __init__(self, inner: Storage, *, upload: float | None = None, download: float | None = None) -> None:
        self.name = inner.name
        self._inner = inner
        self._upload = _Pace(upload)
        self._download = _Pace(download)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        await self._download.take(length or 0)
        data = await self._inner.get(key, start, length)
        if length is None:  # only now it is known how much that was: those who come next pay for it
            self._download.charge(len(data))
        return data

    async def get_whole(self, key: str, size: int) -> bytes:
        await self._download.take(size)
        return await self._inner.get_whole(key, size)

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        await self._upload.take(len(data))
        await self._inner.put(key, data, create=create)

    async def size(self, key: str) -> int:
        return await self._inner.size(key)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        async with aclosing(self._inner.list(prefix)) as found:
            async for info in found:
                yield info

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Pace:
    """A token bucket that goes into debt: who comes waits until it is paid, then takes all it needs."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._paid_at = 0.0
        self._queue = trio.Lock()

    async def take(self, count: int) -> None:
        if self._rate is None:
            return
        async with self._queue:
            await trio.sleep_until(self._paid_at)
            self.charge(count)

    def charge(self, count: int) -> None:
        if self._rate is not None:
            self._paid_at = max(self._paid_at, trio.current_time()) + count / self._rate
