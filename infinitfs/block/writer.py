"""Runs of bytes become blocks in the staged pack.

Above: the volume's flush, which gives one batch of runs of many files and commits what comes back. Below: `cutting`,
`keys.ring` (ids, sealing), zstandard, `staging`.
Invariant: what `store` returns refers only to blocks that are durable on this machine or in the storage. One batch at
a time (the volume's flush lock): between the look-up of an id and the commit of the extents that use it, no pack may
be condemned. All work on bytes is in threads, where the offload says.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import trio
import zstandard

from infinitfs.block.cutting import Cutter, Piece
from infinitfs.block.index import BlockIndex
from infinitfs.block.staging import Staging
from infinitfs.keys.frame import SEGMENT_SIZE, FrameType
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.transfer.background import together
from infinitfs.transfer.files import Offload

COMPRESSION_LEVEL = 1
_STEP = 32  # blocks that the index is asked for, or told of, without letting another task run
_WORTH = 0.97  # a block that compresses to more than this share stays as it is: reading it is cheaper

T = TypeVar("T")


class Request(NamedTuple):
    """`data` at `offset` of a file. Without `final` the piece that no cut point ended comes back as the tail."""

    offset: int
    data: bytes
    final: bool


class Stored(NamedTuple):
    """What became of a request: (offset, length, block number) a piece, None for zeros; the tail's length in bytes;
    and whether the last piece was ended by the end of the request instead of a cut point of the content."""

    pieces: tuple[tuple[int, int, int | None], ...]
    tail: int
    provisional: bool


Frame = tuple[bytes, int, bytes]
"""Block id, plain size, sealed bytes."""


class _Cut(NamedTuple):
    pieces: list[Piece]
    ids: list[bytes | None]
    provisional: bool


class BlockWriter:
    """`pack_size` in bytes: a pack that has reached it is ended with `close_pack`."""

    def __init__(
        self,
        ring: KeyRing,
        cutter: Cutter,
        index: BlockIndex,
        staging: Staging,
        offload: Offload,
        *,
        pack_size: int,
        close_pack: Callable[[], Awaitable[None]],
    ) -> None:
        self._ring = ring
        self._cutter = cutter
        self._index = index
        self._staging = staging
        self._offload = offload
        self._pack_size = pack_size
        self._close_pack = close_pack

    async def store(self, requests: Sequence[Request]) -> list[Stored]:
        """Store a batch. Raises NoSpace or LocalDiskFailed with nothing of the batch referred to."""
        cuts = await self._offload(partial(self._cut, requests))
        ids = {id for cut in cuts for id in cut.ids if id is not None}
        known: dict[bytes, int] = {}
        for some in _steps(list(ids)):
            known |= self._index.find(some)
            await trio.lowlevel.checkpoint()
        new: dict[bytes, memoryview] = {}
        for request, cut in zip(requests, cuts, strict=True):
            view, start = memoryview(request.data), 0
            for (length, _), id in zip(cut.pieces, cut.ids, strict=True):
                if id is not None and id not in known and id not in new:
                    new[id] = view[start : start + length]
                start += length
        if new:
            for frames in self._portions(await self._seal_all(list(new.items()))):
                for written in _steps(await self._staging.append(frames)):
                    known |= self._index.add(written)
                    await trio.lowlevel.checkpoint()
                if self._staging.open_size >= self._pack_size:
                    await self._close_pack()
        return [self._stored(request, cut, known) for request, cut in zip(requests, cuts, strict=True)]

    def _portions(self, frames: list[Frame]) -> Iterator[list[Frame]]:
        """What fits into the open pack, then into the next ones."""
        portion: list[Frame] = []
        room = self._pack_size - self._staging.open_size
        for frame in frames:
            portion.append(frame)
            room -= len(frame[2])
            if room <= 0:
                yield portion
                portion, room = [], self._pack_size
        if portion:
            yield portion

    def _cut(self, requests: Sequence[Request]) -> list[_Cut]:
        """Cut points and ids of a batch."""
        cuts = []
        for request in requests:
            pieces = self._cutter(request.data, request.offset, request.final)
            view, start = memoryview(request.data), 0
            ids: list[bytes | None] = []
            for length, fingerprint in pieces:
                ids.append(None if fingerprint is None else self._ring.block_id(view[start : start + length]))
                start += length
            cuts.append(_Cut(pieces, ids, request.final and self._ends_early(request, pieces)))
        return cuts

    def _ends_early(self, request: Request, pieces: list[Piece]) -> bool:
        """Whether the last piece would have gone on, had there been more bytes."""
        if not pieces or pieces[-1][1] is None:
            return False
        length = pieces[-1][0]
        start = len(request.data) - length
        return not self._cutter(request.data[start:], request.offset + start, False)

    async def _seal_all(self, blocks: list[tuple[bytes, memoryview]]) -> list[Frame]:
        """Compress and seal, in two threads where there is enough to share."""
        if len(blocks) == 1 or sum(len(data) for _, data in blocks) < 256 * 1024:
            return await self._offload(partial(self._seal, blocks))
        halves: list[list[Frame]] = [[], []]
        middle = (len(blocks) + 1) // 2

        async def seal(half: int, part: list[tuple[bytes, memoryview]]) -> None:
            halves[half] = await self._offload(partial(self._seal, part))

        async with together() as nursery:
            nursery.start_soon(seal, 0, blocks[:middle])
            nursery.start_soon(seal, 1, blocks[middle:])
        return halves[0] + halves[1]

    def _seal(self, blocks: list[tuple[bytes, memoryview]]) -> list[Frame]:
        compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=False)
        frames = []
        for id, data in blocks:
            smaller = compressor.compress(data)
            compressed = len(smaller) < len(data) * _WORTH
            payload = smaller if compressed else data
            # Of what is compressed no part can be read alone.
            segmented = not compressed and len(data) > SEGMENT_SIZE
            frame = self._ring.seal(
                Purpose.DATA, FrameType.BLOCK, id, payload, compressed=compressed, segmented=segmented
            )
            frames.append((id, len(data), frame))
        return frames

    def _stored(self, request: Request, cut: _Cut, known: dict[bytes, int]) -> Stored:
        offset = request.offset
        pieces = []
        for (length, _), id in zip(cut.pieces, cut.ids, strict=True):
            pieces.append((offset, length, None if id is None else known[id]))
            offset += length
        return Stored(tuple(pieces), request.offset + len(request.data) - offset, cut.provisional)


def _steps(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of a batch that the event loop can look up, or enter, without making anybody wait."""
    return (items[start : start + _STEP] for start in range(0, len(items), _STEP))
