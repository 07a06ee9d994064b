"""What time it is, for people and for inodes.

Above: everything in `volume/` and `mount/` that stamps a time. Below: the system clock, or a test's.
Invariant: no decision about ownership or order is ever taken from it.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple


_COARSE = 5  # CLOCK_REALTIME_COARSE of <linux/time.h>


class Clock(NamedTuple):
    now: Callable[[], int] = partial(time.clock_gettime_ns, _COARSE)
    """Nanoseconds since the epoch, by the clock with which the kernel stamps what it caches itself: a finer one would
    make what is written next look older than what was made before."""
    elapsed: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    """Seconds that passed, those in which the machine was suspended included."""

    def timestamp(self) -> str:
        """RFC 3339 in UTC, to the second."""
        return datetime.fromtimestamp(self.now() // 10**9, UTC).isoformat().replace("+00:00", "Z")
