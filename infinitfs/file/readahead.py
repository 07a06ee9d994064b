"""How far ahead of a reader to fetch.

Above: `file.File` has one, the volume's read asks it. Below: nothing; a core without I/O.
Invariant: nothing is advised twice to a reader that goes forward, a random reader is advised nothing, and what is
advised is in proportion to what was read.
"""

FIRST = 2 * 2**20
LARGEST = 24 * 2**20  # 80 MB/s over 300 ms; more only fills the queues on the way, where what is needed first waits
_SHARE = 4  # times what was read: who reads the head of a file and goes away costs no more than that
_STEPS = 4  # parts of a window that are asked for one after the other


class ReadAhead:
    """The window, in bytes, grows with what was read in sequence, from `FIRST` to `LARGEST`; a jump ends it.
    It is kept full: what a quarter of it has made room for is asked for while the rest is on its way."""

    __slots__ = ("_ahead", "_next", "_read", "_window")

    def __init__(self) -> None:
        self._next = 0
        self._read = 0
        self._ahead = 0
        self._window = 0

    def advise(self, offset: int, length: int, size: int, room: int = LARGEST) -> tuple[int, int] | None:
        """With a read of `[offset, offset + length)` of a file of `size` bytes: the range to fetch as well, if any,
        where there is `room` for so many bytes ahead.

        Kernel read-ahead and parallel readers arrive slightly out of order, so a step is sequential where it starts
        within half a window of the last one's end.
        """
        slack = max(self._window // 2, length)
        sequential = abs(offset - self._next) <= slack
        self._next = offset + length
        if not sequential:
            self._read = self._ahead = self._window = 0
            return None
        self._read += length
        self._window = min(max(FIRST, _SHARE * self._read), LARGEST, room)
        start = max(self._ahead, self._next)
        if self._next + self._window - start < self._window // _STEPS or start >= size:
            return None
        self._ahead = min(self._next + self._window, size)
        return (start, self._ahead) if start < self._ahead else None
