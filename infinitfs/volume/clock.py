"""What time it is, for people and for inodes.

Above: everything in `volume/` and `mount/` that stamps a time. Below: the system's clocks, or a test's.
Invariant: no decision about ownership or order is ever taken from it.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple


class Clock(NamedTuple):
    now: Callable[[], int] = time.time_ns
    """Nanoseconds since the epoch."""
    elapsed: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    """Seconds that passed, those in which the machine was suspended included."""

    def timestamp(self) -> str:
        """RFC 3339 in UTC, to the second."""
        return datetime.fromtimestamp(self.now() // 10**9, UTC).isoformat().replace("+00:00", "Z")


class KernelTime:
    """A `Clock.now` that never contradicts the kernel, which stamps some files of a mount itself: what is made later is
    never older, whoever stamped it.

    The kernel's own clock for files is coarse, but not below what any file has been stamped with finely
    (Documentation/filesystems/multigrain-ts.rst), and only a file shows it: so one in memory is touched and asked.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("clock")

    def __call__(self) -> int:
        os.utime(self._file)
        return os.fstat(self._file).st_ctime_ns

    def __del__(self) -> None:
        os.close(self._file)
