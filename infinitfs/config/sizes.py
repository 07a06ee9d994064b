"""Sizes in bytes as people write and read them.

Above: `cli/` (`--capacity 2TB`, tables). Below: nothing.
Invariant: what `format_size` writes, `parse_size` reads.
"""

import re
from fractions import Fraction

from infinitfs.errors import UsageError

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtpe", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtpe", 1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)
_LARGEST = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Bytes of `2TB` (decimal: KB, MB, GB, TB, PB, EB), `512MiB` (binary: KiB ... EiB), `4096` or `4096B`, in
    any case, with a fraction (rounded down) or a space before the unit. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip().lower())
    scale = _UNITS.get(match[2]) if match else None
    if match is None or scale is None:
        raise UsageError(problem=f'"{text}" is not a size: write a number and a unit, such as 2TB or 512MiB.')
    size = int(Fraction(match[1]) * scale)
    if size > _LARGEST:
        raise UsageError(problem=f'"{text}" is larger than any storage: write a smaller size.')
    return size


def format_size(size: int) -> str:
    """`size` bytes (0 or more) in the decimal unit that gives three digits, e.g. `1.54 GB`; `999 B` below
    it."""
    if size < 1000:
        return f"{size} B"
    for power, letter in enumerate("KMGTPE", 1):
        value = size / 1000**power
        if value < 999.5 or letter == "E":
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {letter}B"
    raise AssertionError("the loop ends at its last unit")
