"""Tells what was asked of a storage, and what came of it.

Above: `ledger`, `transfer/`, tests. Below: any storage.
Invariant: every call is told once, when it ended, however it ended.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import trio

from infinitfs.storage.base import Buffer, ObjectInfo, Storage

_KEYS_A_PAGE = 1000


@dataclass(slots=True)
class Trace:
    """One call. `bytes` is how many of an object's were moved, `seconds` how long it took, for a list with
    the time its caller took; `outcome` is empty, or the class of what was raised, by name; `requests` how many it
    took: a list makes one for every thousand keys, which is what S3 gives at once."""

    operation: str
    key: str
    bytes: int = 0
    seconds: float = 0.0
    outcome: str = ""
    requests: int = 1


class TraceStorage(Storage):
    """`inner`, with every call passed to `record`."""

    def __init__(self, inner: Storage, record: Callable[[Trace], None]) -> None:
        self.name = inner.name
        self._inner = inner
        self._record = record

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._tracing("get", key) as trace:
            data = await self._inner.get(key, start, length)
            trace.bytes = len(data)
        return data

    async def get_whole(self, key: str, size: int) -> bytes:
        with self._tracing("get", key) as trace:
            data = await self._inner.get_whole(key, size)
            trace.bytes = len(data)
        return data

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        with self._tracing("put", key) as trace:
            await self._inner.put(key, data, create=create)
            trace.bytes = len(data)

    async def size(self, key: str) -> int:
        with self._tracing("size", key):
            return await self._inner.size(key)

    async def delete(self, key: str) -> None:
        with self._tracing("delete", key):
            await self._inner.delete(key)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        with self._tracing("list", prefix) as trace:
            count = 0
            async with aclosing(self._inner.list(prefix)) as found:
                async for info in found:
                    count += 1
                    trace.requests = -(-count // _KEYS_A_PAGE)
                    yield info

    async def aclose(self) -> None:
        await self._inner.aclose()

    @contextmanager
    def _tracing(self, operation: str, key: str) -> Iterator[Trace]:
        trace, began = Trace(operation, key), trio.current_time()
        try:
            yield trace
        except BaseException as error:
            trace.outcome = type(error).__name__
            raise
        finally:
            trace.seconds = trio.current_time() - began
            self._record(trace)
