"""One file: the bytes and times in memory that its stored extents do not have yet.

Above: `volume.Volume` keeps a `File` for every inode that is open or dirty, reads through `overlay` and commits what
a flush gives. Below: `dirty`, `extents`, and the forms of `block.writer`.
Invariant: the content of a file is its stored extents, under `_flushing` (taken by a flush, not committed yet), under
`dirty`; each hides what is below it, and nothing is in two of them after `finish_flush`. A core without I/O: no await,
no clock.
"""

from collections.abc import Sequence

from infinitfs.block.writer import Request, Stored
from infinitfs.file.dirty import Bytes, DirtyRanges, Run
from infinitfs.file.extents import Edit, Extent
from infinitfs.file.readahead import ReadAhead

_CARRY = 4  # a provisional block is cut again once the bytes appended to it are a quarter of it


class File:
    """`size` in bytes as programs see it; `mtime` and `ctime` in nanoseconds where they are newer than stored."""

    def __init__(self, ino: int, size: int) -> None:
        self.ino = ino
        self.size = size
        self.opens = 0
        self.mtime: int | None = None
        self.ctime: int | None = None
        self.dirty = DirtyRanges()
        self.dirty_since: float | None = None
        self.intended: tuple[int | None, int | None] | None = None
        """The times that the last intent has."""
        self._intent = 0
        self.read_ahead = ReadAhead()
        self.error: Exception | None = None
        """What a flush in the background met; the next fsync or close reports it."""
        self._flushing: DirtyRanges | None = None
        self._requests: list[Request] = []
        self._clip = 0
        self._last_end = -1
        self._fresh: list[tuple[int, int]] = []  # ranges, offset and end, that no intent has
        self._fresh_flushing: list[tuple[int, int]] = []
        self._tail: tuple[int, bytes] | None = None

    @property
    def needs_flush(self) -> bool:
        """Whether anything of the file is in memory only."""
        return bool(self.dirty) or self._flushing is not None or self.mtime is not None or self.ctime is not None

    @property
    def bytes_in_memory(self) -> int:
        return self.dirty.total + (self._flushing.total if self._flushing else 0)

    @property
    def tail_bytes(self) -> int:
        """Bytes of the last block that are kept, stored as they are, to be cut again with what is appended to them."""
        return len(self._tail[1]) if self._tail is not None else 0

    def drop_tail(self) -> None:
        """Keep them no longer: what is appended starts a block of its own."""
        self._tail = None

    def write(self, offset: int, data: Bytes, now: float) -> None:
        """Put `data` at `offset`; `now` is any clock that `dirty_since` is compared with, in seconds."""
        if not data:
            return
        end = offset + len(data)
        if self._tail is not None and offset < self._tail[0] + len(self._tail[1]) and end > self._tail[0]:
            self._tail = None
        self.dirty.write(offset, data)
        self._fresh.append((offset, end))
        self._last_end = end
        self.size = max(self.size, end)
        if self.dirty_since is None:
            self.dirty_since = now

    def truncate(self, size: int) -> None:
        """The file is `size` bytes now; the caller cuts the stored extents in the same step."""
        self.dirty.discard(size)
        if self._flushing is not None:
            self._flushing.discard(size)
            self._clip = min(self._clip, size)
        if self._tail is not None and size < self._tail[0] + len(self._tail[1]):
            self._tail = None
        self.size = size

    def overlay(self, offset: int, length: int) -> list[tuple[int, Bytes]]:
        """The pieces of `[offset, offset + length)` that are in memory, to be laid over the stored ones in order."""
        pieces = self._flushing.overlay(offset, length) if self._flushing else []
        return pieces + self.dirty.overlay(offset, length)

    # --- an intent ---

    def take_fresh(self) -> list[tuple[int, int]]:
        """The ranges, as offset and end, in order and apart from one another, that were written since this was asked
        last and that are in memory only."""
        ranges = sorted(self._fresh_flushing + self._fresh)
        self._fresh, self._fresh_flushing = [], []
        merged: list[tuple[int, int]] = []
        for offset, end in ranges:
            if merged and offset <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((offset, end))
        return merged

    @property
    def fresh(self) -> bool:
        """Whether `take_fresh` has something to give."""
        return bool(self._fresh or self._fresh_flushing)

    def put_back_fresh(self, ranges: Sequence[tuple[int, int]]) -> None:
        """No intent has them after all."""
        self._fresh.extend(ranges)

    def note_intended(self, number: int, times: tuple[int | None, int | None]) -> None:
        """The intent of this number is durable; they need not become so in their order."""
        if number > self._intent:
            self._intent, self.intended = number, times

    # --- a flush: begin, then exactly one of finish and abort ---

    def begin_flush(self, *, whole: bool) -> list[Request]:
        """Take the dirty ranges. Unless `whole`, the range that is being appended to keeps its tail in memory."""
        taken, self.dirty = self.dirty, DirtyRanges()
        self._flushing = taken
        self._fresh, self._fresh_flushing = [], self._fresh
        self.intended = None
        self._clip = 2**63 - 1
        self.dirty_since = None
        self._requests = [self._request(run, whole or run.end != self._last_end) for run in taken.runs()]
        return self._requests

    def _request(self, run: Run, final: bool) -> Request:
        tail = self._tail
        if tail is not None and tail[0] + len(tail[1]) == run.offset and run.length * _CARRY >= len(tail[1]):
            return Request(tail[0], (tail[1], *run.chunks), final)
        return Request(run.offset, run.chunks, final)

    def finish_flush(self, stored: Sequence[Stored], now: float) -> list[Edit]:
        """The edits of the extent map that a stored flush asks for; tails are dirty again."""
        edits = []
        for request, result in zip(self._requests, stored, strict=True):
            end = min(request.offset + request.length - result.tail, self._clip)
            extents = tuple(
                Extent(offset, min(length, self._clip - offset), block, 0)
                for offset, length, block in result.pieces
                if block is not None and offset < self._clip
            )
            if end > request.offset:
                edits.append(Edit(request.offset, end, extents))
            self._keep_tail(request, result, now)
        self._flushing = None
        self._fresh_flushing = []
        self._requests = []
        return edits

    def _keep_tail(self, request: Request, result: Stored, now: float) -> None:
        end = request.offset + request.length
        if result.tail:
            start = end - result.tail
            if start < self._clip:
                self.dirty.put_under(start, request.last(result.tail)[: self._clip - start])
                self._fresh.append((start, end))
                self._mark(now)
        elif end == self.size and end <= self._clip:
            offset, length, _ = result.pieces[-1]
            untouched = not self.dirty.overlay(offset, length)
            self._tail = (offset, request.last(length)) if result.provisional and untouched else None

    def abort_flush(self, now: float) -> None:
        """The flush failed: what it took is dirty again, under what was written since."""
        if self._flushing is not None:
            for run in self._flushing.runs():
                self.dirty.put_under(run.offset, b"".join(run.chunks))
            self._flushing = None
            self._requests = []
            self._fresh += self._fresh_flushing
            self._fresh_flushing = []
            self._mark(now)

    def _mark(self, now: float) -> None:
        if self.dirty and self.dirty_since is None:
            self.dirty_since = now
