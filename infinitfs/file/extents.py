"""Extents: which block holds which range of a file.

Above: `file.file` plans reads with them, `volume/` keeps them as rows. Below: nothing; a core without I/O.
Invariant: the extents of a file are sorted, do not overlap and are never empty; a range that no extent covers is a
hole and reads as zeros.
"""

from collections.abc import Iterable
from typing import NamedTuple

END = 2**63 - 1
"""Behind the last byte that any file can have."""


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


def edited(old: Iterable[Extent], edits: Iterable[Edit]) -> list[Extent]:
    """What the extents `old` become; the edits are in ascending order, too, and do not overlap."""
    new: list[Extent] = []
    rest = iter(old)
    extent = next(rest, None)
    for edit in edits:
        while extent is not None and extent.offset < edit.end:
            if extent.offset < edit.offset:
                new.append(extent._replace(length=min(extent.end, edit.offset) - extent.offset))
            if extent.end > edit.end:
                cut = edit.end - extent.offset
                extent = Extent(edit.end, extent.length - cut, extent.block, extent.skip + cut)
            else:
                extent = next(rest, None)
        new += edit.extents
    while extent is not None:
        new.append(extent)
        extent = next(rest, None)
    return new
