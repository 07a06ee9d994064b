"""A process that moves blocks and keeps the memory it had for one of them for the next.

Above: the two processes of a mount, at their start. Below: mallopt(3) of the GNU C library; with another one nothing
is changed.
Invariant: it changes how fast memory is had, and what is kept of it, at most KEPT bytes, not what is used.

By default every block of 1 MiB is memory that the kernel clears, page by page, and takes back: more CPU time than
opening the block's frame takes.
"""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

KEPT = 128 * 2**20
"""Bytes that may stay free at the end of the heap."""
_MAPPED = 32 * 2**20  # bytes that get a mapping of their own from here on: the most that may be asked for


def keep_memory() -> None:
    """One heap for all threads, blocks included. To be called before there are threads."""
    import ctypes  # 10 ms that other commands do not spend

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_TRIM_THRESHOLD, KEPT), (_M_MMAP_THRESHOLD, _MAPPED), (_M_ARENA_MAX, 1)):
            mallopt(parameter, value)
