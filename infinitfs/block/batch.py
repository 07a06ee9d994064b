"""Batches: runs of bytes that are to become blocks, and how far they are cut.

Above: `writer`; `file.file`, which makes the requests and takes what became of them. Below: `cutting`.
Invariant: the pieces of a request and its tail are its bytes, in order. A core without I/O.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from infinitfs._native import gather, room
from infinitfs.block.cutting import Cutter
from infinitfs.storage.base import Buffer


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


class Ending(NamedTuple):
    """How a request that was cut ends: the bytes of its tail; and those of its last piece where the end of the request
    ended it instead of a cut point of the content, else 0."""

    tail: int
    provisional: int


Piece = tuple[int, int, int | None]
"""Offset in the file, length, and block number, None for zeros."""

Stored = tuple[Piece, ...]
"""What became of a request but its tail."""


class Cut:
    """A request that is cut window by window: the pieces until now, and the bytes behind the last of them."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.left = request.length
        self.pieces: list[tuple[int, bytes | None]] = []
        self._provisional = False
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
            self._provisional = not cutter(view[begin:], self._start + begin, False)
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
        if len(parts) == 1:
            return parts[0]
        window = room(sum(map(len, parts)))
        gather(window, parts)
        return window

    @property
    def ending(self) -> Ending:
        """Of all of it, once nothing is left."""
        return Ending(self._tail_length, self.pieces[-1][0] if self._provisional else 0)

    def stored(self, numbers: dict[bytes, int]) -> Stored:
        offset = self.request.offset
        pieces = []
        for length, id in self.pieces:
            pieces.append((offset, length, None if id is None else numbers[id]))
            offset += length
        return tuple(pieces)


def windows(cuts: Iterable[Cut], total: int) -> Iterator[list[tuple[Cut, int]]]:
    """What to cut next, and how many bytes of each: `total` in all, fewer at the end."""
    window: list[tuple[Cut, int]] = []
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
