"""How far ahead of a reader to fetch, and how much of it at a time.

Above: `file.File` has one, the volume's read asks it. Below: nothing; a core without I/O.
Invariant: nothing is given out twice to a reader that goes forward, a random reader is given nothing, and what is
given out is in proportion to what was read.
"""

FIRST = 2 * 2**20
LARGEST = 96 * 2**20
IN_FLIGHT = (16 * 2**20, 64 * 2**20)  # 50 MB/s over 300 ms, and as much as a fast far line holds
REQUESTS = (2**20, 8 * 2**20)
LONG = 0.5  # seconds
QUEUED = 1.5  # times the shortest that a request of its size took: then some of what is on its way waits
_HERE = 0.002  # seconds; what takes less did not come from a storage
_SHARE = 4  # times what was read: who reads the head of a file and goes away costs no more than that
_STEPS = 4  # parts of a small window: one of them is worth a request


class ReadAhead:
    """The window, in bytes, grows with what was read in sequence, from `FIRST` to `LARGEST`; a jump ends it.

    Of the window the next is asked for while fewer bytes than the line holds are on their way, whatever the reader does
    meanwhile: if only its reads asked for more, they would ask for all of it at once, and the line would lie idle for a
    round trip before each time. What the line holds, within `IN_FLIGHT`, is found as by TCP Vegas (Brakmo and Peterson,
    1995): more while requests take about as long as the shortest of their size did; once they take longer, more only
    fills the queues on the way, where what is needed first waits. After a jump that is found anew.

    Large requests cost less; small ones, and so more of them side by side, share a far line better, each connection of
    which brings little at first. So a request has the larger of `REQUESTS` unless it takes `LONG`.
    """

    __slots__ = ("_ahead", "_in_flight", "_line", "_next", "_read", "_request", "_shortest", "_window")

    def __init__(self) -> None:
        self._next = 0
        self._read = 0
        self._ahead = 0
        self._window = 0
        self._in_flight = 0
        self._line = IN_FLIGHT[0]
        self._request = REQUESTS[0]
        self._shortest: dict[int, float] = {}  # seconds, by the bits of the size

    @property
    def jumped(self) -> bool:
        """Whether the last read did not follow the one before."""
        return not self._window

    def advance(self, offset: int, length: int) -> bool:
        """With each read of `[offset, offset + length)`: whether it follows the one before.

        Kernel read-ahead and parallel readers arrive slightly out of order, so a step is sequential where it starts
        within half a window of the last one's end.
        """
        slack = max(min(self._window, IN_FLIGHT[0]) // 2, length)
        sequential = abs(offset - self._next) <= slack
        self._next = offset + length
        if not sequential:
            self._read = self._ahead = self._window = 0
            self._shortest.clear()
            return False
        self._read += length
        self._window = min(max(FIRST, _SHARE * self._read), LARGEST)
        return True

    def take(self, size: int, room: int = LARGEST) -> tuple[int, int] | None:
        """The range of a file of `size` bytes to fetch now, where one is worth a request: after `advance`, and again
        when one has `arrived`. `room` is what may be ahead of the reader, in bytes."""
        window = min(self._window, room)
        start = max(self._ahead, self._next)
        end = min(start + self._request, self._next + window, size)
        enough = end == size or end - start >= min(self._request, window // _STEPS)
        if end <= start or not enough or self._in_flight >= self._line:
            return None
        self._ahead = end
        self._in_flight += end - start
        return start, end

    def stretch(self, end: int, to: int) -> None:
        """What was taken last, up to `end`, is fetched up to `to`, as that costs no request more."""
        self._ahead = to
        self._in_flight += to - end

    def arrived(self, start: int, end: int, seconds: float) -> None:
        """What was taken is no longer on its way, for it is there or it failed, which took `seconds`."""
        size = end - start
        full = self._in_flight + size >= self._line
        self._in_flight -= size
        if seconds > _HERE:
            shortest = self._shortest.setdefault(size.bit_length(), seconds)
            if seconds < shortest:
                self._shortest[size.bit_length()] = seconds
            if seconds < QUEUED * shortest and full:
                self._line = min(self._line + size * size // self._line, IN_FLIGHT[1])
            elif seconds > 2 * shortest:
                self._line = max(self._line - size * size // self._line, IN_FLIGHT[0])
        if seconds > LONG:
            self._request = max(self._request // 2, REQUESTS[0])
        elif seconds < LONG / 4:
            self._request = min(self._request * 2, REQUESTS[1])
