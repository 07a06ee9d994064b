"""Runs of bytes become blocks in the staged pack.

Above: the volume's flush, which gives one batch of runs of many files and commits what comes back. Below: `cutting`,
`keys.ring` (ids, sealing), zstandard, `staging`.
Invariant: what `store` returns refers only to blocks that are durable on this machine or in the storage. One batch at
a time (the volume's flush lock): between the look-up of an id and the commit of the extents that use it, no pack may
be condemned. All work on bytes is in threads, where the offload says.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import trio
import zstandard

from infinitfs.block.cutting import Cutter
from infinitfs.block.index import BlockIndex, NewFrame
from infinitfs.block.staging import Staging
from infinitfs.keys.frame import SEGMENT_SIZE, FrameType
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.storage.base import Buffer
from infinitfs.transfer.background import together
from infinitfs.transfer.files import Offload

COMPRESSION_LEVEL = 1
_WINDOW = 16 * 2**20
"""Bytes that are cut and sealed at a time; more where pieces are longer. What a thread hands over waits until another
wakes up: with 4 MiB large files came to 490 MB/s, with 16 to 530."""
_PORTION = 8 * 2**20  # bytes of frames that wait in memory for their pack
_BESIDE = 3  # whole packs on their way to the disk at a time
_STEP = 32  # blocks that the index is asked for, or told of, without letting another task run
_WORTH = 0.97  # a block that compresses to more than this share stays as it is: reading it is cheaper
_SAMPLES = 4  # of a block, evenly spread: where none of them gets smaller, the block is not tried
_SAMPLE = 8 * 1024  # bytes

T = TypeVar("T")


class Request(NamedTuple):
    """`chunks`, one behind the other, at `offset` of a file. Without `final` the piece that no cut point ended comes
    back as the tail."""

    offset: int
    chunks: tuple[Buffer, ...]
    final: bool

    @property
    def length(self) -> int:
        return sum(map(len, self.chunks))

    def last(self, length: int) -> bytes:
        """The last `length` bytes."""
        parts: list[Buffer] = []
        for chunk in reversed(self.chunks):
            if not length:
                break
            parts.append(memoryview(chunk)[-length:])
            length -= len(parts[-1])
        return b"".join(reversed(parts))


class Stored(NamedTuple):
    """What became of a request: (offset, length, block number) a piece, None for zeros; the tail's length in bytes;
    and whether the last piece was ended by the end of the request instead of a cut point of the content."""

    pieces: tuple[tuple[int, int, int | None], ...]
    tail: int
    provisional: bool


Block = tuple[bytes, Buffer]
"""Block id, bytes."""

Frame = tuple[bytes, int, bytes]
"""Block id, plain size, sealed bytes."""


class _Cut:
    """A request that is cut window by window: the pieces until now, and the bytes behind the last of them."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.left = request.length
        self.pieces: list[tuple[int, bytes | None]] = []
        self.provisional = False
        self._chunks = iter(request.chunks)
        self._chunk = memoryview(b"")
        self._start = request.offset
        self._tail = memoryview(b"")
        self._tail_length = 0

    def go_on(self, size: int, cutter: Cutter, block_id: Callable[[Buffer], bytes]) -> dict[bytes, Buffer]:
        """Cut the next `size` bytes; returns the blocks that end there by their ids."""
        window = self._next(size)
        final = self.request.final and not self.left
        view, done = memoryview(window), 0
        pieces = cutter(window, self._start, final)
        blocks: dict[bytes, Buffer] = {}
        for length, fingerprint in pieces:
            data = view[done : done + length]
            id = None if fingerprint is None else block_id(data)
            self.pieces.append((length, id))
            done += length
            if id is not None:
                blocks[id] = data
        if final and pieces and pieces[-1][1] is not None:
            # The last piece would have gone on, had there been more bytes.
            begin = done - pieces[-1][0]
            self.provisional = not cutter(view[begin:], self._start + begin, False)
        self._start += done
        self._tail_length = len(view) - done
        self._tail = view[done:] if self.left else memoryview(b"")
        return blocks

    def _next(self, size: int) -> Buffer:
        """The tail and `size` bytes more, copied only where they are not in one place."""
        parts: list[Buffer] = [self._tail] if self._tail else []
        self.left -= size
        while size:
            if not self._chunk:
                self._chunk = memoryview(next(self._chunks))
            parts.append(self._chunk[:size])
            self._chunk = self._chunk[size:]
            size -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def stored(self, numbers: dict[bytes, int]) -> Stored:
        offset = self.request.offset
        pieces = []
        for length, id in self.pieces:
            pieces.append((offset, length, None if id is None else numbers[id]))
            offset += length
        return Stored(tuple(pieces), self._tail_length, self.provisional)


