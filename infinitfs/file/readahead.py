"""How far ahead of a reader to fetch.

Above: `file.File` has one, the volume's read asks it. Below: nothing; a core without I/O.
Invariant: nothing is advised twice to a reader that goes forward, and a random reader is advised nothing.
"""

FIRST = 2 * 2**20
LARGEST = 32 * 2**20


class ReadAhead:
    """The window doubles with every sequential step from `FIRST` to `LARGEST` bytes and is lost at a jump."""

    __slots__ = ("_ahead", "_next", "_window")

    def __init__(self) -> None:
        self._next = 0
        self._ahead = 0
        self._window = 0

    def advise(self, offset: int, length: int, size: int) -> tuple[int, int] | None:
        """After a read of `[offset, offset + length)` of a file of `size` bytes: the range to fetch, if any.

        Kernel read-ahead and parallel readers arrive slightly out of order, so a step is sequential where it starts
        within one window of the last one's end.
        """
        slack = max(self._window // 2, length)
        sequential = abs(offset - self._next) <= slack
        self._next = offset + length
        if not sequential:
            self._window = self._ahead = 0
            return None
        if self._window == 0:
            self._window = FIRST
        start = max(self._ahead, offset + length)
        if start - (offset + length) > self._window // 2 or start >= size:
            return None
        self._ahead = min(offset + length + self._window, size)
        self._window = min(self._window * 2, LARGEST)
        return (start, self._ahead) if self._ahead > start else None
