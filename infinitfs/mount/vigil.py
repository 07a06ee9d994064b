"""Staying awake between requests that follow one another closely.

Above: `operations`, which tells of requests, and `serving`, which runs it. Below: trio, whose loop looks for the next
request once a round as long as a task is ready.
Invariant: who is asked seldom sleeps: the loop stays awake for `WINDOW` after an answer, and only where the request
came within `CLOSE` of the answer before, and where the next ones come sooner so.

To fall asleep and be woken takes a good part of a request: on two virtual processors a stat took 65 us and takes 47, a
read of 4 KiB 96 and 70, with no more of the processor than before. Programs that walk a tree, or read here and there,
ask again within the window. On others the program that asks is woken on the processor that just fell asleep, which is
quicker than to wake another one: there a read of 4 KiB took 48 us, and 54 with the loop awake. And which is so can
change while a program runs: one kernel had the program and the mount on one processor for 50 ms, where a stat took 17
us asleep, and then on two, where it took 63 asleep and 39 awake. So both are tried for `TRIAL` requests now and then,
and the better is kept until requests come faster or slower than they did with it. At most `WINDOW` a request is lost
where another program needs the processor. KVM waits for its guests in the same way (Linux,
Documentation/virt/kvm/halt-polling.rst).
"""

from collections.abc import Callable, Generator
from time import perf_counter

import trio

WINDOW = 100e-6  # seconds
CLOSE = 2 * WINDOW  # seconds; where sleep takes longest, what comes within the window comes within this
TRIAL = 64  # requests
KEPT = 4096  # requests, where nothing changes; both trials are a sixteenth of them
_GAIN = 0.95  # of the time between two requests asleep: what takes more awake is not worth it
_CHANGE = 1.5  # times the time between requests, or divided by it: what was tried may be not so any more


def _ways() -> Generator[tuple[bool, int], float, None]:
    """Whether to stay awake, and for how many requests; told how many seconds there were before them. What changes
    slowly while both are tried counts for neither."""
    while True:
        awake = yield True, TRIAL
        asleep = yield False, 2 * TRIAL
        awake += yield True, TRIAL
        better = awake < _GAIN * asleep
        expected = awake if better else asleep
        for _ in range(KEPT // (2 * TRIAL)):
            seconds = yield better, 2 * TRIAL
            if not expected / _CHANGE < seconds < expected * _CHANGE:
                break


class Vigil:
    """`clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._answered = self._until = -1.0
        self._asleep: trio.lowlevel.Task | None = None
        self._ways = _ways()
        self._awake, self._left = next(self._ways)
        self._seconds = 0.0

    def answered(self, began: float, ended: float) -> None:
        """A request came at `began` and was answered at `ended`."""
        gap = began - self._answered
        self._answered = ended
        if gap >= CLOSE:
            return
        if gap > 0:
            self._seconds += gap
            self._left -= 1
            if not self._left:
                self._awake, self._left = self._ways.send(self._seconds)
                self._seconds = 0.0
        if self._awake:
            self._until = ended + WINDOW
            if self._asleep is not None:
                trio.lowlevel.reschedule(self._asleep)
                self._asleep = None

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            if self._clock() < self._until:
                await trio.lowlevel.checkpoint()
            else:
                self._asleep = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._wake)

    def _wake(self, _: object) -> trio.lowlevel.Abort:
        self._asleep = None
        return trio.lowlevel.Abort.SUCCEEDED
