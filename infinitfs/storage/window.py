"""How many requests may be in flight: half as many when the service asks for fewer, and back.

Above: `retry`. Below: nothing; there is no I/O and no clock here: times are arguments, in seconds of any one clock.
Invariant: a burst of refusals that one decision caused leads to one more decision, not to one each; and what follows
from the same calls at the same times is always the same.

Additive increase, multiplicative decrease (D. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks", 1989) shares a service fairly but takes a thousand steps to come back from
a collapse. So growth here is measured in time without a refusal: fast up to half of what was refused, as TCP's slow
start (RFC 5681, section 3.1), then slowly, and fast again far above it: there the service takes more than it did, as
in CUBIC (RFC 9438, section 4.1). One request in flight is still a thousand a second to a service that refuses in a
millisecond: hence the pause after every refusal, doubled as long as nothing else comes back, and never shorter than
what the service asks for.
"""

from collections.abc import Callable
from math import inf

FAST = 0.25  # seconds in which the window doubles, but for ...
SLOW = 1.5  # ... where the service's limit is looked for: from half of the size that was refused ...
FAR = 4  # ... to this many times as much
FIRST_PAUSE = 0.1  # seconds in which nothing is sent after a refusal, doubled while nothing succeeds ...
LONGEST_PAUSE = 2.0  # ... up to this
_STEP = 1.0  # seconds of growth that one answer is worth at most: silence proves nothing


class Window:
    """At most `most` requests at once. `random` gives numbers in [0, 1)."""

    def __init__(self, most: int, random: Callable[[], float]) -> None:
        self._most = most
        self._random = random
        self._size = float(most)
        self._goal = float(most)
        self._pause = FIRST_PAUSE
        self._cut_at = -inf
        self._grown_at = -inf
        self._proven = True  # something was answered since the last cut
        self.in_flight = 0
        self.opens_at = -inf
        """No request starts earlier."""

    @property
    def size(self) -> int:
        """How many requests may be in flight."""
        return int(self._size)

    @property
    def narrowed(self) -> bool:
        """Whether fewer requests are let through than were asked for."""
        return self._size < self._most

    def admits(self, now: float) -> bool:
        return now >= self.opens_at and self.in_flight < self.size

    def begin(self) -> None:
        self.in_flight += 1

    def end(self) -> None:
        """A request has ended, however it did."""
        self.in_flight -= 1

    def answered(self, began: float, now: float) -> None:
        """The service did what a request that began at `began` asked for."""
        if began < self._cut_at:
            return  # it says nothing about the window of now
        self._proven = True
        seconds = min(now - self._grown_at, _STEP)
        self._grown_at = now
        if self._size < self._goal:
            self._size = min(self._goal, self._size * 2 ** (seconds / FAST))
        else:
            pace = SLOW if self._size < FAR * self._goal else FAST
            self._size = min(self._most, self._size * 2 ** (seconds / pace))

    def refused(self, began: float, now: float, wait: float = 0.0) -> None:
        """The service asked for fewer requests in answer to one that began at `began`, and for none in the next `wait`
        seconds."""
        if began < self._cut_at:
            return  # the others in flight then are refused as well
        if self._proven:
            self._goal = max(1.0, self._size / 2)
            self._pause = FIRST_PAUSE
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._proven = False
        self._size = max(1.0, self._size / 2)
        self._cut_at = now
        self.opens_at = self._grown_at = now + max(wait, self._pause * (1 + self._random()) / 2)
