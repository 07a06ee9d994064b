"""The block writer: what a batch becomes in real staged packs, and what is left of one that fails."""

import errno
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import pytest
import trio
import trio.testing
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.block import writer as writer_module
from infinitfs.block.batch import Request, Stored
from infinitfs.block.cutting import ContentCutter, Cutter, FixedCutter
from infinitfs.block.index import NewFrame
from infinitfs.block.pack import index_span, open_index
from infinitfs.block.staging import Staging
from infinitfs.block.writer import BlockWriter
from infinitfs.errors import LocalDiskFailed, NoSpace
from infinitfs.keys.frame import SEGMENT_SIZE, FrameType, sealed_size
from infinitfs.keys.ring import Purpose
from infinitfs.storage.base import Buffer
from infinitfs.transfer.files import Offload, Threads, inline
from tests.support.blocks import MemoryIndex, make_ring, make_staging

T = TypeVar("T")

KI = 2**10
SMALL = ContentCutter(random.Random(1).randbytes(2048), 1 * KI, 4 * KI, 16 * KI, 4 * KI)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Result(NamedTuple):
    """What became of a request."""

    pieces: Stored
    tail: int
    provisional: int


async def store(writer: BlockWriter, requests: Sequence[Request]) -> list[Result]:
    """One batch alone."""
    async with writer.storing(lambda: None) as storing:
        cuts = await storing.cut(requests)
    return [Result(one, *cut.ending) for cut, one in zip(cuts, await storing.stored(cuts), strict=True)]


class Writing:
    """A writer over real staging in `folder`, and what it said when a pack was closed."""

    def __init__(
        self, folder: Path, cutter: Cutter = SMALL, *, pack_size: int = 64 * KI, offload: Offload = inline
    ) -> None:
        self.ring = make_ring()
        self.index = MemoryIndex()
        self.staging: Staging = make_staging(folder, self.ring, offload)
        self.closed: list[tuple[str, int]] = []
        self.writer = BlockWriter(
            self.ring, cutter, self.index, self.staging, offload, pack_size=pack_size, at_full=self.close_full
        )

    def close_full(self, pack: str) -> None:
        self.index.sizes[pack] = self.staging.close_full(pack)
        self.closed.append((pack, self.index.sizes[pack]))

    async def store(self, *data: bytes) -> list[Result]:
        return await store(self.writer, [Request(0, (each,), True) for each in data])

    def sealed(self, frame: NewFrame) -> bytes:
        return self.staging.read(frame.pack, frame.offset, frame.length)

    def block(self, number: int) -> bytes:
        frame = self.index.frames[number]
        opened = self.ring.open(Purpose.DATA, FrameType.BLOCK, frame.id, self.sealed(frame))
        data = zstandard.ZstdDecompressor().decompress(opened.payload) if opened.compressed else bytes(opened.payload)
        assert len(data) == frame.size and self.ring.block_id(data) == frame.id
        return data

    def content(self, stored: Result) -> bytes:
        return b"".join(bytes(length) if block is None else self.block(block) for _, length, block in stored.pieces)


@pytest.fixture
def writing(tmp_path: Path) -> Writing:
    return Writing(tmp_path)


async def test_pieces_are_the_request_in_order(writing: Writing) -> None:
    data = noise(50 * KI)
    (stored,) = await store(writing.writer, [Request(12_345, (data,), True)])
    assert writing.content(stored) == data
    offsets = [offset for offset, _, _ in stored.pieces]
    lengths = [length for _, length, _ in stored.pieces]
    assert offsets == [12_345 + sum(lengths[:i]) for i in range(len(lengths))]
    assert len(lengths) > 3 and stored.tail == 0 and stored.provisional


@pytest.mark.parametrize("where", [0, 20 * KI, 40 * KI, 64 * KI - 10])
async def test_what_compresses_anywhere_among_the_samples_is_compressed(tmp_path: Path, where: int) -> None:
    """A block of noise with half of it text is not taken for noise, whichever half that is."""
    writing = Writing(tmp_path, FixedCutter(128 * KI), pack_size=KI * KI)
    data = bytearray(noise(128 * KI))
    data[where : where + 64 * KI] = (b"plain text " * 6000)[: 64 * KI]
    (stored,) = await writing.store(bytes(data))
    ((_, _, number),) = stored.pieces
    assert number is not None and writing.index.frames[number].length < 70 * KI
    assert writing.content(stored) == data


