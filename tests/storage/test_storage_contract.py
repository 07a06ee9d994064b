"""What every storage promises, bare and under all decorators."""

import pytest
import trio
import trio.testing

from infinitfs.errors import DamagedObject, ObjectExists, ObjectNotFound, UsageError
from infinitfs.storage.base import Storage
from tests.storage.conftest import STORAGES
from tests.support.real_server import needs_server

KEY = "0123abcd/packs/4f/4f00"


async def keys(storage: Storage, prefix: str) -> list[str]:
    return [info.key async for info in storage.list(prefix)]


async def test_put_get_round_trip(storage: Storage) -> None:
    for kind in (bytes, bytearray, memoryview):
        await storage.put(KEY, kind(b"content of " + kind.__name__.encode()))
        assert await storage.get(KEY) == b"content of " + kind.__name__.encode()
        assert await storage.size(KEY) == 11 + len(kind.__name__)


async def test_empty_object(storage: Storage) -> None:
    await storage.put(KEY, b"")
    assert await storage.get(KEY) == b""
    assert await storage.get(KEY, 0, 0) == b""
    assert await storage.size(KEY) == 0


async def test_large_object(storage: Storage) -> None:
    data = bytes(range(256)) * (8 << 12)
    await storage.put(KEY, data)
    assert await storage.size(KEY) == 8 << 20
    assert await storage.get(KEY) == data
    assert await storage.get(KEY, 5 << 20, 1 << 20) == data[5 << 20 : 6 << 20]


async def test_range(storage: Storage) -> None:
    data = b"0123456789"
    await storage.put(KEY, data)
    for start, length in [(0, 4), (3, 4), (9, 1), (10, 0), (5, 0), (0, 10)]:
        assert await storage.get(KEY, start, length) == data[start : start + length]
    for start in (1, 4, 10):
        assert await storage.get(KEY, start) == data[start:]


async def test_range_past_the_end_is_damage(storage: Storage) -> None:
    await storage.put(KEY, b"0123456789")
    for start, length in [(0, 11), (8, 3), (10, 1), (11, None), (11, 0), (50, 5)]:
        with pytest.raises(DamagedObject, match="ends at byte 10"):
            await storage.get(KEY, start, length)


async def test_a_whole_object(storage: Storage) -> None:
    data = bytes(range(256)) * 4096
    await storage.put(KEY, data)
    assert await storage.get_whole(KEY, len(data)) == data
    assert await storage.get_whole(KEY, len(data) - 1) == data[:-1], "of one that is longer than it should be"
    with pytest.raises(DamagedObject, match="ends at byte 1048576"):
        await storage.get_whole(KEY, len(data) + 1)


async def test_absent_object(storage: Storage) -> None:
    await storage.put("0123abcd/packs/4f/other", b"1")
    for key in (KEY, "top", "0123abcd/packs/4f", "0123abcd/packs/4f/other/below"):
        parts = (storage.get(key, 2, 3), storage.get(key, 2, 0))
        for call in (storage.get(key), *parts, storage.get_whole(key, 1), storage.size(key)):
            with pytest.raises(ObjectNotFound, match=key):
                await call


async def test_put_replaces(storage: Storage) -> None:
    await storage.put(KEY, b"a longer one")
    await storage.put(KEY, b"short")
    assert await storage.get(KEY) == b"short"
    assert await storage.size(KEY) == 5


async def test_create_does_not_replace(storage: Storage) -> None:
    await storage.put(KEY, b"first", create=True)
    for again in (b"second", b"first"):
        with pytest.raises(ObjectExists, match=KEY):
            await storage.put(KEY, again, create=True)
    assert await storage.get(KEY) == b"first"


async def test_create_after_delete(storage: Storage) -> None:
    await storage.put(KEY, b"first", create=True)
    await storage.delete(KEY)
    await storage.put(KEY, b"second", create=True)
    assert await storage.get(KEY) == b"second"


async def test_one_of_many_concurrent_creates_wins(storage: Storage) -> None:
    winners: list[int] = []

    async def create(number: int) -> None:
        try:
            await storage.put(KEY, b"writer %d" % number, create=True)
        except ObjectExists:
            return
        winners.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(create, number)
    assert len(winners) == 1
    assert await storage.get(KEY) == b"writer %d" % winners[0]


async def test_concurrent_puts_leave_one_of_them_whole(storage: Storage) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(storage.put, KEY, bytes([number]) * (100_000 + number))
    data = await storage.get(KEY)
    assert len(data) == 100_000 + data[0]
    assert set(data) == {data[0]}


