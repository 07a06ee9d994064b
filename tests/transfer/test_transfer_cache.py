"""The sealed disk cache, over a transfer that records what is asked of it."""

import errno
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from infinitfs.errors import DamagedObject, InfinitfsError, NoSpace, ObjectNotFound, StorageUnreachable
from infinitfs.storage.base import Buffer
from infinitfs.transfer import cache as module
from infinitfs.transfer.base import Listing
from infinitfs.transfer.cache import PackCache, open_cache
from infinitfs.transfer.files import inline
from infinitfs.transfer.runs import SECTOR

PACK = "ab" + "0" * 30
OTHER = "cd" + "0" * 30


def content(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def key_of(pack: str) -> str:
    return f"packs/{pack[:2]}/{pack}"


class RecordingTransfer:
    """A `Transfer` of packs. While `gate` is unset, downloads wait; `failures` are met first, in order."""

    def __init__(self, **sizes: int) -> None:
        self.objects = {key_of(pack): content(pack, size) for pack, size in sizes.items()}
        self.downloads: list[tuple[int, int]] = []
        self.gets: list[tuple[int, int | None]] = []
        self.failures: list[InfinitfsError] = []
        self.gate = trio.Event()
        self.gate.set()
        self.short = 0

    async def download(self, key: str, start: int, length: int, path: Path, *, whole: bool = False) -> None:
        assert whole == (length == len(self.objects.get(key, b"")))
        self.downloads.append((start, length))
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if key not in self.objects:
            raise ObjectNotFound(key=key, storage="test")
        write(path, self.objects[key][start : start + length - self.short])

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self.gets.append((start, length))
        await self.gate.wait()
        if key not in self.objects:
            raise ObjectNotFound(key=key, storage="test")
        return self.objects[key][start:][:length]

    async def upload(self, key: str, path: Path) -> None:
        raise NotImplementedError

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        raise NotImplementedError

    async def size(self, key: str) -> int:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    async def list(self, prefix: str) -> Listing:
        raise NotImplementedError


SIZE = 5 * SECTOR + 1000
DATA = content(PACK, SIZE)
SPANS = [(0, 10), (SECTOR - 5, 10), (5 * SECTOR, 1000), (7, 0), (0, SIZE)]


@pytest.fixture
def transfer() -> RecordingTransfer:
    return RecordingTransfer(**{PACK: SIZE, OTHER: SIZE})


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("**/*") if path.is_file())


def stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


async def sealed(cache: PackCache, size: int, spans: Sequence[tuple[int, int]], pack: str = PACK) -> list[bytes]:
    return await cache.read(pack, size, spans, lambda found: [bytes(each) for each in found], quick=True)


