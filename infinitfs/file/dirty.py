"""Dirty ranges: the bytes of a file that were written and not yet flushed.

Above: `file.file` overlays them on what is stored. Below: nothing; a core without I/O.
Invariant: chunks are sorted, do not overlap and are never empty; the bytes of a chunk never change (a later write
replaces it), so a flush may read them in a thread while new writes come in.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Run:
    """Adjacent dirty bytes: `chunks`, joined, start at `offset` and are `length` bytes long."""

    offset: int
    length: int
    chunks: tuple[Bytes, ...]

    @property
    def end(self) -> int:
        return self.offset + self.length


class DirtyRanges:
    """A sparse byte string, in memory. Offsets and lengths in bytes."""

    __slots__ = ("_chunks", "_starts", "total")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._chunks: list[Bytes] = []
        self.total = 0

    def __bool__(self) -> bool:
        return bool(self._starts)

    def write(self, offset: int, data: Bytes) -> None:
        """Put `data` at `offset`, over what was there."""
        if not data:
            return
        if self._starts and offset >= self._starts[-1] + len(self._chunks[-1]):
            self._starts.append(offset)  # an append: nothing to cut
            self._chunks.append(data)
        else:
            at = self.discard(offset, len(data))
            self._starts.insert(at, offset)
            self._chunks.insert(at, data)
        self.total += len(data)

    def discard(self, offset: int, length: int | None = None) -> int:
        """Forget `[offset, offset + length)`, all from `offset` on without a length. Returns where a chunk that
        starts at `offset` would be inserted."""
        first = bisect_right(self._starts, offset) - 1
        if first < 0 or self._starts[first] + len(self._chunks[first]) <= offset:
            first += 1
        if length is None:
            last, end = len(self._starts), None
        else:
            end = offset + length
            last = bisect_left(self._starts, end)
        kept_starts: list[int] = []
        kept_chunks: list[Bytes] = []
        at = first
        for i in range(first, last):
            start, chunk = self._starts[i], self._chunks[i]
            self.total -= len(chunk)
            if start < offset:
                kept_starts.append(start)
                kept_chunks.append(_part(chunk, 0, offset - start))
                self.total += offset - start
                at += 1
            if end is not None and start + len(chunk) > end:
                kept_starts.append(end)
                kept_chunks.append(_part(chunk, end - start, len(chunk)))
                self.total += start + len(chunk) - end
        self._starts[first:last] = kept_starts
        self._chunks[first:last] = kept_chunks
        return at

    def overlay(self, offset: int, length: int) -> list[tuple[int, Bytes]]:
        """The dirty pieces inside `[offset, offset + length)`, as (file offset, bytes), in order."""
        end = offset + length
        first = bisect_right(self._starts, offset) - 1
        if first < 0 or self._starts[first] + len(self._chunks[first]) <= offset:
            first += 1
        pieces: list[tuple[int, Bytes]] = []
        for i in range(first, len(self._starts)):
            start, chunk = self._starts[i], self._chunks[i]
            if start >= end:
                break
            lower, upper = max(start, offset), min(start + len(chunk), end)
            if upper - lower == len(chunk):
                pieces.append((lower, chunk))
            elif upper > lower:
                pieces.append((lower, memoryview(chunk)[lower - start : upper - start]))
        return pieces

    def runs(self) -> Iterator[Run]:
        """Adjacent chunks as one run each, in order."""
        i = 0
        while i < len(self._starts):
            start = end = self._starts[i]
            first = i
            while i < len(self._starts) and self._starts[i] == end:
                end += len(self._chunks[i])
                i += 1
            yield Run(start, end - start, tuple(self._chunks[first:i]))

    def put_under(self, offset: int, data: Bytes) -> None:
        """Put back bytes that a flush took and did not store, wherever nothing newer was written."""
        position, end = offset, offset + len(data)
        view = memoryview(data)
        newer = self.overlay(offset, len(data))
        for start, chunk in [*newer, (end, b"")]:
            if start > position:
                self.write(position, view[position - offset : start - offset])
            position = start + len(chunk)


def _part(chunk: Bytes, lower: int, upper: int) -> Bytes:
    """`chunk[lower:upper]`: a view, or a copy where a view would keep more than twice its bytes in memory."""
    view = memoryview(chunk)[lower:upper]
    return bytes(view) if 2 * len(view) < memoryview(view.obj).nbytes else view