async def test_delete_is_idempotent(storage: Storage) -> None:
    await storage.put(KEY, b"1")
    await storage.put(KEY + "-neighbour", b"2")
    for _ in range(2):
        await storage.delete(KEY)
    await storage.delete("never/was/there")
    with pytest.raises(ObjectNotFound):
        await storage.get(KEY)
    assert await keys(storage, "") == [KEY + "-neighbour"]


# Not the bare server: its puts make folders that its deletes remove, and versitygw 1.8 now and then answers such a put
# with a 409, ExistingObjectIsDirectory, until it is repeated.
@pytest.mark.parametrize("storage", [kind for kind in STORAGES if kind.values != ("server",)], indirect=True)
async def test_puts_and_deletes_in_one_folder_do_not_disturb_each_other(storage: Storage) -> None:
    async def put_and_delete(number: int) -> None:
        for create in (True, False) * 3:
            await storage.put(f"folder/below/{number}", b"1", create=create)
            assert await storage.get(f"folder/below/{number}") == b"1"
            await storage.delete(f"folder/below/{number}")

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(put_and_delete, number)
    assert await keys(storage, "") == []


async def test_delete_of_a_folder_leaves_what_is_in_it(storage: Storage) -> None:
    await storage.put("folder/object", b"1")
    await storage.delete("folder")
    assert await storage.get("folder/object") == b"1"


async def test_reads_see_the_last_write(storage: Storage) -> None:
    for number in range(5):
        data = b"x" * number
        await storage.put(KEY, data)
        assert await storage.get(KEY) == data
        assert await storage.size(KEY) == number
        assert [(info.key, info.size) async for info in storage.list(KEY)] == [(KEY, number)]
        await storage.delete(KEY)
        assert await keys(storage, KEY) == []


async def test_list_in_key_order_by_prefix(storage: Storage) -> None:
    # "-" and "." sort before "/", digits and letters after it: a walk of folders has to mind that.
    names = ["a", "b-c/x", "b.c", "b/a", "b/a-/z", "b/a.z", "b/a0", "b/c/d/e", "b0", "bb/x", "c", "Z"]
    for name in reversed(names):
        await storage.put(name, name.encode())
    assert await keys(storage, "") == sorted(names)
    assert [info.size async for info in storage.list("")] == [len(name) for name in sorted(names)]
    for prefix in ("b", "b/", "b/a", "b/c/", "b/c/d/e", "b/c/d/ef", "b-", "none", "none/", "a/", "B"):
        assert await keys(storage, prefix) == sorted(name for name in names if name.startswith(prefix)), prefix


async def test_list_of_nothing(storage: Storage) -> None:
    assert await keys(storage, "") == []
    assert await keys(storage, "journal/") == []


@pytest.mark.parametrize(
    "storage", ["memory", "filesystem", "s3", pytest.param("server", marks=needs_server)], indirect=True
)
async def test_list_of_more_than_a_page(storage: Storage) -> None:
    names = [f"v/journal/{number:08}" for number in range(1003)]
    await storage.put("v/checkpoints/1", b"")
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(storage.put, name, b"12")
    assert await keys(storage, "v/journal/") == names


async def test_list_left_early(storage: Storage) -> None:
    for name in ("a", "b", "c"):
        await storage.put(name, b"")
    found = storage.list("")
    async for info in found:
        assert info.key == "a"
        break
    await found.aclose()
    assert await keys(storage, "b") == ["b"]


async def test_keys_that_name_no_object(storage: Storage) -> None:
    odd = [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/.",
        ".hidden",
        "a/.b",
        "a\\b",
        "é",
        "a\n",
    ]
    for key in [*odd, "a\0b", " a", "k" * 256, "k/" * 500 + "k"]:
        for call in (
            storage.put(key, b"x"),
            storage.put(key, b"x", create=True),
            storage.get(key),
            storage.size(key),
            storage.delete(key),
        ):
            with pytest.raises(UsageError, match="not an object's key"):
                await call
    assert await keys(storage, "") == []


async def test_prefixes_that_start_no_key(storage: Storage) -> None:
    for prefix in ("/", "a//", "../", "a/../", ".", "é", "a\\"):
        with pytest.raises(UsageError, match="starts no key"):
            await keys(storage, prefix)


async def test_cancelled_put_leaves_the_object_whole_or_absent(storage: Storage) -> None:
    data = bytes(1 << 20)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.put, KEY, data)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    found = {info.key: info.size async for info in storage.list("")}
    assert found in ({}, {KEY: len(data)})