class BlockWriter:
    """`pack_size` in bytes: a pack that has reached it is full, and `at_full` is told of it."""

    def __init__(
        self,
        ring: KeyRing,
        cutter: Cutter,
        index: BlockIndex,
        staging: Staging,
        offload: Offload,
        *,
        pack_size: int,
        at_full: Callable[[str], None],
    ) -> None:
        self._ring = ring
        self._cutter = cutter
        self._index = index
        self._staging = staging
        self._offload = offload
        self._pack_size = pack_size
        self._at_full = at_full

    async def store(self, requests: Sequence[Request]) -> list[Stored]:
        """Store a batch. Raises NoSpace or LocalDiskFailed with nothing of the batch referred to.

        While one window is on its way to the disk the next is sealed, and the one after it cut.
        """
        cuts = [_Cut(request) for request in requests]
        numbers: dict[bytes, int] = {}
        async with together() as nursery:
            to_seal, blocks = trio.open_memory_channel[list[Block]](0)
            to_disk, sealed = trio.open_memory_channel[list[Frame]](0)
            nursery.start_soon(self._seal_all, blocks, to_disk)
            nursery.start_soon(self._append_all, sealed, numbers)
            await self._cut_all(cuts, to_seal, numbers)
        return [cut.stored(numbers) for cut in cuts]

    async def _cut_all(
        self, cuts: list[_Cut], to_seal: trio.MemorySendChannel[list[Block]], numbers: dict[bytes, int]
    ) -> None:
        """Blocks out of the batch, and of them those that are not stored yet."""
        seen: set[bytes] = set()
        async with to_seal:
            for window in _windows(cuts, max(_WINDOW, self._cutter.longest)):
                blocks = await self._offload(partial(self._cut, window))
                found: dict[bytes, int] = {}
                for some in _steps([id for id in blocks if id not in seen]):
                    found |= self._index.find(some)
                    await trio.lowlevel.checkpoint()
                new = [(id, data) for id, data in blocks.items() if id not in seen and id not in found]
                numbers |= found
                seen |= blocks.keys()
                if new:
                    await to_seal.send(new)

    async def _seal_all(
        self, blocks: trio.MemoryReceiveChannel[list[Block]], to_disk: trio.MemorySendChannel[list[Frame]]
    ) -> None:
        async with to_disk:
            async for some in blocks:
                await to_disk.send(await self._seal_in_threads(some))

    async def _append_all(self, sealed: trio.MemoryReceiveChannel[list[Frame]], numbers: dict[bytes, int]) -> None:
        """Frames into packs, with one sync a pack where there are enough; whole packs beside one another."""
        portion: list[Frame] = []
        size, room = 0, self._pack_size - self._staging.open_size
        turns = trio.Semaphore(_BESIDE)
        async with together() as nursery:
            async for frames in sealed:
                for frame in frames:
                    portion.append(frame)
                    size += len(frame[2])
                    if size < min(room, _PORTION):
                        continue
                    if size >= room == self._pack_size:
                        await turns.acquire()
                        nursery.start_soon(self._append_pack, portion, numbers, turns)
                    else:
                        await self._append(partial(self._staging.append, portion, full=size >= room), numbers)
                    portion, size, room = [], 0, self._pack_size - self._staging.open_size
            if portion:
                await self._append(partial(self._staging.append, portion), numbers)

    async def _append_pack(self, portion: list[Frame], numbers: dict[bytes, int], turns: trio.Semaphore) -> None:
        await self._append(partial(self._staging.append_pack, portion), numbers)
        turns.release()

    async def _append(self, append: Callable[[], Awaitable[list[NewFrame]]], numbers: dict[bytes, int]) -> None:
        with trio.CancelScope(shield=True):  # what is on the disk gets known, whatever fails beside it
            written = await append()
            for some in _steps(written):
                numbers |= self._index.add(some)
                await trio.lowlevel.checkpoint()
            if self._staging.is_full(written[0].pack):
                self._at_full(written[0].pack)

    def _cut(self, window: list[tuple[_Cut, int]]) -> dict[bytes, Buffer]:
        """Cut the given number of bytes of each; returns the blocks that end there by their ids."""
        blocks: dict[bytes, Buffer] = {}
        for cut, size in window:
            blocks |= cut.go_on(size, self._cutter, self._ring.block_id)
        return blocks

    async def _seal_in_threads(self, blocks: list[Block]) -> list[Frame]:
        """Compress and seal, in two threads where there is enough to share."""
        if len(blocks) == 1 or sum(len(data) for _, data in blocks) < 256 * 1024:
            return await self._offload(partial(self._seal, blocks))
        halves: list[list[Frame]] = [[], []]
        middle = (len(blocks) + 1) // 2

        async def seal(half: int, part: list[Block]) -> None:
            halves[half] = await self._offload(partial(self._seal, part))

        async with together() as nursery:
            nursery.start_soon(seal, 0, blocks[:middle])
            nursery.start_soon(seal, 1, blocks[middle:])
        return halves[0] + halves[1]

    def _seal(self, blocks: list[Block]) -> list[Frame]:
        compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=False)
        frames = []
        for id, data in blocks:
            payload = _smaller(compressor, data)
            compressed = payload is not data
            # Of what is compressed no part can be read alone.
            segmented = not compressed and len(data) > SEGMENT_SIZE
            frame = self._ring.seal(
                Purpose.DATA, FrameType.BLOCK, id, payload, compressed=compressed, segmented=segmented
            )
            frames.append((id, len(data), frame))
        return frames


