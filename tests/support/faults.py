"""A storage that fails as told.

Above: tests of whatever uses a storage, and simulations driven by a seed. Below: any storage, usually a
MemoryStorage.
Invariant: what goes wrong depends on the plan alone: no clock but trio's, no randomness but the plan's.
"""

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import trio

from infinitfs.errors import DamagedObject, InfinitfsError, StorageFailed, StorageUnreachable
from infinitfs.storage.base import Buffer, ObjectInfo, Storage


def unreachable() -> InfinitfsError:
    return StorageUnreachable(storage="faulty", reason="as planned")


def failed() -> InfinitfsError:
    return StorageFailed(storage="faulty", action="go on", reason="as planned")


@dataclass(frozen=True)
class FailBefore:
    """The call raises and did nothing. In a list: after `after` keys, or all where there are fewer."""

    error: Callable[[], InfinitfsError] = unreachable
    after: int = 0


@dataclass(frozen=True)
class FailAfter:
    """The call raises although it was applied: the answer got lost."""

    error: Callable[[], InfinitfsError] = unreachable


@dataclass(frozen=True)
class Truncate:
    """A put stores the first `keep` bytes only and claims success; a get sees no more than these."""

    keep: int


@dataclass(frozen=True)
class Delay:
    """The call starts `seconds` late."""

    seconds: float


@dataclass(frozen=True)
class Partition:
    """The storage is away from this call on, for `seconds`."""

    seconds: float


Fault = FailBefore | FailAfter | Truncate | Delay | Partition


@dataclass(frozen=True)
class Call:
    """What a plan decides on. `number` counts the calls from 0."""

    operation: str
    key: str
    number: int


Plan = Callable[[Call], Fault | None]


def script(*faults: Fault | None) -> Plan:
    """The first call meets the first fault, and so on; then all is well."""
    return lambda call: faults[call.number] if call.number < len(faults) else None


def seeded(source: random.Random, rate: float, *faults: Fault) -> Plan:
    """Every call meets one of `faults` with probability `rate`."""
    return lambda call: source.choice(faults) if source.random() < rate else None


@dataclass
class FaultyStorage(Storage):
    """`inner`, as `plan` has it. `partitioned` cuts it off by hand; `calls` is what was asked so far."""

    inner: Storage
    plan: Plan
    partitioned: bool = False
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.inner.name
        self._back_at = 0.0

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        fault = await self._meet("get", key)
        if isinstance(fault, Truncate):
            data = (await self.inner.get(key))[: fault.keep]
            end = len(data) if length is None else start + length
            if max(start, end) > len(data):
                raise DamagedObject(key=key, reason=f"it ends at byte {len(data)}")
            return data[start:end]
        data = await self.inner.get(key, start, length)
        _lose(fault)
        return data

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        fault = await self._meet("put", key)
        kept = memoryview(data)[: fault.keep] if isinstance(fault, Truncate) else data
        await self.inner.put(key, kept, create=create)
        _lose(fault)

    async def size(self, key: str) -> int:
        fault = await self._meet("size", key)
        size = await self.inner.size(key)
        _lose(fault)
        return size

    async def delete(self, key: str) -> None:
        fault = await self._meet("delete", key)
        await self.inner.delete(key)
        _lose(fault)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        fault = await self._meet("list", prefix)
        count = 0
        async with aclosing(self.inner.list(prefix)) as found:
            async for info in found:
                if isinstance(fault, FailBefore) and count == fault.after:
                    raise fault.error()
                yield info
                count += 1
        if isinstance(fault, FailBefore):
            raise fault.error()
        _lose(fault)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _meet(self, operation: str, key: str) -> Fault | None:
        call = Call(operation, key, len(self.calls))
        self.calls.append(call)
        fault = self.plan(call)
        match fault:
            case Delay():
                await trio.sleep(fault.seconds)
            case Partition():
                self._back_at = trio.current_time() + fault.seconds
            case FailBefore() if not fault.after:
                await trio.lowlevel.checkpoint()
                raise fault.error()
        if self.partitioned or trio.current_time() < self._back_at:
            await trio.lowlevel.checkpoint()
            raise unreachable()
        return fault


def _lose(fault: Fault | None) -> None:
    if isinstance(fault, FailAfter):
        raise fault.error()
