"""Random bytes that every run draws alike."""

import hashlib

from infinitfs.keys import RandomBytes


def seeded(seed: bytes = b"") -> RandomBytes:
    """A source of bytes fixed by `seed`: SHAKE-128 of the seed and of the number of the draw."""
    draws = 0

    def draw(count: int) -> bytes:
        nonlocal draws
        draws += 1
        return hashlib.shake_128(seed + draws.to_bytes(8, "big")).digest(count)

    return draw
