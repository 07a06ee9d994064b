"""Runs of bytes become blocks in the staged pack.

Above: the volume's flush, which gives batches of runs of many files and commits what comes back. Below: `batch`,
`keys.ring` (ids, sealing), zstandard, `staging`.
Invariant: what `stored` returns refers only to blocks that are durable on this machine or in the storage. One stream of
batches at a time (the volume's flush lock): between the look-up of an id and the commit of the extents that use it, no
pack may be condemned. All work on bytes is in threads, where the offload says.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio
import zstandard

from infinitfs.block.batch import Cut, Request, Stored, windows
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


Block = tuple[bytes, Buffer]
"""Block id, bytes."""

Frame = tuple[bytes, int, Buffer]
"""Block id, plain size, sealed bytes."""


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

    @asynccontextmanager
    async def storing(self, at_progress: Callable[[], None]) -> AsyncIterator["Storing"]:
        """What is cut inside is durable once it is left. While one window is on its way to the disk the next is sealed,
        and the one after it cut, whichever batch they are of.

        Raises NoSpace or LocalDiskFailed; then nothing may refer to what `stored` has not returned.
        """
        async with together() as nursery:
            to_seal, blocks = trio.open_memory_channel[list[Block]](0)
            to_disk, sealed = trio.open_memory_channel[list[Frame]](0)
            storing = Storing(self, self._index, to_seal, at_progress)
            nursery.start_soon(self._seal_all, blocks, to_disk)
            nursery.start_soon(self._append_all, sealed, storing)
            async with to_seal:
                yield storing

    def windows(self, requests: Sequence[Cut]) -> Iterator[list[tuple[Cut, int]]]:
        """What to cut next, and how many bytes of each."""
        return windows(requests, max(_WINDOW, self._cutter.longest))

    async def cut(self, window: list[tuple[Cut, int]]) -> dict[bytes, Buffer]:
        """Cut the given number of bytes of each; returns the blocks that end there by their ids."""
        return await self._offload(partial(self._cut, window))

    async def _seal_all(
        self, blocks: trio.MemoryReceiveChannel[list[Block]], to_disk: trio.MemorySendChannel[list[Frame]]
    ) -> None:
        async with to_disk:
            async for some in blocks:
                await to_disk.send(await self._seal_in_threads(some))

    async def _append_all(self, sealed: trio.MemoryReceiveChannel[list[Frame]], storing: "Storing") -> None:
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
                    storing.hold(0)
                    if size >= room == self._pack_size:
                        await turns.acquire()
                        nursery.start_soon(self._append_pack, portion, storing, turns)
                    else:
                        await self._append(partial(self._staging.append, portion, full=size >= room), storing)
                    portion, size, room = [], 0, self._pack_size - self._staging.open_size
                storing.hold(len(portion))
            if portion:
                await self._append(partial(self._staging.append, portion), storing)

    async def _append_pack(self, portion: list[Frame], storing: "Storing", turns: trio.Semaphore) -> None:
        await self._append(partial(self._staging.append_pack, portion), storing)
        turns.release()

    async def _append(self, append: Callable[[], Awaitable[list[NewFrame]]], storing: "Storing") -> None:
        with trio.CancelScope(shield=True):  # what is on the disk gets known, whatever fails beside it
            written = await append()
            for some in _steps(written):
                storing.add(self._index.add(some))
                await trio.lowlevel.checkpoint()
            if self._staging.is_full(written[0].pack):
                self._at_full(written[0].pack)

    def _cut(self, window: list[tuple[Cut, int]]) -> dict[bytes, Buffer]:
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
        frames: list[Frame] = []
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


class Storing:
    """A stream of batches. `at_progress` is told whenever `busy` may have changed."""

    def __init__(
        self,
        writer: BlockWriter,
        index: BlockIndex,
        to_seal: trio.MemorySendChannel[list[Block]],
        at_progress: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._index = index
        self._to_seal = to_seal
        self._at_progress = at_progress
        self._seen: set[bytes] = set()
        self._numbers: dict[bytes, int] = {}  # of all that is durable
        self._added = trio.Event()
        self._sent = 0  # blocks that were not stored before: all of them,
        self._durable = 0
        self._held = 0  # those that wait for others to fill a pack with

    @property
    def busy(self) -> bool:
        """Whether anything that was cut gets durable though nothing is cut any more."""
        return self._sent > self._durable + self._held

    async def cut(self, requests: Sequence[Request]) -> list[Cut]:
        """Cut a batch to its end; those of its blocks that are not stored yet are on their way then. One at a time."""
        cuts: list[Cut] = []
        for part in _steps(requests):
            cuts += [Cut(request) for request in part]
            await trio.lowlevel.checkpoint()
        for window in self._writer.windows(cuts):
            blocks = await self._writer.cut(window)
            unknown = [id for id in blocks if id not in self._seen]
            for some in _steps(unknown):
                self._numbers |= self._index.find(some)
                await trio.lowlevel.checkpoint()
            new = [(id, blocks[id]) for id in unknown if id not in self._numbers]
            self._seen |= blocks.keys()
            if new:
                self._sent += len(new)
                await self._to_seal.send(new)
        return cuts

    def hold(self, count: int) -> None:
        """So many blocks wait for others."""
        self._held = count
        self._at_progress()

    def add(self, numbers: dict[bytes, int]) -> None:
        """Of blocks that got durable."""
        self._durable += len(numbers)
        self._numbers |= numbers
        self._added.set()
        self._added = trio.Event()
        self._at_progress()

    async def stored(self, cuts: Sequence[Cut]) -> list[Stored]:
        """What became of a batch, once all its blocks are durable."""
        stored: list[Stored] = []
        for some in _steps(cuts):
            for _, id in (piece for cut in some for piece in cut.pieces):
                while id is not None and id not in self._numbers:
                    await self._added.wait()
            stored += [cut.stored(self._numbers) for cut in some]
            await trio.lowlevel.checkpoint()
        return stored


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


def _steps(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of a batch that the event loop can look up, or enter, without making anybody wait."""
    return (items[start : start + _STEP] for start in range(0, len(items), _STEP))
