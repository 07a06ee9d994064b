"""Measured quantities as people read them.

Above: `plot`, `regions`, `storage`, `cli/benchmark`. Below: `config/sizes`.
Invariant: three digits, and the unit with them.
"""

from infinitfs.benchmark.summary import Unit
from infinitfs.config.sizes import format_size


def format_seconds(seconds: float) -> str:
    """`7.41 µs`, `410 µs`, `12.3 ms`, `1.20 s`."""
    for scale, unit in ((1e6, "µs"), (1e3, "ms"), (1, "s")):
        value = seconds * scale
        if value < 999.5 or unit == "s":
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    raise AssertionError("the loop ends at its last unit")


def format_quantity(value: float, unit: Unit) -> str:
    """A duration, a rate of bytes (`12.3 MB/s`), or one of events (`4300/s`)."""
    if unit == "s":
        return format_seconds(value)
    if unit == "B/s":
        return f"{format_size(round(value))}/s"
    return f"{value:.{0 if value >= 10 else 1}f}/s"
