"""LimitStorage: bandwidth and calls at once, on a clock that jumps."""

import pytest
import trio
import trio.testing

from infinitfs.storage.limit import LimitStorage
from infinitfs.storage.memory import MemoryStorage
from tests.support.faults import Delay, FaultyStorage


async def test_uploads_keep_to_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    storage = LimitStorage(MemoryStorage(), upload=1000)
    async with trio.open_nursery() as nursery:
        for number in range(11):
            nursery.start_soon(storage.put, f"{number}", bytes(500))
    # The first goes at once, each of the others when those before it are paid.
    assert trio.current_time() == pytest.approx(10 * 0.5)


async def test_uploads_go_in_the_order_they_came(autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    storage = LimitStorage(inner, upload=1000)
    async with trio.open_nursery() as nursery:
        for name in ("c", "a", "b"):
            nursery.start_soon(storage.put, name, bytes(100))
            await trio.testing.wait_all_tasks_blocked()
    assert list(inner.objects) == ["c", "a", "b"]


async def test_idle_time_is_not_saved_up(autojump_clock: trio.testing.MockClock) -> None:
    storage = LimitStorage(MemoryStorage(), upload=1000)
    await trio.sleep(100)
    for _ in range(3):
        await storage.put("a", bytes(1000))
    assert trio.current_time() == pytest.approx(102)


async def test_downloads_keep_to_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    storage = LimitStorage(MemoryStorage(), download=1000)
    await storage.put("a", bytes(4000))
    await storage.get("a", 0, 2000)
    assert trio.current_time() == 0
    await storage.get("a")  # waits for the 2000, and leaves 4000 to be paid
    assert trio.current_time() == pytest.approx(2)
    await storage.get("a", 0, 1)
    assert trio.current_time() == pytest.approx(6)


async def test_up_and_down_are_apart(autojump_clock: trio.testing.MockClock) -> None:
    storage = LimitStorage(MemoryStorage(), upload=1, download=1000)
    await storage.put("a", bytes(100))
    await storage.get("a", 0, 100)
    await storage.size("a")
    assert trio.current_time() == 0


async def test_a_cancelled_wait_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    storage = LimitStorage(MemoryStorage(), upload=1000)
    await storage.put("a", bytes(5000))
    with trio.move_on_after(1):
        await storage.put("b", bytes(1_000_000))
    await storage.put("c", b"")
    assert trio.current_time() == pytest.approx(5)


async def test_no_limit(autojump_clock: trio.testing.MockClock) -> None:
    storage = LimitStorage(MemoryStorage())
    for _ in range(3):
        await storage.put("a", bytes(1 << 20))
        await storage.get("a")
    assert trio.current_time() == 0


async def test_calls_at_once(autojump_clock: trio.testing.MockClock) -> None:
    storage = LimitStorage(FaultyStorage(MemoryStorage(), lambda call: Delay(1)), connections=2)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(storage.put, f"{number}", b"")
            nursery.start_soon(storage.delete, f"{number}")
    assert trio.current_time() == pytest.approx(3)


async def test_a_list_holds_no_connection_while_its_caller_works(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inner = MemoryStorage()
    storage = LimitStorage(inner, connections=1)
    for name in ("a", "b"):
        await storage.put(name, b"")
    with trio.fail_after(1):
        async for info in storage.list(""):
            await storage.delete(info.key)
    assert inner.objects == {}
