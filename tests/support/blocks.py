"""Staged packs and a block index, as `block/` needs them, without a database.

Above: tests of `block/`. Below: `block.staging` on a real folder, `keys.ring` with a seeded source.
Invariant: everything is determined by the arguments.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from infinitfs.block.index import Location, NewFrame
from infinitfs.block.pack import seal_index
from infinitfs.block.staging import Staging
from infinitfs.keys.ring import KeyRing
from infinitfs.transfer.files import Offload, inline
from tests.support.randomness import seeded


class MemoryIndex:
    """A `BlockIndex`. `frames` by block number; `sizes` of the packs that are closed."""

    def __init__(self) -> None:
        self.frames: dict[int, NewFrame] = {}
        self.sizes: dict[str, int] = {}
        self._numbers: dict[bytes, int] = {}

    def find(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        return {id: self._numbers[id] for id in ids if id in self._numbers}

    def add(self, frames: Sequence[NewFrame]) -> dict[bytes, int]:
        for frame in frames:
            assert frame.id not in self._numbers, "a block is entered once"
            self._numbers[frame.id] = len(self._numbers) + 1
            self.frames[self._numbers[frame.id]] = frame
        return {frame.id: self._numbers[frame.id] for frame in frames}

    def locate(self, blocks: Iterable[int]) -> dict[int, Location]:
        found = {}
        for block in blocks:
            frame = self.frames[block]
            size = self.sizes.get(frame.pack, 0)
            found[block] = Location(block, frame.id, frame.pack, size, frame.offset, frame.length, frame.size)
        return found


def make_ring(seed: bytes = b"ring") -> KeyRing:
    return KeyRing.generate(seeded(seed))


def make_staging(folder: Path, ring: KeyRing, offload: Offload = inline) -> Staging:
    """Packs are named by their number, from 1 on."""
    numbers = count(1)
    return Staging(folder, lambda: f"{next(numbers):032x}", partial(seal_index, ring), offload)
