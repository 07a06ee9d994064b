"""RetryStorage over a storage that fails as planned, on a clock that jumps."""

import random
from contextlib import suppress

import pytest
import trio
import trio.testing

from infinitfs.errors import (
    AccessDenied,
    BucketElsewhere,
    ClockWrong,
    DamagedObject,
    InfinitfsError,
    KeyExpired,
    ObjectExists,
    ObjectNotFound,
    StorageBusy,
    StorageFailed,
    StorageRejected,
    StorageUnreachable,
)
from infinitfs.storage.memory import MemoryStorage
from infinitfs.storage.retry import RetryStorage
from tests.support.faults import (
    Delay,
    FailAfter,
    FailBefore,
    FaultyStorage,
    Partition,
    Truncate,
    failed,
    script,
    seeded,
)


def patient(faulty: FaultyStorage, deadline: float = 60, jitter: float = 1.0) -> RetryStorage:
    return RetryStorage(faulty, deadline=deadline, random=lambda: jitter)


async def test_passing_errors_are_repeated_with_growing_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    faulty = FaultyStorage(MemoryStorage(), script(FailBefore(), FailBefore(failed), FailBefore()))
    await patient(faulty).put("a", b"1")
    assert await faulty.get("a") == b"1"
    assert [call.operation for call in faulty.calls] == ["put"] * 4 + ["get"]
    assert trio.current_time() == pytest.approx(0.1 + 0.2 + 0.4)


