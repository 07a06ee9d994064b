"""LimitStorage: bandwidth, on a clock that jumps."""

import pytest
import trio
import trio.testing

from infinitfs.storage.limit import LimitStorage
from infinitfs.storage.memory import MemoryStorage
from infinitfs.storage.retry import RetryStorage
from tests.support.faults import FailBefore, FaultyStorage, script


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
    await storage.get_whole("a", 4000)
    await storage.get_whole("a", 4000)  # waits for the one before
    assert trio.current_time() == pytest.approx(10.001)


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


async def test_a_burst_is_spread_however_many_send_at_once(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[float] = []
    storage = LimitStorage(MemoryStorage(), upload=1000)

    async def send(number: int) -> None:
        await storage.put(f"{number}", bytes(250))
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(send, number)
    for first in range(100):
        for last in range(first, 100):
            moved = 250 * (last - first + 1)
            assert moved <= 1000 * (ended[last] - ended[first]) + 250 + 1e-6


async def test_what_is_sent_again_is_paid_for_again(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStorage(MemoryStorage(), script(FailBefore(), FailBefore()))
    storage = RetryStorage(LimitStorage(faulty, upload=1000), deadline=60, random=lambda: 0.0)
    await storage.put("a", bytes(1000))
    assert trio.current_time() == pytest.approx(2)
