"""Repeats what may pass by itself.

Above: `limit`, `transfer/`. Below: any storage.
Invariant: only StorageUnreachable and its kind are repeated, and a create-only put that meets its own bytes
after an attempt of unknown outcome has succeeded.

Exponential backoff with full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
2015.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import trio

from infinitfs.errors import ObjectExists, ObjectNotFound, StorageUnreachable
from infinitfs.storage.base import Buffer, ObjectInfo, Storage

_FIRST_PAUSE = 0.1  # seconds; doubled at every attempt
_LONGEST_PAUSE = 20.0  # seconds

T = TypeVar("T")


class RetryStorage(Storage):
    """`inner`, patient: no attempt starts later than `deadline` seconds after a call's first, then the last
    error is raised; `put_deadline` is that of a put, where it is another one. An attempt under way is not cut short.
    `random` gives numbers in [0, 1)."""

    def __init__(
        self, inner: Storage, *, deadline: float, random: Callable[[], float], put_deadline: float | None = None
    ) -> None:
        self.name = inner.name
        self._inner = inner
        self._deadline = deadline
        self._put_deadline = deadline if put_deadline is None else put_deadline
        self._random = random

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return await self._persist(lambda: self._inner.get(key, start, length))

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        doubtful = False

        async def attempt() -> None:
            nonlocal doubtful
            try:
                await self._inner.put(key, data, create=create)
            except ObjectExists:
                if not doubtful or not await self._holds(key, data):
                    raise
            except StorageUnreachable:
                doubtful = True
                raise

        await self._persist(attempt, self._put_deadline)

    async def size(self, key: str) -> int:
        return await self._persist(lambda: self._inner.size(key))

    async def delete(self, key: str) -> None:
        await self._persist(lambda: self._inner.delete(key))

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        last = ""
        pauses = self._pauses()
        while True:
            try:
                async with aclosing(self._inner.list(prefix)) as found:
                    async for info in found:
                        if info.key > last:
                            yield info
                            last, pauses = info.key, self._pauses()
                return
            except StorageUnreachable as error:
                await pauses(error)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _holds(self, key: str, data: Buffer) -> bool:
        try:
            return await self._inner.get(key) == data
        except ObjectNotFound:
            return False

    async def _persist(self, attempt: Callable[[], Awaitable[T]], deadline: float | None = None) -> T:
        pause = self._pauses(deadline)
        while True:
            try:
                return await attempt()
            except StorageUnreachable as error:
                await pause(error)

    def _pauses(self, deadline: float | None = None) -> Callable[[StorageUnreachable], Awaitable[None]]:
        """A function that sleeps longer each time, and raises what it is given once the deadline is near."""
        end = trio.current_time() + (self._deadline if deadline is None else deadline)
        longest = _FIRST_PAUSE

        async def pause(error: StorageUnreachable) -> None:
            nonlocal longest
            seconds = longest * self._random()
            longest = min(2 * longest, _LONGEST_PAUSE)
            if trio.current_time() + seconds > end:
                raise error
            await trio.sleep(seconds)

        return pause
