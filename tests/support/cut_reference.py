"""The cuts of `native/cut.h`, word for word and as slowly as it takes.

Role: what the tests of `infinitfs._native` compare with. It shares nothing with the kernel: no cursor, no
sampling.
Invariant: whether a piece is finished is not worked out but tried, by continuing the stream in several ways.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

Piece = tuple[int, bytes | None]


@dataclass(frozen=True)
class Rule:
    """The arguments of `cut` between buffer and final."""

    gear: bytes
    minimum: int
    target: int
    maximum: int
    zeros: int

    def is_run(self, data: bytes, start: int) -> bool:
        return data.startswith(bytes(self.zeros), start)

    def is_gear_cut(self, length: int, gear_hash: int) -> bool:
        power = max(k for k in range(31) if 2**k <= self.target)
        bits = power + 2 if length < self.target else power - 2
        return length >= self.minimum and gear_hash < 2 ** (64 - bits)

    def end_of_piece(self, data: bytes, start: int) -> int:
        """The end of the piece from `start` on, in a stream that ends with `data`."""
        if self.is_run(data, start):
            others = (i for i in range(start, len(data)) if data[i] != 0)
            return min(next(others, len(data)), start + self.maximum)
        words = struct.unpack("<256Q", self.gear)
        gear_hash = 0
        for end in range(start + 1, len(data)):
            gear_hash = (2 * gear_hash + words[data[end - 1]]) % 2**64
            length = end - start
            if self.is_run(data, end) or self.is_gear_cut(length, gear_hash) or length == self.maximum:
                return end
        return len(data)


def _pieces(buffer: bytes, continuations: list[bytes], end_of_piece: Callable[[bytes, int], int]) -> list[Piece]:
    """The pieces of `buffer` that end in the same place whichever of `continuations` follows it."""
    pieces: list[Piece] = []
    start = 0
    while start < len(buffer):
        ends = {end_of_piece(buffer + more, start) for more in continuations}
        if len(ends) > 1:
            break
        (end,) = ends
        piece = buffer[start:end]
        pieces.append((len(piece), xxhash.xxh3_128_digest(piece)))
        start = end
    return pieces


def cut(buffer: bytes, rule: Rule, final: bool) -> list[Piece]:
    """`infinitfs._native.cut`: an end, a zero run and a nonzero byte stand for all that can follow."""
    going_on = [b"", bytes(rule.maximum + rule.zeros), b"\1"]
    pieces = _pieces(buffer, [b""] if final else going_on, rule.end_of_piece)
    starts = [sum(length for length, _ in pieces[:i]) for i in range(len(pieces))]
    return [
        (length, None if rule.is_run(buffer, start) else fingerprint)
        for start, (length, fingerprint) in zip(starts, pieces, strict=True)
    ]


def cut_fixed(buffer: bytes, size: int, first: int, final: bool) -> list[Piece]:
    """`infinitfs._native.cut_fixed`."""
    ends = [end for end in range(1, len(buffer) + 1) if end % size == first % size]
    if final and buffer and len(buffer) not in ends:
        ends.append(len(buffer))
    parts = [buffer[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [(len(part), xxhash.xxh3_128_digest(part) if any(part) else None) for part in parts]
