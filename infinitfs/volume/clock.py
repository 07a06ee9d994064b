"""What time it is, for people and for inodes.

Above: everything in `volume/` and `mount/` that stamps a time. Below: the system clock, or a test's.
Invariant: no decision about ownership or order is ever taken from it.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple


class Clock(NamedTuple):
    now: Callable[[], int] = time.time_ns
    """Nanoseconds since the epoch."""

    def timestamp(self) -> str:
        """RFC 3339 in UTC, to the second."""
        return datetime.fromtimestamp(self.now() // 10**9, UTC).isoformat().replace("+00:00", "Z")