def _smaller(compressor: zstandard.ZstdCompressor, data: Buffer) -> Buffer:
    """`data` compressed, or itself where that is not worth it. To find it out for the whole of what does not compress
    takes longer than to seal it."""
    if len(data) > 2 * _SAMPLES * _SAMPLE:
        view = memoryview(data)
        apart = (len(data) - _SAMPLE) // (_SAMPLES - 1)
        samples = (view[start : start + _SAMPLE] for start in range(0, len(data) - _SAMPLE + 1, apart))
        if not any(len(compressor.compress(sample)) < _SAMPLE * _WORTH for sample in samples):
            return data
    smaller = compressor.compress(data)
    return smaller if len(smaller) < len(data) * _WORTH else data


def _windows(cuts: Iterable[_Cut], total: int) -> Iterator[list[tuple[_Cut, int]]]:
    """What to cut next, and how many bytes of each: `total` in all, fewer at the end."""
    window: list[tuple[_Cut, int]] = []
    room = total
    for cut in cuts:
        while cut.left:
            size = min(cut.left, room)
            window.append((cut, size))
            room -= size
            if not room:
                yield window
                window, room = [], total
            elif size == cut.left:
                break
    if window:
        yield window


def _steps(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of a batch that the event loop can look up, or enter, without making anybody wait."""
    return (items[start : start + _STEP] for start in range(0, len(items), _STEP))