async def test_noise_is_not_compressed_to_find_that_out(tmp_path: Path) -> None:
    writing = Writing(tmp_path, FixedCutter(128 * KI), pack_size=KI * KI)
    asked = 0
    real = zstandard.ZstdCompressor

    class Counting:
        def __init__(self, **options: Any) -> None:
            self.compressor = real(**options)

        def compress(self, data: Buffer) -> bytes:
            nonlocal asked
            asked += len(data)
            return self.compressor.compress(data)

    with mock.patch.object(zstandard, "ZstdCompressor", Counting):
        (stored,) = await writing.store(noise(128 * KI))
    assert 0 < asked <= 32 * KI
    assert writing.content(stored) == noise(128 * KI)


async def test_what_no_cut_ended_is_the_tail(writing: Writing) -> None:
    data = noise(50 * KI)
    (stored,) = await store(writing.writer, [Request(0, (data,), False)])
    assert stored.tail > 0 and not stored.provisional
    assert writing.content(stored) == data[: -stored.tail]
    (rest,) = await store(writing.writer, [Request(len(data) - stored.tail, (data[-stored.tail :],), True)])
    (whole,) = await writing.store(data)
    assert [block for _, _, block in whole.pieces] == [block for _, _, block in stored.pieces + rest.pieces]


@pytest.mark.parametrize(
    ("data", "provisional"),
    [
        (noise(512), False),
        (noise(511), True),
        (noise(1024), False),
        (bytes(500), False),
        (noise(512) + bytes(5), False),
    ],
)
async def test_a_piece_is_provisional_where_the_end_of_the_request_ended_it(
    tmp_path: Path, data: bytes, provisional: bool
) -> None:
    writing = Writing(tmp_path, FixedCutter(512))
    (stored,) = await writing.store(data)
    assert stored.provisional == (len(data) % 512 if provisional else 0)


@pytest.mark.parametrize("cutter", [SMALL, FixedCutter(5 * KI)])
@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40 * KI), min_size=1, max_size=6),
    starts=st.lists(st.integers(0, 200 * KI), max_size=8),
    window=st.integers(1, 60 * KI),
    zeros=st.tuples(st.integers(0, 100 * KI), st.integers(0, 60 * KI)),
    final=st.booleans(),
)
def test_a_batch_is_cut_as_if_it_lay_in_one_place(
    cutter: Cutter, sizes: list[int], starts: list[int], window: int, zeros: tuple[int, int], final: bool
) -> None:
    """However many chunks and windows it comes in."""
    data = bytearray(noise(sum(sizes)))
    data[zeros[0] : sum(zeros)] = bytes(len(data[zeros[0] : sum(zeros)]))
    requests: list[Request] = []
    for size in sizes:
        whole, data = bytes(data[:size]), data[size:]
        ends = sorted({start for start in starts if start < size} | {size})
        chunks = tuple(whole[begin:end] for begin, end in pairwise([0, *ends]))
        requests.append(Request(len(requests) * 7, chunks, final))
    index, ring = MemoryIndex(), make_ring()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(writer_module, "_WINDOW", window):
        staging = make_staging(Path(folder), ring, inline)
        writer = BlockWriter(ring, cutter, index, staging, inline, pack_size=2**20, at_full=print)
        stored = trio.run(store, writer, requests)
        staging.close()
    for request, found in zip(requests, stored, strict=True):
        whole = b"".join(request.chunks)
        pieces = cutter(whole, request.offset, final)
        assert [length for _, length, _ in found.pieces] == [length for length, _ in pieces]
        assert [block is None for _, _, block in found.pieces] == [mark is None for _, mark in pieces]
        done = 0
        for _, length, block in found.pieces:
            if block is not None:
                assert index.frames[block].id == ring.block_id(whole[done : done + length])
            done += length
        assert found.tail == len(whole) - done and request.last(found.tail) == whole[done:]
        if found.pieces and found.pieces[-1][2] is not None:
            last = found.pieces[-1][1]
            early = final and not cutter(whole[-last:], request.offset + len(whole) - last, False)
            assert found.provisional == (last if early else 0)
        else:
            assert not found.provisional


async def test_zeros_are_stored_nowhere(writing: Writing) -> None:
    (stored,) = await writing.store(bytes(100 * KI))
    assert {block for _, _, block in stored.pieces} == {None}
    assert sum(length for _, length, _ in stored.pieces) == 100 * KI
    assert writing.staging.packs == 0


