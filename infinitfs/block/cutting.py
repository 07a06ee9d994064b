"""Cutting a run of bytes into pieces, by content or at fixed multiples.

Above: `block.writer`. Below: the C kernel `_native`, whose header states the algorithm.
Invariant: where a piece ends depends only on the bytes since its start (and, with fixed cuts, on its place in the
file), so a run that comes in several windows, the tail carried over, is cut as if it had come in one.
"""

from typing import NamedTuple, Protocol

from infinitfs._native import cut, cut_fixed
from infinitfs.storage.base import Buffer

Piece = tuple[int, bytes | None]
"""Length in bytes, and the XXH3-128 fingerprint of the piece, None for a run of zeros. A fingerprint
of plaintext stays in memory."""


class Cutter(Protocol):
    @property
    def longest(self) -> int:
        """Bytes within which a piece ends: a tail is shorter."""
        ...

    def __call__(self, buffer: Buffer, offset: int, final: bool) -> list[Piece]:
        """Pieces of `buffer`, which lies at `offset` of its file; without `final` the unfinished tail is left out."""
        ...


class ContentCutter(NamedTuple):
    gear: bytes
    minimum: int
    target: int
    maximum: int
    zeros: int

    @property
    def longest(self) -> int:
        return self.maximum + self.zeros

    def __call__(self, buffer: Buffer, offset: int, final: bool) -> list[Piece]:
        return cut(buffer, self.gear, self.minimum, self.target, self.maximum, self.zeros, final)


class FixedCutter(NamedTuple):
    size: int

    @property
    def longest(self) -> int:
        return self.size

    def __call__(self, buffer: Buffer, offset: int, final: bool) -> list[Piece]:
        return cut_fixed(buffer, self.size, self.size - offset % self.size, final)
