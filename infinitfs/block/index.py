"""What this package needs to know of the blocks of a volume.

Above: `volume/` implements `BlockIndex` over its namespace. Below: nothing.
Invariant: a block that the index finds is whole in its pack, in the staging folder or in the storage, and its pack
is not condemned.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class Location(NamedTuple):
    """Where a block lies: block number `block` with 32-byte id `id` and `size` plain bytes is the frame
    `[offset, offset + length)` of the pack `pack` (hex name), whose object is `pack_size` bytes (0 while it is open).
    """

    block: int
    id: bytes
    pack: str
    pack_size: int
    offset: int
    length: int
    size: int


class NewFrame(NamedTuple):
    """A frame that is on this machine's disk, in the staged pack `pack`, and not yet in the index."""

    id: bytes
    pack: str
    offset: int
    length: int
    size: int


class BlockIndex(Protocol):
    def find(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """The block numbers of those ids that the volume holds."""
        ...

    def add(self, frames: Sequence[NewFrame]) -> dict[bytes, int]:
        """Enter frames that were made durable; returns their block numbers by id."""
        ...

    def locate(self, blocks: Iterable[int]) -> dict[int, Location]:
        """Where blocks lie; one that was freed meanwhile is missing from the answer."""
        ...