async def test_equal_content_in_a_batch_is_stored_once(writing: Writing) -> None:
    data = noise(30 * KI)
    first, second = await writing.store(data, data)
    assert first.pieces == second.pieces
    assert sum(frame.size for frame in writing.index.frames.values()) == len(data)


async def test_known_blocks_are_not_stored_again(writing: Writing) -> None:
    data = noise(30 * KI)
    (first,) = await writing.store(data)
    before = writing.staging.waiting
    (second,) = await writing.store(data)
    assert first.pieces == second.pieces
    assert writing.staging.waiting == before
    (third,) = await writing.store(data + noise(10 * KI, seed=1))
    assert third.pieces[: len(first.pieces) - 1] == first.pieces[:-1]


async def test_an_empty_batch_is_nothing(writing: Writing) -> None:
    assert await store(writing.writer, []) == []


async def test_what_compresses_is_smaller_and_what_does_not_stays_as_it_is(writing: Writing) -> None:
    text, random_bytes = b"all work and no play " * 500, noise(10_000)
    (first,) = await store(writing.writer, [Request(0, (text,), True)])
    (second,) = await store(writing.writer, [Request(0, (random_bytes,), True)])
    assert writing.content(first) == text and writing.content(second) == random_bytes
    flags = {}
    for number, frame in writing.index.frames.items():
        opened = writing.ring.open(Purpose.DATA, FrameType.BLOCK, frame.id, writing.sealed(frame))
        flags[number] = opened.compressed
        if not opened.compressed:
            assert frame.length == sealed_size(frame.size, segmented=frame.size > SEGMENT_SIZE)
    assert all(flags[block] for _, _, block in first.pieces if block is not None)
    assert not any(flags[block] for _, _, block in second.pieces if block is not None)
    assert writing.staging.waiting < len(random_bytes) * 1.2 + 1000


async def test_packs_end_at_their_size(tmp_path: Path) -> None:
    writing = Writing(tmp_path, FixedCutter(4 * KI), pack_size=20 * KI)
    stored = await writing.store(*(noise(10 * KI, seed) for seed in range(10)))
    assert [writing.content(each) for each in stored] == [noise(10 * KI, seed) for seed in range(10)]
    assert len(writing.closed) == 5
    for name, size in writing.closed:
        data = writing.staging.path(name).read_bytes()
        assert len(data) == size
        start, length = index_span(data, size)
        assert 20 * KI <= start < 25 * KI, "as soon as it is full, and not a frame later"
        entries = open_index(writing.ring, name, data[start : start + length])
        frames = [frame for frame in writing.index.frames.values() if frame.pack == name]
        assert [(e.id, e.offset, e.length, e.size) for e in entries] == [
            (f.id, f.offset, f.length, f.size) for f in frames
        ]


async def test_batches_of_a_stream_fill_packs_together(tmp_path: Path) -> None:
    """One is stored as soon as it is durable; what fills no pack waits for the next, or for the end."""
    writing = Writing(tmp_path, FixedCutter(4 * KI), pack_size=20 * KI)
    progress: list[bool] = []
    async with writing.writer.storing(lambda: progress.append(storing.busy)) as storing:
        first = await storing.cut([Request(0, (noise(28 * KI, 1),), True)])
        second = await storing.cut([Request(0, (noise(16 * KI, 2),), True), Request(0, (noise(8 * KI, 1),), True)])
        with trio.fail_after(5):
            (one,) = await storing.stored(first)
        await trio.testing.wait_all_tasks_blocked()
        assert not storing.busy and progress[-1] is False, "one block waits for others"
        assert len(writing.index.frames) == 10 and len(writing.closed) == 2
        with trio.move_on_after(0.05) as waiting:
            await storing.stored(second)
        assert waiting.cancelled_caught
    two, known = await storing.stored(second)
    assert [block for _, _, block in known] == [block for _, _, block in one][:2]
    for pieces, seed in ((one, 1), (two, 2)):
        data = noise(28 * KI if seed == 1 else 16 * KI, seed)
        assert b"".join(writing.block(block or 0) for _, _, block in pieces) == data


async def test_small_batches_fill_one_pack(writing: Writing) -> None:
    for seed in range(5):
        await writing.store(noise(2 * KI, seed))
    assert writing.staging.packs == 1 and writing.closed == []


