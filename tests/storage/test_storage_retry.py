"""RetryStorage over a storage that fails as planned, on a clock that jumps."""

import random
from contextlib import suppress

import pytest
import trio
import trio.testing

from infinitfs.errors import (
    AccessDenied,
    DamagedObject,
    InfinitfsError,
    ObjectExists,
    ObjectNotFound,
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
    faulty = FaultyStorage(inner, script(*fails * 4))
    storage = patient(faulty)
    assert await storage.get("a", 1, 1) == b"2"
    assert await storage.size("a") == 3
    assert [info.key async for info in storage.list("")] == ["a"]
    await storage.delete("a")
    assert inner.objects == {}
    assert len(faulty.calls) == 8


async def test_the_last_error_is_raised_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStorage(MemoryStorage(), lambda call: FailBefore(failed if call.number else FailBefore().error))
    with pytest.raises(StorageFailed):
        await patient(faulty, deadline=30).size("a")
    assert trio.current_time() <= 30
    # 0.1 + 0.2 + ... + 12.8 s fit, the 20 s after them do not.
    assert len(faulty.calls) == 9


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