async def test_spans_come_from_the_storage_once_and_then_from_the_disk(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    expected = [DATA[offset : offset + length] for offset, length in SPANS]
    async with open_cache(tmp_path / "cache", 10 * SIZE, transfer, key_of) as cache:
        assert await sealed(cache, SIZE, SPANS) == expected
        assert await sealed(cache, SIZE, SPANS) == expected
        assert await sealed(cache, SIZE, SPANS[:2]) == expected[:2]  # warm: without a thread
        assert transfer.downloads == [(0, SIZE)]
        assert cache.used == stored(tmp_path) == SIZE
        assert (cache.hits, cache.misses) == (8, 4)  # an empty span is a hit


async def test_what_is_in_the_kernels_memory_is_read_at_once(tmp_path: Path, transfer: RecordingTransfer) -> None:
    async with open_cache(tmp_path / "cache", 10 * SIZE, transfer, key_of) as cache:
        assert cache.read_now(PACK, 5, 100) is None
        await cache.prefetch(PACK, SIZE, [(0, SIZE)])
        for offset, length in SPANS:
            assert cache.read_now(PACK, offset, length) == DATA[offset : offset + length]
        assert (cache.hits, cache.misses) == (len(SPANS), 0)
        assert cache.read_now(PACK, SIZE - 1, 2) is None, "beyond its end"
        os.truncate(files(tmp_path)[0], SECTOR)
        assert cache.read_now(PACK, SECTOR - 5, 10) is None, "cut short by somebody"
        await cache.drop(PACK, 0, SIZE)
        assert cache.read_now(PACK, 0, 1) is None
    async with open_cache(tmp_path / "cache", 10 * SIZE, transfer, key_of) as cache:
        await sealed(cache, SIZE, [(0, SIZE)])
    async with open_cache(tmp_path / "cache", 10 * SIZE, transfer, key_of) as cache:
        assert cache.read_now(PACK, 0, 1) is None, "a file of an earlier mount: to open it may wait for the disk"


async def test_no_more_files_stay_open_than_are_read_lately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN", 3)
    packs = [f"{number:032x}" for number in range(10)]
    transfer = RecordingTransfer(**dict.fromkeys(packs, 1000))

    def opened() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(os.fspath(tmp_path) in str(link.readlink()) for link in links if link.is_symlink())

    async with open_cache(tmp_path, 10_000, transfer, key_of, offload=inline) as cache:
        for pack in packs:
            await cache.prefetch(pack, 1000, [(0, 1000)])
            assert cache.read_now(pack, 0, 10) == content(pack, 1000)[:10]
        assert opened() == 3
        await cache.discard(packs[-1])
        assert opened() == 2
    assert opened() == 0


async def test_only_missing_sectors_are_fetched_and_adjacent_ones_in_one_request(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        await sealed(cache, SIZE, [(2 * SECTOR + 5, 10)])
        assert await sealed(cache, SIZE, [(5, SIZE - 5)]) == [DATA[5:]]
        assert sorted(transfer.downloads) == [
            (0, 2 * SECTOR),
            (2 * SECTOR, SECTOR),
            (3 * SECTOR, 2 * SECTOR + 1000),
        ]


async def test_a_request_is_not_longer_than_sixteen_sectors(tmp_path: Path) -> None:
    size = 20 * SECTOR
    transfer = RecordingTransfer(**{PACK: size})
    async with open_cache(tmp_path, 2 * size, transfer, key_of) as cache:
        assert await sealed(cache, size, [(0, size)]) == [content(PACK, size)]
    assert sorted(transfer.downloads) == [(0, 16 * SECTOR), (16 * SECTOR, 4 * SECTOR)]


async def test_concurrent_readers_of_a_sector_wait_for_one_request(tmp_path: Path, transfer: RecordingTransfer) -> None:
    transfer.gate = trio.Event()
    found: list[list[bytes]] = []

    async def read(offset: int) -> None:
        found.append(await sealed(cache, SIZE, [(offset, 10)]))

    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache, trio.open_nursery() as nursery:
        for offset in range(8):
            nursery.start_soon(read, offset)
        await wait_all_tasks_blocked()
        assert transfer.downloads == [(0, SECTOR)]
        transfer.gate.set()
    assert sorted(found) == sorted([DATA[offset : offset + 10]] for offset in range(8))


async def test_a_cancelled_reader_does_not_end_the_request_others_wait_for(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    transfer.gate = trio.Event()
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache, trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def cancelled() -> None:
            with first:
                await sealed(cache, SIZE, [(0, 10)])

        nursery.start_soon(cancelled)
        await wait_all_tasks_blocked()
        nursery.start_soon(sealed, cache, SIZE, [(5, 10)])
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        transfer.gate.set()
    assert first.cancelled_caught
    assert transfer.downloads == [(0, SECTOR)]


async def test_a_failed_request_wakes_all_who_wait_and_the_next_reader_tries_again(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    transfer.gate = trio.Event()
    transfer.failures = [StorageUnreachable(storage="s", reason="r")]
    failures = 0

    async def read() -> None:
        nonlocal failures
        try:
            await sealed(cache, SIZE, [(0, 10)])
        except StorageUnreachable:
            failures += 1

    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
            await wait_all_tasks_blocked()
            transfer.gate.set()
        assert failures == 3
        assert cache.used == 0
        assert await sealed(cache, SIZE, [(0, 10)]) == [DATA[:10]]


async def test_prefetch_brings_sectors_and_hides_failures(tmp_path: Path, transfer: RecordingTransfer) -> None:
    transfer.failures = [StorageUnreachable(storage="s", reason="r")]
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        await cache.prefetch(PACK, SIZE, [(0, 10)])
        assert cache.used == 0
        await cache.prefetch(PACK, SIZE, [(0, 10)])
        await cache.prefetch("ef00", SIZE, [(0, 10)])
        await cache.prefetch(PACK, SIZE, [(SIZE, 10)])
        assert cache.used == SECTOR
        await sealed(cache, SIZE, [(0, 10)])
        assert (cache.hits, cache.misses) == (1, 0)


async def test_the_least_recently_used_goes_first(tmp_path: Path, transfer: RecordingTransfer) -> None:
    async with open_cache(tmp_path, 3 * SECTOR, transfer, key_of) as cache:
        for sector in (0, 1, 2, 0, 3):
            await sealed(cache, SIZE, [(sector * SECTOR, 1)])
        await _settled(cache)
        assert cache.used == stored(tmp_path) == 3 * SECTOR
        transfer.downloads.clear()
        for sector in (0, 2, 3):
            await sealed(cache, SIZE, [(sector * SECTOR, 1)])
        assert transfer.downloads == []


async def _settled(cache: PackCache) -> None:
    with trio.fail_after(10):
        while cache.used > cache.limit:
            await trio.lowlevel.checkpoint()
        await cache.discard("")  # sweeps
        await wait_all_tasks_blocked(0.01)


async def test_what_is_being_read_is_not_evicted(tmp_path: Path, transfer: RecordingTransfer) -> None:
    async with open_cache(tmp_path, SECTOR, transfer, key_of, offload=inline) as cache:
        assert await sealed(cache, SIZE, [(0, 10), (2 * SECTOR, 10), (4 * SECTOR, 10)]) == [
            DATA[offset : offset + 10] for offset in (0, 2 * SECTOR, 4 * SECTOR)
        ]
        assert len(transfer.downloads) == 3
        await wait_all_tasks_blocked()
        assert cache.used == stored(tmp_path) == SECTOR


async def test_with_a_limit_of_nothing_reads_work_and_nothing_is_kept(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    async with open_cache(tmp_path, 0, transfer, key_of, offload=inline) as cache:
        for _ in range(2):
            assert await sealed(cache, SIZE, [(10, 10), (SIZE - 3, 3)]) == [DATA[10:20], DATA[-3:]]
        await cache.prefetch(PACK, SIZE, [(0, SIZE)])
        assert len(transfer.gets) == 4
        assert transfer.downloads == []
        assert cache.used == stored(tmp_path) == 0


async def test_the_next_mount_finds_what_this_one_left_in_its_order(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        for sector in range(3):
            await sealed(cache, SIZE, [(sector * SECTOR, 1)])
    for path, used in zip(files(tmp_path), (300, 100, 200), strict=True):
        os.utime(path, (used, 50))
    (tmp_path / "incoming" / "7").write_bytes(b"torn")
    (tmp_path / "ab" / "notes.txt").write_bytes(b"a stranger's")
    async with open_cache(tmp_path, 2 * SECTOR, transfer, key_of, offload=inline) as cache:
        await wait_all_tasks_blocked()
        assert cache.used == 2 * SECTOR
        assert not (tmp_path / "incoming" / "7").exists()
        assert (tmp_path / "ab" / "notes.txt").exists()
        transfer.downloads.clear()
        for sector in (0, 2):
            await sealed(cache, SIZE, [(sector * SECTOR, 1)])
        assert transfer.downloads == []
        await sealed(cache, SIZE, [(4 * SECTOR, 1)])  # under a name that no file ever had
        await wait_all_tasks_blocked()
        assert cache.used == 2 * SECTOR


async def test_a_file_torn_by_a_power_cut_counts_for_its_whole_sectors(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        await cache.prefetch(PACK, SIZE, [(0, 3 * SECTOR)])
    os.truncate(files(tmp_path)[0], SECTOR + 100)
    transfer.downloads.clear()
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        assert await sealed(cache, SIZE, [(0, 3 * SECTOR)]) == [DATA[: 3 * SECTOR]]
    assert transfer.downloads == [(SECTOR, 2 * SECTOR)]


@pytest.mark.parametrize(
    "harm", [lambda path: path.unlink(), lambda path: os.truncate(path, 5), lambda path: path.chmod(0)]
)
async def test_a_file_that_is_harmed_under_us_is_fetched_again(
    tmp_path: Path, transfer: RecordingTransfer, harm: Callable[[Path], None]
) -> None:
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        for _ in range(3):
            assert await sealed(cache, SIZE, [(10, 10)]) == [DATA[10:20]]
            harm(files(tmp_path)[0])
        assert await sealed(cache, SIZE, [(10, 10)]) == [DATA[10:20]]
        assert cache.used == SECTOR


async def test_a_cache_whose_folder_vanished_reads_from_the_storage(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    async with open_cache(tmp_path / "cache", 10 * SIZE, transfer, key_of) as cache:
        await sealed(cache, SIZE, [(10, 10)])
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache" / "incoming").mkdir(parents=True)
        (tmp_path / "cache" / "ab").write_bytes(b"no folder")
        assert await sealed(cache, SIZE, [(10, 10)]) == [DATA[10:20]]
        assert transfer.gets == [(0, SECTOR)]
        assert cache.used == 0


async def test_a_span_that_did_not_open_is_fetched_again_after_drop(
    tmp_path: Path, transfer: RecordingTransfer
) -> None:
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        for sector in (0, 2):
            await sealed(cache, SIZE, [(sector * SECTOR, 10)])
        files(tmp_path)[0].write_bytes(bytes(SECTOR))
        assert await sealed(cache, SIZE, [(10, 10)]) == [bytes(10)]
        await cache.drop(PACK, 10, 10)
        assert cache.used == stored(tmp_path) == SECTOR
        assert await sealed(cache, SIZE, [(10, 10)]) == [DATA[10:20]]
        await sealed(cache, SIZE, [(2 * SECTOR, 10)])
        assert transfer.downloads == [(0, SECTOR), (2 * SECTOR, SECTOR), (0, SECTOR)]


async def test_a_pack_that_was_sent_is_adopted(tmp_path: Path, transfer: RecordingTransfer) -> None:
    staged = tmp_path / "staged"
    staged.write_bytes(DATA)
    async with open_cache(tmp_path / "cache", 10 * SIZE, transfer, key_of) as cache:
        await sealed(cache, SIZE, [(0, 10)])
        await cache.adopt(PACK, staged)
        assert not staged.exists()
        assert await sealed(cache, SIZE, [(0, SIZE)]) == [DATA]
        assert cache.used == stored(tmp_path) == SIZE
        assert transfer.downloads == [(0, SECTOR)]
        await cache.discard(PACK)
        assert cache.used == stored(tmp_path) == 0


async def test_a_pack_adopted_while_its_sector_arrives(tmp_path: Path, transfer: RecordingTransfer) -> None:
    (tmp_path / "staged").write_bytes(DATA)
    transfer.gate = trio.Event()
    async with open_cache(tmp_path / "cache", 10 * SIZE, transfer, key_of) as cache:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sealed, cache, SIZE, [(0, 10)])
            await wait_all_tasks_blocked()
            await cache.adopt(PACK, tmp_path / "staged")
            assert await sealed(cache, SIZE, [(0, 10)]) == [DATA[:10]]
            transfer.gate.set()
        assert await sealed(cache, SIZE, [(5, 10)]) == [DATA[5:15]]
        assert cache.used == stored(tmp_path)


async def test_a_pack_on_another_filesystem_is_unlinked_and_not_adopted(
    tmp_path: Path, transfer: RecordingTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another device")

    staged = tmp_path / "staged"
    staged.write_bytes(DATA)
    async with open_cache(tmp_path / "cache", 10 * SIZE, transfer, key_of) as cache:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", refuse)
            await cache.adopt(PACK, staged)
        assert not staged.exists()
        assert cache.used == stored(tmp_path) == 0
        assert await sealed(cache, SIZE, [(0, 10)]) == [DATA[:10]]


async def test_a_full_disk_makes_room(tmp_path: Path, transfer: RecordingTransfer) -> None:
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        for sector in (0, 1):
            await sealed(cache, SIZE, [(sector * SECTOR, 1)])
        transfer.failures = [NoSpace(what="disk", remedy="free some")]
        assert await sealed(cache, SIZE, [(2 * SECTOR, 4)]) == [DATA[2 * SECTOR :][:4]]
        assert cache.used == stored(tmp_path) == 2 * SECTOR
        transfer.downloads.clear()
        await sealed(cache, SIZE, [(SECTOR, 2 * SECTOR)])
        assert transfer.downloads == []
        assert transfer.gets == []


async def test_a_disk_that_stays_full_is_read_past(tmp_path: Path, transfer: RecordingTransfer) -> None:
    transfer.failures = [NoSpace(what="disk", remedy="free some")] * 2
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        assert await sealed(cache, SIZE, [(3, 4)]) == [DATA[3:7]]
        assert transfer.gets == [(0, SECTOR)]
        assert cache.used == stored(tmp_path) == 0


async def test_a_short_download_is_a_damaged_object(tmp_path: Path, transfer: RecordingTransfer) -> None:
    transfer.short = 1
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        with pytest.raises(DamagedObject, match=key_of(PACK)):
            await sealed(cache, SIZE, [(0, 10)])
        assert cache.used == stored(tmp_path) == 0


async def test_a_span_past_the_end_of_its_pack_is_refused(tmp_path: Path, transfer: RecordingTransfer) -> None:
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
        with pytest.raises(DamagedObject, match=key_of(PACK)):
            await sealed(cache, SIZE, [(SIZE - 5, 6)])
    assert transfer.downloads == []


async def test_closing_ends_requests_on_their_way(tmp_path: Path, transfer: RecordingTransfer) -> None:
    transfer.gate = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, open_cache(tmp_path, 10 * SIZE, transfer, key_of) as cache:
            nursery.start_soon(cache.prefetch, PACK, SIZE, [(0, 10)])
            await wait_all_tasks_blocked()
            assert transfer.downloads == [(0, SECTOR)]


# --- any sequence of calls ---

_SIZES = {PACK: 40, OTHER: 33}
_packs = st.sampled_from(sorted(_SIZES))
_spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), min_size=1, max_size=3)
_read = st.tuples(st.just("read"), _packs, _spans)
_steps = st.lists(
    st.one_of(
        _read,
        st.tuples(st.just("burst"), st.lists(_read, min_size=2, max_size=4)),
        st.tuples(st.sampled_from(["prefetch", "drop"]), _packs, _spans),
        st.tuples(st.sampled_from(["adopt", "discard", "full"]), _packs),
        st.tuples(st.sampled_from(["unlink", "reopen"])),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(steps=_steps, limit=st.integers(0, 60))
def test_any_sequence_of_calls_reads_what_the_storage_has_within_the_limit(
    steps: list[tuple[object, ...]], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patched, TemporaryDirectory() as folder:
        patched.setattr("infinitfs.transfer.runs.SECTOR", 8)
        patched.setattr("infinitfs.transfer.cache.SECTOR", 8)
        trio.run(_play, Path(folder), steps, limit)


async def _play(folder: Path, steps: list[tuple[object, ...]], limit: int) -> None:
    transfer = RecordingTransfer(**_SIZES)
    rest = steps
    while rest:
        async with open_cache(folder / "cache", limit, transfer, key_of, offload=inline) as cache:
            while rest:
                step, rest = rest[0], rest[1:]
                if step == ("reopen",):
                    break
                await _step(cache, transfer, folder, step)
                await wait_all_tasks_blocked()
                transfer.failures.clear()
                on_disk = stored(folder / "cache")
                assert cache.used <= limit
                assert on_disk <= cache.used


async def _step(cache: PackCache, transfer: RecordingTransfer, folder: Path, step: tuple[object, ...]) -> None:
    match step:
        case ("read", str(pack), list(spans)):
            await _check_read(cache, transfer, pack, spans)
        case ("burst", list(reads)):
            async with trio.open_nursery() as nursery:
                for _, pack, spans in reads:
                    nursery.start_soon(_check_read, cache, transfer, pack, spans)
        case ("prefetch", str(pack), list(spans)):
            await cache.prefetch(pack, _SIZES[pack], spans)
        case ("drop", str(pack), list(spans)):
            for offset, length in spans:
                await cache.drop(pack, offset, length)
        case ("adopt", str(pack)):
            (folder / "staged").write_bytes(transfer.objects[key_of(pack)])
            await cache.adopt(pack, folder / "staged")
            assert not (folder / "staged").exists()
        case ("discard", str(pack)):
            await cache.discard(pack)
        case ("full", str(pack)):
            transfer.failures = [NoSpace(what="disk", remedy="free some")]
            await _check_read(cache, transfer, pack, [(0, 9)])
        case ("unlink",):
            for path in files(folder / "cache")[:1]:
                path.unlink()


async def _check_read(cache: PackCache, transfer: RecordingTransfer, pack: str, spans: list[tuple[int, int]]) -> None:
    spans = [(offset, min(length, _SIZES[pack] - offset)) for offset, length in spans]
    data = transfer.objects[key_of(pack)]
    expected = [data[offset : offset + length] for offset, length in spans]
    assert await sealed(cache, _SIZES[pack], spans, pack) == expected


class Disk:
    """One of `size` bytes that holds what is in `folder` and `others` bytes beside it."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.others = 0

    def spare(self) -> int:
        return self.size - self.others - stored(self.folder)


async def test_the_cache_gives_way_where_others_fill_its_disk(
    tmp_path: Path, transfer: RecordingTransfer, autojump_clock: MockClock
) -> None:
    disk = Disk(tmp_path, 2 * SIZE)
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of, offload=inline, spare=disk.spare) as cache:
        for pack in (PACK, OTHER):
            for sector in range(5):
                await sealed(cache, SIZE, [(sector * SECTOR, SECTOR)], pack)
        assert cache.used == stored(tmp_path) == 10 * SECTOR, "there is room"
        disk.others = disk.size - 4 * SECTOR
        await trio.sleep(5)  # nobody tells the cache
        assert cache.used == stored(tmp_path) == cache.limit == 4 * SECTOR, "no more than has to go"
        assert {path.name[:2] for path in files(tmp_path)} == {OTHER[:2]}, "the least recently used"
        disk.others += SECTOR
        cache.look_at_disk()
        await wait_all_tasks_blocked()
        assert cache.used == 3 * SECTOR, "told, it looks at once"
        disk.others = disk.size + SECTOR
        await trio.sleep(5)
        assert (cache.used, cache.limit) == (0, 0)
        assert await sealed(cache, SIZE, [(0, 10)]) == [DATA[:10]], "without a place on the disk"
        disk.others = 0
        await trio.sleep(5)
        await sealed(cache, SIZE, [(0, SIZE)])
        assert cache.used == SIZE, "there is room again"


async def test_a_growing_cache_stops_at_what_the_disk_spares(tmp_path: Path, transfer: RecordingTransfer) -> None:
    disk = Disk(tmp_path, 3 * SECTOR)
    async with open_cache(tmp_path, 10 * SIZE, transfer, key_of, offload=inline, spare=disk.spare) as cache:
        for sector in range(5):
            await sealed(cache, SIZE, [(sector * SECTOR, SECTOR)])
            await wait_all_tasks_blocked()
            assert stored(tmp_path) <= 4 * SECTOR, "one more than that, for the moment in which it arrives"
        cache.look_at_disk()
        await wait_all_tasks_blocked()
        assert cache.used == stored(tmp_path) == cache.limit == 3 * SECTOR
