"""TraceStorage tells every call once."""

import pytest
import trio
import trio.testing

from infinitfs.errors import ObjectNotFound
from infinitfs.storage.memory import MemoryStorage
from infinitfs.storage.trace import Trace, TraceStorage
from tests.support.faults import Delay, FaultyStorage, script


async def test_calls_and_outcomes(autojump_clock: trio.testing.MockClock) -> None:
    traces: list[Trace] = []
    storage = TraceStorage(FaultyStorage(MemoryStorage(), script(Delay(2), None, Delay(3))), traces.append)
    await storage.put("a", b"12345")
    await storage.get("a", 1, 3)
    with pytest.raises(ObjectNotFound):
        await storage.get("b")
    await storage.get_whole("a", 5)
    await storage.size("a")
    assert [info.key async for info in storage.list("")] == ["a"]
    await storage.delete("a")
    assert traces == [
        Trace("put", "a", 5, 2.0),
        Trace("get", "a", 3),
        Trace("get", "b", 0, 3.0, "ObjectNotFound"),
        Trace("get", "a", 5),
        Trace("size", "a"),
        Trace("list", ""),
        Trace("delete", "a"),
    ]


async def test_a_cancelled_call(autojump_clock: trio.testing.MockClock) -> None:
    traces: list[Trace] = []
    storage = TraceStorage(FaultyStorage(MemoryStorage(), script(Delay(10))), traces.append)
    with trio.move_on_after(4):
        await storage.put("a", b"12345")
    assert traces == [Trace("put", "a", 0, 4.0, "Cancelled")]
