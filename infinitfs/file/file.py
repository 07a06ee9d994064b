"""One file: the bytes and times in memory that its stored extents do not have yet.

Above: `volume.Volume` keeps a `File` for every inode that is open or dirty, reads through `overlay` and commits what
a flush gives. Below: `dirty`, `extents`, and the forms of `block.batch`.
Invariant: the content of a file is its stored extents, under what flushes took and have not committed to their end, the
newer over the older, under `dirty`; each hides what is below it. Flushes end in the order in which they began. A core
without I/O: no await, no clock.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from infinitfs.block.batch import Ending, Piece, Request
from infinitfs.file.dirty import Bytes, DirtyRanges, Run
from infinitfs.file.extents import END, Edit, Extent
from infinitfs.file.readahead import ReadAhead

_CARRY = 4  # a provisional block is cut again once the bytes appended to it are a quarter of it


@dataclass(slots=True)
class _Flush:
    """What one took: bytes, as what requests, and those of their ranges that no intent has. From `clip` on the file was
    cut off since."""

    ranges: DirtyRanges
    requests: list[Request]
    fresh: list[tuple[int, int]] = field(default_factory=list)
    clip: int = END


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
        """What a flush in the background met; the next write or fsync reports it."""
        self._flushes: deque[_Flush] = deque()  # the oldest first
        self._last_end = -1
        self._fresh: list[tuple[int, int]] = []  # ranges, offset and end, that no intent has
        self._tail: tuple[int, bytes] | None = None

    @property
    def needs_flush(self) -> bool:
        """Whether anything of the file is in memory only."""
        return self.mtime is not None or self.ctime is not None or self.has_content

    @property
    def has_content(self) -> bool:
        """Whether any bytes of it are."""
        return self.dirty.total > 0 or bool(self._flushes)

    @property
    def bytes_in_memory(self) -> int:
        total = self.dirty.total
        for flush in self._flushes:
            total += flush.ranges.total
        return total

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
        for flush in self._flushes:
            flush.ranges.discard(size)
            flush.clip = min(flush.clip, size)
        if self._tail is not None and size < self._tail[0] + len(self._tail[1]):
            self._tail = None
        self.size = size

    def overlay(self, offset: int, length: int) -> list[tuple[int, Bytes]]:
        """The pieces of `[offset, offset + length)` that are in memory, to be laid over the stored ones in order."""
        layers = *(flush.ranges for flush in self._flushes), self.dirty
        return [piece for ranges in layers for piece in ranges.overlay(offset, length)]

    # --- an intent ---

    def take_fresh(self) -> list[tuple[int, int]]:
        """The ranges, as offset and end, in order and apart from one another, that were written since this was asked
        last and that are in memory only."""
        ranges = sorted([*self._fresh, *(span for flush in self._flushes for span in flush.fresh)])
        self._fresh = []
        for flush in self._flushes:
            flush.fresh = []
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
        return bool(self._fresh) or any(flush.fresh for flush in self._flushes)

    def put_back_fresh(self, ranges: Sequence[tuple[int, int]]) -> None:
        """No intent has them after all."""
        self._fresh.extend(ranges)

    def note_intended(self, number: int, times: tuple[int | None, int | None]) -> None:
        """The intent of this number is durable; they need not become so in their order."""
        if number > self._intent:
            self._intent, self.intended = number, times

    # --- a flush: begin, how it was cut, then its edits and its end, or abort; before it is cut no other begins

    def begin_flush(self, *, whole: bool) -> list[Request]:
        """Take the dirty ranges. Unless `whole`, the range that is being appended to keeps its tail in memory."""
        requests = [self._request(run, whole or run.end != self._last_end) for run in self.dirty.runs()]
        self._flushes.append(_Flush(self.dirty, requests, self._fresh))
        self.dirty, self._fresh = DirtyRanges(), []
        self.intended = None
        self.dirty_since = None
        return requests

    def _request(self, run: Run, final: bool) -> Request:
        tail = self._tail
        if tail is not None and tail[0] + len(tail[1]) == run.offset and run.length * _CARRY >= len(tail[1]):
            return Request(tail[0], (tail[1], *run.chunks), final)
        return Request(run.offset, run.chunks, final)

    def note_cut(self, endings: Sequence[Ending], now: float) -> None:
        """How the requests of the last flush were cut: their tails are dirty again."""
        flush = self._flushes[-1]
        for request, (tail, provisional) in zip(flush.requests, endings, strict=True):
            end = request.offset + request.length
            if tail:
                start = end - tail
                flush.ranges.discard(start, tail)
                if start < flush.clip:
                    self.dirty.put_under(start, request.last(tail)[: flush.clip - start])
                    self._fresh.append((start, end))
                    self._mark(now)
            elif end == self.size and end <= flush.clip:
                untouched = not self.dirty.overlay(end - provisional, provisional)
                self._tail = (end - provisional, request.last(provisional)) if provisional and untouched else None

    def edits(self, pieces: Iterable[Piece]) -> list[Edit]:
        """What has to become of the extent map now that these pieces of the oldest flush, in order, are stored."""
        clip = self._flushes[0].clip
        edits: list[Edit] = []
        begin = end = -1
        extents: list[Extent] = []
        for offset, length, block in pieces:
            if offset >= clip:
                break
            if offset != end:
                if end > begin:
                    edits.append(Edit(begin, end, tuple(extents)))
                begin, extents = offset, []
            end = min(offset + length, clip)
            if block is not None:
                extents.append(Extent(offset, end - offset, block, 0))
        if end > begin:
            edits.append(Edit(begin, end, tuple(extents)))
        return edits

    @property
    def last_flush(self) -> bool:
        """Whether memory has nothing of the file but what the oldest flush took."""
        return len(self._flushes) == 1 and not self.dirty

    def end_flush(self) -> None:
        """All that the oldest flush took is in the extent map."""
        self._flushes.popleft()

    def abort_flush(self, now: float) -> None:
        """The newest flush failed, and all that are older are to follow: what it took is dirty again, under what was
        written since."""
        flush = self._flushes.pop()
        for run in flush.ranges.runs():
            self.dirty.put_under(run.offset, b"".join(run.chunks))
        self._fresh += flush.fresh
        self._tail = None
        self._mark(now)

    def _mark(self, now: float) -> None:
        if self.dirty and self.dirty_since is None:
            self.dirty_since = now
