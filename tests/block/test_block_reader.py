"""The block reader over memory, staged packs, the disk cache and a storage, and what damage it meets there."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import zstandard
from trio.testing import wait_all_tasks_blocked

from infinitfs.block.index import Location
from infinitfs.block.pack import object_key
from infinitfs.block.reader import BlockReader, Part
from infinitfs.errors import DamagedObject, InfinitfsError, LocalDiskFailed, ObjectNotFound, StorageUnreachable
from infinitfs.keys import frame as frame_module
from infinitfs.keys.frame import HEADER_SIZE, SEGMENT_SIZE, FrameType, sealed_size, segment_span
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.keys.xaes import TAG_SIZE
from infinitfs.storage.base import Buffer
from infinitfs.storage.memory import MemoryStorage
from infinitfs.transfer.cache import PackCache, open_cache
from infinitfs.transfer.client import TransferClient, local_transfer
from infinitfs.transfer.files import inline
from tests.support.blocks import MemoryIndex, make_ring, make_staging
from tests.support.faults import FaultyStorage, Plan

MI = 2**20


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class World:
    """Everything below a reader; the storage is of memory."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        (folder / "staging").mkdir()
        self.ring: KeyRing = make_ring()
        self.index = MemoryIndex()
        self.staging = make_staging(folder / "staging", self.ring)
        self.memory = MemoryStorage()
        self.storage = FaultyStorage(self.memory, plan)
        self.cache_folder = folder / "cache"
        self.opened: list[bytes] = []

    def start(self, cache: PackCache, transfer: TransferClient, memory: int) -> None:
        self.cache = cache
        self.transfer = transfer
        self.reader = BlockReader(self.ring, self.staging, cache, memory, inline)
        opens = self.reader._open_one

        def count(location: Location, frame: Buffer) -> Buffer:
            self.opened.append(location.id)
            return opens(location, frame)

        self.reader._open_one = count  # type: ignore[method-assign]

    async def stage(self, *contents: bytes, compressed: bool = False, segmented: bool = False) -> list[int]:
        """A frame of each in the open pack; returns the blocks."""
        frames = []
        for data in contents:
            id = self.ring.block_id(data)
            payload = zstandard.ZstdCompressor().compress(data) if compressed else data
            frame = self.ring.seal(
                Purpose.DATA, FrameType.BLOCK, id, payload, compressed=compressed, segmented=segmented
            )
            frames.append((id, len(data), frame))
        return list(self.index.add(await self.staging.append(frames)).values())

    async def store(self, *contents: bytes, compressed: bool = False, segmented: bool = False) -> list[int]:
        """As `stage`, and the pack is in the storage alone."""
        blocks = await self.stage(*contents, compressed=compressed, segmented=segmented)
        pack = await self.publish()
        self.staging.path(pack).unlink()
        return blocks

    async def publish(self) -> str:
        """End the open pack and put it in the storage; its file is left where it is, and released."""
        ((pack, size),) = await self.staging.close_packs()
        self.index.sizes[pack] = size
        self.memory.objects[self.key(pack)] = self.staging.path(pack).read_bytes()
        self.staging.release(pack)
        return pack

    def key(self, pack: str) -> str:
        return object_key(self.ring.volume_id.hex(), pack)

    def locate(self, *blocks: int) -> list[Location]:
        return list(self.index.locate(blocks).values())

    async def read(self, *blocks: int) -> list[bytes]:
        found = await self.reader.read(self.locate(*blocks))
        return [bytes(found[block]) for block in blocks]

    async def read_part(self, block: int, start: int, length: int) -> bytes | None:
        (location,) = self.locate(block)
        part = await self.reader.read_part(location, start, length)
        return None if part is None else bytes(part)

    def damage(self, block: int, at: int | None = None) -> str:
        """Flip a bit of the block's frame, in its middle if not given, in the storage; returns the object's key."""
        (location,) = self.locate(block)
        key = self.key(location.pack)
        data = bytearray(self.memory.objects[key])
        data[location.offset + (location.length // 2 if at is None else at)] ^= 4
        self.memory.objects[key] = bytes(data)
        return key

    @property
    def gets(self) -> int:
        return sum(call.operation == "get" for call in self.storage.calls)


@asynccontextmanager
async def world(folder: Path, *, memory: int = 4 * MI, plan: Plan = lambda call: None) -> AsyncIterator[World]:
    made = World(folder, plan)
    key_of = partial(object_key, made.ring.volume_id.hex())
    async with (
        local_transfer(made.storage) as transfer,
        open_cache(made.cache_folder, 64 * MI, transfer, key_of, offload=inline) as cache,
    ):
        made.start(cache, transfer, memory)
        yield made
    made.staging.close()


def damage_file(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "infinitfs.block.reader"]


# --- where a block is found ---


async def test_a_staged_block_is_read_without_the_storage(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        first, second = await made.stage(noise(1000), noise(2000, 1))
        assert await made.read(second, first) == [noise(2000, 1), noise(1000)]
        await made.staging.close_packs()
        (third,) = await made.stage(noise(10, 2))
        assert await made.read(third, first) == [noise(10, 2), noise(1000)]
        assert made.gets == 0


async def test_an_open_block_comes_from_memory(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(1000))
        assert await made.read(block) == [noise(1000)]
        assert await made.read(block) == [noise(1000)]
        assert len(made.opened) == 1


async def test_the_storage_is_asked_once_and_then_the_cache(tmp_path: Path) -> None:
    async with world(tmp_path, memory=0) as made:
        blocks = await made.store(*(noise(5000, seed) for seed in range(20)))
        for _ in range(3):
            assert await made.read(*blocks) == [noise(5000, seed) for seed in range(20)]
        assert made.gets == 1


async def test_a_pack_that_was_taken_over_by_the_cache_needs_no_storage(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.stage(noise(1000))
        pack = await made.publish()
        await made.cache.adopt(pack, made.staging.path(pack))
        assert await made.read(block) == [noise(1000)]
        assert made.gets == 0


async def test_compressed_blocks_are_opened(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        data = b"again and again " * 20_000
        assert await made.read(*await made.stage(data, compressed=True)) == [data]


async def test_blocks_of_many_packs_in_one_read_are_fetched_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        blocks = [block for seed in range(5) for block in await made.store(noise(1000, seed))]
        gate, get = trio.Event(), made.memory.get
        waiting = 0

        async def held(key: str, start: int = 0, length: int | None = None) -> bytes:
            nonlocal waiting
            waiting += 1
            await gate.wait()
            return await get(key, start, length)

        made.memory.get = held  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.read, *blocks)
            await wait_all_tasks_blocked()
            assert waiting == 5
            gate.set()
        assert await made.read(*blocks) == [noise(1000, seed) for seed in range(5)]


async def test_reading_nothing_is_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        assert await made.reader.read([]) == {}


async def test_a_number_that_was_given_again_is_another_block(tmp_path: Path) -> None:
    """Blocks are kept in memory; the freed block's number is that of the next block that is added."""
    async with world(tmp_path) as made:
        old, new = await made.stage(noise(1000), noise(1000, 1))
        assert await made.read(old) == [noise(1000)]
        (location,) = made.locate(new)
        assert await made.reader.read([location._replace(block=old)]) == {old: noise(1000, 1)}


async def test_prefetched_blocks_need_no_storage_later(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        blocks = [*await made.store(noise(1000)), *await made.store(noise(1000, 1))]
        staged = await made.stage(noise(1000, 2))
        await made.reader.prefetch(made.locate(*blocks, *staged))
        assert made.gets == 2 and made.opened == []
        await made.read(*blocks)
        assert made.gets == 2
        await made.reader.prefetch(made.locate(*blocks))
        assert made.gets == 2


async def test_a_prefetch_that_fails_is_left_for_the_read(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(1000))
        made.storage.partitioned = True
        await made.reader.prefetch(made.locate(block))
        with pytest.raises(StorageUnreachable):
            await made.read(block)
        made.storage.partitioned = False
        assert await made.read(block) == [noise(1000)]


# --- damage ---


async def test_a_flipped_bit_in_the_cache_is_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with world(tmp_path, memory=0) as made:
        first, second = await made.store(noise(1000), noise(1000, 1))
        await made.read(first)
        (path,) = made.cache_folder.glob("??/*")
        damage_file(path, 500)
        assert await made.read(first, second) == [noise(1000), noise(1000, 1)]
        assert made.gets == 2
        assert logged(caplog) == []


async def test_a_cache_file_cut_short_is_fetched_again(tmp_path: Path) -> None:
    async with world(tmp_path, memory=0) as made:
        (block,) = await made.store(noise(1000))
        await made.read(block)
        (path,) = made.cache_folder.glob("??/*")
        path.write_bytes(path.read_bytes()[:300])
        assert await made.read(block) == [noise(1000)]


async def test_a_flipped_bit_in_the_storage_is_reported_by_name_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as made:
        good, bad = await made.store(noise(1000), noise(1000, 1))
        key = made.damage(bad)
        with pytest.raises(DamagedObject) as caught:
            await made.read(bad)
        assert caught.value.fields["key"] == key
        assert logged(caplog) == [str(caught.value)]
        assert await made.read(good) == [noise(1000)], "the others of the pack are as good as before"


async def test_a_truncated_object_is_reported_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(1000))
        (location,) = made.locate(block)
        key = made.key(location.pack)
        made.memory.objects[key] = made.memory.objects[key][:700]
        with pytest.raises(DamagedObject) as caught:
            await made.read(block)
        assert caught.value.fields["key"] == key
        assert logged(caplog) == [str(caught.value)]


async def test_swapped_packs_are_damage(tmp_path: Path) -> None:
    """Both frames are whole and of this volume; they are not what was asked for."""
    async with world(tmp_path) as made:
        (first,) = await made.store(noise(1000))
        (second,) = await made.store(noise(1000, 1))
        one, other = (made.key(location.pack) for location in made.locate(first, second))
        objects = made.memory.objects
        objects[one], objects[other] = objects[other], objects[one]
        for block, key in ((first, one), (second, other)):
            with pytest.raises(DamagedObject) as caught:
                await made.read(block)
            assert caught.value.fields["key"] == key


async def test_a_damaged_staged_pack_is_named_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.stage(noise(1000))
        (location,) = made.locate(block)
        path = made.staging.path(location.pack)
        damage_file(path, 500)
        with pytest.raises(DamagedObject) as caught:
            await made.read(block)
        assert caught.value.fields["key"] == str(path)
        assert logged(caplog) == [str(caught.value)]
        assert made.gets == 0


@pytest.mark.parametrize("kind", ["longer", "shorter", "other", "no zstd", "two sizes"])
async def test_a_frame_of_another_content_is_damage(tmp_path: Path, kind: str) -> None:
    """Sealed with the right key for the right id, so that only the content can tell."""
    async with world(tmp_path) as made:
        data = noise(1000)
        id = made.ring.block_id(data)
        payload = {
            "longer": data + b"x",
            "shorter": data[:-1],
            "other": noise(1000, 1),
            "no zstd": b"\x28\xb5\x2f\xfd" + bytes(996),
            "two sizes": zstandard.ZstdCompressor().compress(bytes(2000)),
        }[kind]
        compressed = kind in ("no zstd", "two sizes")
        frame = made.ring.seal(Purpose.DATA, FrameType.BLOCK, id, payload, compressed=compressed)
        (block,) = made.index.add(await made.staging.append([(id, 1000, frame)])).values()
        with pytest.raises(DamagedObject):
            await made.read(block)


async def test_a_missing_object_is_reported(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(1000))
        made.memory.objects.clear()
        with pytest.raises(ObjectNotFound):
            await made.read(block)


async def test_a_disk_that_does_not_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.stage(noise(1000))
        (location,) = made.locate(block)
        path = made.staging.path(location.pack)
        path.unlink()
        path.mkdir()
        with pytest.raises(LocalDiskFailed):
            await made.read(block)


# --- many at once ---


async def test_readers_of_one_block_open_it_once(tmp_path: Path) -> None:
    async with world(tmp_path, memory=0) as made:
        first, second = await made.store(noise(1000), noise(1000, 1))
        results: list[list[bytes]] = []

        async def read(*blocks: int) -> None:
            results.append(await made.read(*blocks))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read, first)
                nursery.start_soon(read, second, first)
        assert sorted(results) == sorted([[noise(1000)]] * 10 + [[noise(1000, 1), noise(1000)]] * 10)
        assert sorted(made.opened) == sorted([made.ring.block_id(noise(1000)), made.ring.block_id(noise(1000, 1))])
        assert made.gets == 1


@pytest.mark.parametrize("order", [0, 1])
async def test_who_opens_and_is_cancelled_leaves_it_to_those_who_wait(tmp_path: Path, order: int) -> None:
    async with world(tmp_path, memory=0) as made:
        (block,) = await made.store(noise(1000))
        gate, get = trio.Event(), made.memory.get

        async def held(key: str, start: int = 0, length: int | None = None) -> bytes:
            await gate.wait()
            return await get(key, start, length)

        made.memory.get = held  # type: ignore[method-assign]
        results: list[bytes] = []
        scopes = [trio.CancelScope() for _ in range(3)]

        async def read(number: int) -> None:
            with scopes[number]:
                results.extend(await made.read(block))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(read, number)
                await wait_all_tasks_blocked()
            scopes[order].cancel()
            await wait_all_tasks_blocked()
            assert results == []
            gate.set()
        assert results == [noise(1000)] * 2


async def test_those_who_wait_share_a_failure(tmp_path: Path) -> None:
    """Or the last of many readers would wait for as many deadlines."""
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(1000))
        made.storage.partitioned = True
        failures: list[InfinitfsError] = []

        async def read() -> None:
            try:
                await made.read(block)
            except StorageUnreachable as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read)
        assert len(failures) == 10
        assert made.gets == 1
        made.storage.partitioned = False
        assert await made.read(block) == [noise(1000)]


async def test_a_failure_is_not_shared_with_who_wanted_another_block(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (good,) = await made.store(noise(1000))
        (bad,) = await made.store(noise(1000, 1))
        made.damage(bad)
        results: list[bytes] = []

        async def read_both() -> None:
            with pytest.raises(DamagedObject):
                await made.read(bad, good)

        async def read_good() -> None:
            results.extend(await made.read(good))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_both)
            nursery.start_soon(read_good)
        assert results == [noise(1000)]


async def test_a_pack_that_leaves_staging_between_the_look_and_the_read_is_found_in_the_cache(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.stage(noise(1000))
        pack = await made.publish()
        path, held = made.staging.path(pack), made.staging.holds

        def holds_once(pack: str) -> bool:
            """It did when it was asked, and then the publisher went on."""
            made.staging.holds = held  # type: ignore[method-assign]
            path.rename(tmp_path / "moved")
            return True

        made.staging.holds = holds_once  # type: ignore[method-assign]
        assert await made.read(block) == [noise(1000)]
        assert made.gets == 1


async def test_a_location_from_when_the_pack_was_open_is_refused_without_an_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The pack was closed, sent and moved since: the caller looks the block up again."""
    async with world(tmp_path) as made:
        (block,) = await made.stage(noise(1000))
        old = made.locate(block)
        pack = await made.publish()
        await made.cache.adopt(pack, made.staging.path(pack))
        with pytest.raises(DamagedObject):
            await made.reader.read(old)
        assert logged(caplog) == []
        assert await made.read(block) == [noise(1000)]


# --- parts of a block ---

SIZE = 5 * SEGMENT_SIZE + 77


async def test_a_part_of_a_block_is_read_without_the_rest(tmp_path: Path) -> None:
    plain = noise(SIZE)
    async with world(tmp_path) as made:
        (staged,) = await made.stage(plain, segmented=True)
        await made.publish()
        (stored,) = await made.store(noise(SIZE, 1), segmented=True)
        for block, content in ((staged, plain), (stored, noise(SIZE, 1))):
            for start, length in (
                (0, 1),
                (SEGMENT_SIZE - 1, 1),
                (SEGMENT_SIZE, 4096),
                (2 * SEGMENT_SIZE - 5, 4096),
                (SEGMENT_SIZE + 3, 3 * SEGMENT_SIZE),
                (SIZE - 1, 1),
                (0, SIZE),
            ):
                assert await made.read_part(block, start, length) == content[start : start + length]
        assert made.opened == [], "no whole frame"


async def test_segments_stay_in_memory(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(SIZE), segmented=True)
        await made.read_part(block, 0, 100)
        await made.read_part(block, SEGMENT_SIZE, 100)
        hits, misses = made.cache.hits, made.cache.misses
        assert await made.read_part(block, 2 * SEGMENT_SIZE - 10, 10) == noise(SIZE)[2 * SEGMENT_SIZE - 10 :][:10]
        assert (made.cache.hits, made.cache.misses) == (hits, misses)
        await made.read(block)
        assert await made.read_part(block, 4 * SEGMENT_SIZE, 9) == noise(SIZE)[4 * SEGMENT_SIZE :][:9]
        assert made.cache.hits == hits + 1, "the whole block is in memory"


async def test_what_the_kernel_has_in_memory_is_read_without_a_wait(tmp_path: Path) -> None:
    plain, text = noise(SIZE), b"text" * SEGMENT_SIZE
    async with world(tmp_path) as made:
        block, damaged, packed = (
            *await made.store(plain, noise(SIZE, 1), segmented=True),
            *await made.store(text, compressed=True),
        )
        made.damage(damaged, 20)
        for location in made.locate(block, damaged, packed):
            assert made.reader.read_now(location, 5, 10) is None, "it is not on this machine"
            await made.cache.prefetch(location.pack, location.pack_size, [(location.offset, location.length)])
        there, bad, whole = made.locate(block, damaged, packed)
        for start, length in ((5, 10), (SEGMENT_SIZE - 5, 10), (SEGMENT_SIZE, 2 * SEGMENT_SIZE + 1), (SIZE - 9, 9)):
            found = made.reader.read_now(there, start, length)
            assert found is not None and bytes(found) == plain[start : start + length]
        assert made.reader.read_now(bad, 5, 10) is None
        assert made.reader.read_now(whole, 5, 10) is None
        await made.read(packed)
        assert bytes(made.reader.read_now(whole, 5, 10) or b"") == text[5:15], "open"


async def test_what_was_not_sent_yet_is_read_without_a_wait_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, small = noise(SIZE), noise(1000)
    async with world(tmp_path) as made:
        block, damaged = await made.stage(plain, noise(SIZE, 1), segmented=True)
        (little,) = await made.stage(small)
        for location in made.locate(block, damaged, little):
            made.staging.read(location.pack, location.offset, location.length)  # the kernel has it
        there, bad, _ = made.locate(block, damaged, little)
        damage_file(made.staging.path(bad.pack), bad.offset + 20)

        def waits(*_: object) -> bytes:
            raise AssertionError("it was read where one may wait")

        monkeypatch.setattr(made.staging, "read", waits)
        for start, length in ((5, 10), (SEGMENT_SIZE - 5, 10), (SIZE - 9, 9)):
            found = made.reader.read_now(there, start, length)
            assert found is not None and bytes(found) == plain[start : start + length]
        assert await made.read(little) == [small]
        assert made.reader.read_now(bad, 5, 10) is None
        monkeypatch.undo()
        with pytest.raises(DamagedObject, match=bad.pack):
            await made.read(damaged)
        pack = await made.publish()
        await made.cache.adopt(pack, made.staging.path(pack))
        (moved,) = made.locate(block)
        found = made.reader.read_now(moved, SIZE - 5, 5)
        assert found is not None and bytes(found) == plain[-5:]


async def test_of_a_small_block_no_part_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frame is as long as one in segments would be, and is none."""
    async with world(tmp_path) as made:
        small = await made.store(*(noise(size, size) for size in (1, 1000, SEGMENT_SIZE)))

        def looks(*_: object) -> None:
            raise AssertionError("a segment was looked for")

        monkeypatch.setattr(made.cache, "read_now", looks)
        for block, location in zip(small, made.locate(*small), strict=True):
            assert made.reader.read_now(location, 0, 1) is None
            assert await made.read_part(block, 0, 1) is None
            assert await made.reader.read_joined([Part(location, 0, 1)]) is None
            assert await made.read(block) == [noise(location.size, location.size)]


async def test_parts_of_blocks_are_joined_where_they_are_to_be(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        contents = [noise(SIZE, seed) for seed in range(4)]
        blocks = [*await made.stage(*contents[:2], segmented=True)]
        await made.publish()
        blocks += await made.store(*contents[2:], segmented=True)
        locations = made.locate(*blocks)
        assert len({location.pack for location in locations}) == 2
        for start, length in ((0, SIZE), (SEGMENT_SIZE, SEGMENT_SIZE), (5, SIZE - 7), (2 * SEGMENT_SIZE - 1, 2)):
            parts = [Part(location, start, length) for location in locations]
            joined = await made.reader.read_joined(parts)
            assert joined is not None and bytes(joined) == b"".join(
                content[start : start + length] for content in contents
            )
        assert made.opened == [], "no whole frame"


async def test_a_pack_that_was_cut_short_is_logged_by_who_reads_the_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(SIZE), segmented=True)
        (location,) = made.locate(block)
        key = made.key(location.pack)
        made.memory.objects[key] = made.memory.objects[key][:-SEGMENT_SIZE]
        assert await made.reader.read_joined([Part(location, 0, SIZE)]) is None
        assert await made.read_part(block, SIZE - 10, 10) is None
        assert not logged(caplog)
        with pytest.raises(DamagedObject):
            await made.read(block)
        assert len(logged(caplog)) == 1


async def test_a_header_damaged_in_the_cache_is_not_kept(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(SIZE), segmented=True)
        (location,) = made.locate(block)
        await made.cache.prefetch(location.pack, location.pack_size, [(location.offset, location.length)])
        for path in made.cache_folder.rglob("*.0.*"):
            damage_file(path, HEADER_SIZE - 10)
        parts = [Part(location, 0, SIZE)]
        assert await made.reader.read_joined(parts) is None
        assert await made.read(block) == [noise(SIZE)], "from the storage"
        joined = await made.reader.read_joined(parts)
        assert joined is not None and bytes(joined) == noise(SIZE)


async def test_parts_are_not_joined_where_one_is_damaged_or_opens_whole_only(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        fine, damaged = await made.store(noise(SIZE), noise(SIZE, 1), segmented=True)
        (whole,) = await made.store(noise(SIZE, 2))
        made.damage(damaged, segment_span(sealed_size(SIZE, segmented=True), 2)[0] + 5)
        good, bad, other = (Part(location, 0, SIZE) for location in made.locate(fine, damaged, whole))
        assert await made.reader.read_joined([good, bad]) is None
        assert await made.reader.read_joined([good, other]) is None
        joined = await made.reader.read_joined([good])
        assert joined is not None and bytes(joined) == noise(SIZE)


async def test_what_does_not_open_in_part_is_left_to_a_reader_of_the_whole(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (whole,) = await made.stage(noise(SIZE))
        (text,) = await made.stage(b"text" * SEGMENT_SIZE, compressed=True)
        (both,) = await made.stage(noise(SIZE, 1), compressed=True, segmented=True)
        for block in (whole, text, both):
            assert await made.read_part(block, 0, 10) is None
        assert await made.read(whole, text, both) == [noise(SIZE), b"text" * SEGMENT_SIZE, noise(SIZE, 1)]


async def test_what_an_earlier_version_sealed_is_opened_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = noise(SIZE)
    async with world(tmp_path) as made:
        with monkeypatch.context() as earlier:
            earlier.setattr(frame_module, "SEGMENT_SIZE", 64 << 10)
            earlier.setattr(frame_module, "SEALED_SEGMENT_SIZE", (64 << 10) + TAG_SIZE)
            earlier.setattr(frame_module, "XAES_256_GCM_SEGMENTS", frame_module.XAES_256_GCM_LARGE_SEGMENTS)
            (block,) = await made.stage(plain, segmented=True)
            (location,) = made.locate(block)
            staged = made.staging.read(location.pack, location.offset, location.length)
            assert staged[5] == frame_module.XAES_256_GCM_LARGE_SEGMENTS
        await made.publish()
        (location,) = made.locate(block)
        for start, length in ((0, 10), (SEGMENT_SIZE - 5, 10), (2 * SEGMENT_SIZE, 10)):
            assert await made.read_part(block, start, length) is None
            assert await made.reader.read_joined([Part(location, start, length)]) is None
        assert await made.read(block) == [plain]
        assert await made.read_part(block, 70_000, 10) == plain[70_000:70_010], "open"
        assert not logged(caplog)


async def test_a_damaged_part_is_never_given_out(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        header, second, tag = await made.store(noise(SIZE), noise(SIZE, 1), noise(SIZE, 2), segmented=True)
        offset, length = segment_span(sealed_size(SIZE, segmented=True), 2)
        made.damage(header, 20)
        made.damage(second, offset + 5)
        made.damage(tag, offset + length - 1)
        assert await made.read_part(header, 0, 10) is None
        for seed, block in ((1, second), (2, tag)):
            assert await made.read_part(block, 0, 10) == noise(SIZE, seed)[:10], "its segment is as it was"
            assert await made.read_part(block, 2 * SEGMENT_SIZE, 10) is None
        for block in (header, second, tag):
            with pytest.raises(DamagedObject):
                await made.read(block)


async def test_a_part_damaged_in_the_cache_comes_from_the_storage(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        (block,) = await made.store(noise(SIZE), segmented=True)
        assert await made.read_part(block, 0, 10) == noise(SIZE)[:10]
        for path in made.cache_folder.rglob("*.0.*"):
            damage_file(path, HEADER_SIZE + SEGMENT_SIZE + 100)
        assert await made.read_part(block, SEGMENT_SIZE, 10) is None
        assert await made.read(block) == [noise(SIZE)]