async def test_threads_do_the_same(tmp_path: Path) -> None:
    """Enough for both halves: the order of frames is that of the requests."""
    data = [noise(200 * KI, seed) for seed in range(3)]
    writing = Writing(tmp_path, pack_size=300 * KI, offload=Threads(2))
    stored = await writing.store(*data)
    assert [writing.content(each) for each in stored] == data
    frames = [writing.index.frames[block] for each in stored for _, _, block in each.pieces if block]
    packs = list(dict.fromkeys(frame.pack for frame in frames))
    assert len(packs) > 2, "which were written beside one another"
    places = [(packs.index(frame.pack), frame.offset) for frame in frames]
    assert places == sorted(places)


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, NoSpace), (errno.EIO, LocalDiskFailed)])
async def test_what_was_not_made_durable_is_not_referred_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    """The disk fails at the third pack of a batch: what is in the index is what others hold."""
    writing = Writing(tmp_path, FixedCutter(4 * KI), pack_size=20 * KI)
    data = noise(100 * KI)
    whole, calls = os.pwritev, 0

    def fails_late(descriptor: int, buffers: list[bytes], offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:  # one call writes a pack
            raise OSError(code, os.strerror(code))
        return whole(descriptor, buffers, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", fails_late)
        with pytest.raises(error):
            await writing.store(data)
    assert len(writing.closed) in ((2,) if code == errno.EIO else (2, 3, 4)), "and those that were on their way"
    assert {frame.pack for frame in writing.index.frames.values()} == {name for name, _ in writing.closed}
    known = [writing.block(number) for number in writing.index.frames]
    assert all(block in data for block in known) and 0 < sum(map(len, known)) < len(data)
    assert writing.staging.open_size == 0


async def test_a_batch_that_failed_for_want_of_space_can_be_stored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(tmp_path, FixedCutter(4 * KI), pack_size=20 * KI)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(NoSpace):
            await writing.store(noise(50 * KI))
    assert writing.index.frames == {}
    (stored,) = await writing.store(noise(50 * KI))
    assert writing.content(stored) == noise(50 * KI)


async def test_a_full_pack_whose_frames_do_not_get_known_is_closed_with_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(tmp_path, FixedCutter(4 * KI), pack_size=20 * KI)

    def full(frames: object) -> dict[bytes, int]:
        raise NoSpace(what="the database", remedy="free some")

    with monkeypatch.context() as patched:
        patched.setattr(writing.index, "add", full)
        with pytest.raises(NoSpace):
            await writing.store(noise(20 * KI))
    assert writing.closed == [] and writing.staging.open_size == 0
    stored, _ = await writing.store(noise(20 * KI), noise(4 * KI, seed=1))
    assert writing.content(stored) == noise(20 * KI)
    ((second, _),) = writing.closed
    closed = await writing.staging.close_packs()
    assert len(closed) == 2 and second not in dict(closed), "it, and the open one"
    for name, size in closed:
        data = writing.staging.path(name).read_bytes()
        assert len(data) == size
        start, length = index_span(data, size)
        assert open_index(writing.ring, name, data[start : start + length])


async def test_packs_that_get_durable_beside_one_that_fails_are_known(tmp_path: Path) -> None:
    """What the disk holds is in the index, so that it gets sent, or given back, and nothing else is."""
    started, failed = 0, trio.Event()

    async def offload(call: Callable[[], T]) -> T:
        nonlocal started
        if "_append" not in repr(call):
            return call()
        started += 1
        number = started
        while started < 3:  # until three packs are on their way
            await trio.lowlevel.checkpoint()
        if number == 2:
            failed.set()
            raise NoSpace(what="the disk", remedy="free some")
        with trio.CancelScope(shield=True):
            await failed.wait()
        return call()

    writing = Writing(tmp_path, FixedCutter(4 * KI), pack_size=20 * KI, offload=offload)
    with pytest.raises(NoSpace):
        await writing.store(noise(200 * KI))
    assert len(writing.closed) == 2, "the first and the third"
    assert {frame.pack for frame in writing.index.frames.values()} == {name for name, _ in writing.closed}
    assert sorted(writing.staging.closed()) == sorted(names(tmp_path))
    for number in writing.index.frames:
        assert writing.block(number) in noise(200 * KI)