async def test_jitter_scales_the_pauses(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStorage(MemoryStorage(), script(FailBefore(), FailBefore()))
    await patient(faulty, jitter=0.5).put("a", b"1")
    assert trio.current_time() == pytest.approx(0.5 * (0.1 + 0.2))


async def test_every_call_is_repeated(autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    await inner.put("a", b"123")
    fails = [FailBefore(), None]
    faulty = FaultyStorage(inner, script(*fails * 5))
    storage = patient(faulty)
    assert await storage.get("a", 1, 1) == b"2"
    assert await storage.get_whole("a", 3) == b"123"
    assert await storage.size("a") == 3
    assert [info.key async for info in storage.list("")] == ["a"]
    await storage.delete("a")
    assert inner.objects == {}
    assert len(faulty.calls) == 10


async def test_the_last_error_is_raised_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStorage(MemoryStorage(), lambda call: FailBefore(failed if call.number else FailBefore().error))
    with pytest.raises(StorageFailed):
        await patient(faulty, deadline=30).size("a")
    assert trio.current_time() <= 30
    # 0.1 + 0.2 + ... + 3.2 s and four of 5 s fit, a fifth does not.
    assert len(faulty.calls) == 11


async def test_a_partition_that_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStorage(MemoryStorage(), script(Partition(40)))
    await patient(faulty, deadline=60).put("a", b"1")
    assert 40 <= trio.current_time() <= 60


@pytest.mark.parametrize(
    "error",
    [
        ObjectNotFound(key="a", storage="s"),
        ObjectExists(key="a", storage="s"),
        DamagedObject(key="a", reason="short"),
        AccessDenied(storage="s", action="read", reason="no"),
        StorageRejected(storage="s", action="read", reason="no"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_lasting_errors_are_not_repeated(error: InfinitfsError, autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStorage(MemoryStorage(), script(FailBefore(lambda: error)))
    with pytest.raises(type(error)):
        await patient(faulty).get("a")
    assert len(faulty.calls) == 1
    assert trio.current_time() == 0


@pytest.mark.parametrize(
    "error",
    [
        KeyExpired(storage="s", reason="the session token has expired"),
        ClockWrong(storage="s", action="read", off="wrong"),
        BucketElsewhere(bucket="b", region="r", remedy="look"),
        StorageBusy(storage="s", action="read", reason="SlowDown"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_may_pass_is_repeated(error: InfinitfsError, autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    await inner.put("a", b"1")
    assert await patient(FaultyStorage(inner, script(FailBefore(lambda: error)))).get("a") == b"1"


async def test_patience_begins_with_the_first_failure(autojump_clock: trio.testing.MockClock) -> None:
    """An attempt that took long before it failed, for want of bandwidth or in a connection that hung, is repeated."""
    inner = MemoryStorage()
    await inner.put("a", b"1")

    class Slow(FaultyStorage):
        async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            await trio.sleep(100)
            return await super().get(key, start, length)

    assert await patient(Slow(inner, script(FailBefore())), deadline=30).get("a") == b"1"
    assert 200 < trio.current_time() < 201


async def test_calls_at_once(autojump_clock: trio.testing.MockClock) -> None:
    slow = FaultyStorage(MemoryStorage(), lambda call: Delay(1))
    storage = RetryStorage(slow, deadline=60, random=lambda: 1.0, connections=2)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(storage.put, f"{number}", b"")
            nursery.start_soon(storage.delete, f"{number}")
    assert trio.current_time() == pytest.approx(3)


async def test_a_list_holds_no_connection_while_its_caller_works(autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    storage = RetryStorage(inner, deadline=60, random=lambda: 1.0, connections=1)
    for name in ("a", "b"):
        await storage.put(name, b"")
    with trio.fail_after(1):
        async for info in storage.list(""):
            await storage.delete(info.key)
    assert inner.objects == {}


def busy(after: str = "") -> InfinitfsError:
    return StorageBusy(storage="faulty", action="go on", reason="SlowDown", retry_after=after)


@pytest.mark.parametrize(("connections", "share"), [(32, 0.0), (32, 0.5), (8, 0.05), (96, 0.05)])
async def test_a_busy_service_is_sent_few_requests_and_many_as_soon_as_it_takes_them(
    connections: int, share: float, autojump_clock: trio.testing.MockClock
) -> None:
    """A minute in which everything is refused, or all but a share, in the middle of callers who never stop: what
    arrives in it, and how soon all is as before."""
    arrived: list[float] = []
    done: list[float] = []
    storm = (4.0, 64.0)
    source = random.Random(1)

    class Service(MemoryStorage):
        async def size(self, key: str) -> int:
            arrived.append(trio.current_time())
            refuses = storm[0] <= trio.current_time() < storm[1] and source.random() >= share
            await trio.sleep(0.001 if refuses else 0.1)
            if refuses:
                raise busy()
            return 1

    storage = RetryStorage(Service(), deadline=30, random=source.random, connections=connections)

    async def call() -> None:
        while True:
            with suppress(StorageBusy):
                await storage.size("a")
                done.append(trio.current_time())

    with trio.move_on_after(74):
        async with trio.open_nursery() as nursery:
            for _ in range(2 * connections):
                nursery.start_soon(call)

    def rate(times: list[float], begin: float, end: float) -> float:
        return sum(begin <= time < end for time in times) / (end - begin)

    before = rate(done, 0, 4)
    assert before > 9 * connections
    assert rate(arrived, *storm) < (2 if share == 0 and connections == 32 else before / 10)
    assert rate(done, 70, 74) > 0.9 * before, "6 s after its end"


async def test_a_service_that_allows_less_gets_what_it_allows(autojump_clock: trio.testing.MockClock) -> None:
    """No more than 10 at once: most of what that gives is used, and little is refused."""
    count = {"in": 0, "refused": 0, "done": 0}

    class Small(MemoryStorage):
        async def size(self, key: str) -> int:
            if count["in"] == 10:
                count["refused"] += 1
                await trio.sleep(0.002)
                raise busy()
            count["in"] += 1
            await trio.sleep(0.1)
            count["in"] -= 1
            count["done"] += 1
            return 1

    storage = RetryStorage(Small(), deadline=30, random=random.Random(1).random, connections=32)

    async def call() -> None:
        while True:
            await storage.size("a")

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(call)
    assert count["done"] > 0.6 * 10 / 0.1 * 60
    assert count["refused"] < 0.02 * count["done"]


async def test_a_wait_that_the_service_asks_for_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """By every call, and it is no failure of theirs."""
    inner = MemoryStorage()
    await inner.put("a", b"1")
    faulty = FaultyStorage(inner, script(FailBefore(lambda: busy("12"))))
    storage = patient(faulty, deadline=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.size, "a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(storage.get, "a")
    assert [call.operation for call in faulty.calls] == ["size", "size", "get"]
    assert trio.current_time() == 12


@pytest.mark.parametrize("after", ["3600", "Sun, 22 Nov 2026 16:00:00 GMT", "-1", ""])
async def test_no_wait_is_so_long_that_patience_ends_first(after: str, autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    await inner.put("a", b"1")
    faulty = FaultyStorage(inner, script(FailBefore(lambda: busy(after))))
    assert await patient(faulty, deadline=30).size("a") == 1
    assert trio.current_time() == pytest.approx(15 if after == "3600" else 0.1)


async def test_the_gate_waits_no_longer_than_patience(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStorage(MemoryStorage(), lambda call: FailBefore(busy))
    storage = patient(faulty, deadline=30)
    ended: list[float] = []

    async def call() -> None:
        with pytest.raises(StorageBusy):
            await storage.size("a")
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(call)
    assert len(ended) == 100
    assert max(ended) < 31
    assert len(faulty.calls) < 100


@pytest.mark.parametrize("data", [b"mine", bytearray(b"mine"), memoryview(b"mine")])
async def test_a_create_that_meets_its_own_success(
    data: bytes | bytearray | memoryview, autojump_clock: trio.testing.MockClock
) -> None:
    inner = MemoryStorage()
    await patient(FaultyStorage(inner, script(FailAfter()))).put("a", data, create=True)
    assert inner.objects == {"a": b"mine"}


async def test_the_look_at_the_stored_bytes_may_fail_too(autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    faulty = FaultyStorage(inner, script(FailAfter(), None, FailBefore()))
    await patient(faulty).put("a", b"mine", create=True)
    assert [call.operation for call in faulty.calls] == ["put", "put", "get", "put", "get"]


async def test_a_create_that_another_writer_won_while_it_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inner = MemoryStorage()
    await inner.put("a", b"theirs")
    with pytest.raises(ObjectExists):
        await patient(FaultyStorage(inner, script(FailBefore()))).put("a", b"mine", create=True)
    assert inner.objects == {"a": b"theirs"}


async def test_equal_bytes_are_no_success_without_a_failed_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inner = MemoryStorage()
    await inner.put("a", b"mine")
    with pytest.raises(ObjectExists):
        await patient(FaultyStorage(inner, script())).put("a", b"mine", create=True)


async def test_a_torn_create_is_no_success(autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    await inner.put("a", b"mi")
    with pytest.raises(ObjectExists):
        await patient(FaultyStorage(inner, script(FailBefore(), Truncate(2)))).put("a", b"mine", create=True)


async def test_a_list_goes_on_where_it_broke(autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    names = [f"{number:03}" for number in range(10)]
    for name in names:
        await inner.put(name, b"")
    faulty = FaultyStorage(inner, script(FailBefore(after=3), FailBefore(after=7), FailBefore(after=7)))
    assert [info.key async for info in patient(faulty).list("")] == names
    # Where keys came the patience starts anew; where none came it does not.
    assert trio.current_time() == pytest.approx(0.1 + 0.1 + 0.2)


async def test_a_list_that_gets_nowhere_ends_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    inner = MemoryStorage()
    await inner.put("a", b"")
    faulty = FaultyStorage(inner, lambda call: FailBefore(after=1))
    with pytest.raises(StorageUnreachable):
        async for _ in patient(faulty, deadline=5).list(""):
            assert len(faulty.calls) == 1
    assert trio.current_time() <= 5


@pytest.mark.parametrize("seed", range(20))
async def test_one_patient_writer_notices_no_fault(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    source = random.Random(seed)
    faults = (FailBefore(), FailBefore(failed), FailAfter(), Delay(3), Partition(5))
    inner, model = MemoryStorage(), MemoryStorage()
    faulty = FaultyStorage(inner, seeded(source, 0.4, *faults))
    storage = RetryStorage(faulty, deadline=3600, random=source.random)
    for step in range(60):
        key, data, create = source.choice("abcd"), b"%d" % step, source.random() < 0.5
        for side in (storage, model):
            with suppress(ObjectExists):
                await side.put(key, data, create=create)
        if source.random() < 0.3:
            for side in (storage, model):
                await side.delete(key)
        assert inner.objects == model.objects
        assert [info async for info in storage.list("")] == [info async for info in model.list("")]
