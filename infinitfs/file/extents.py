"""Extents: which block holds which range of a file.

Above: `file.file` plans reads with them, `volume/` keeps them as rows. Below: nothing; a core without I/O.
Invariant: the extents of a file are sorted, do not overlap and are never empty; a range that no extent covers is a
hole and reads as zeros.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Extent(NamedTuple):
    """`length` bytes of the file at `offset` are bytes `[skip, skip + length)` of block number `block`."""

    offset: int
    length: int
    block: int
    skip: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Edit(NamedTuple):
    """A change of an extent map: `[offset, end)` of the file becomes what `extents` says, holes in between."""

    offset: int
    end: int
    extents: tuple[Extent, ...]


def remainders(old: Iterable[Extent], offset: int, end: int) -> list[Extent]:
    """What is left of the extents `old` when `[offset, end)` is cut out of them."""
    kept = []
    for extent in old:
        if extent.offset < offset:
            kept.append(extent._replace(length=min(extent.end, offset) - extent.offset))
        if extent.end > end:
            cut = max(end - extent.offset, 0)
            kept.append(Extent(extent.offset + cut, extent.length - cut, extent.block, extent.skip + cut))
    return kept
