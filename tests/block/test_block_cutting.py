"""Cutters: what the block writer asks of the kernel."""

import random

import pytest

from infinitfs.block.cutting import ContentCutter, Cutter, FixedCutter

CONTENT = ContentCutter(random.Random(1).randbytes(2048), 64, 256, 1024, 16)
DATA = random.Random(2).randbytes(5000) + bytes(300) + random.Random(3).randbytes(5000)


@pytest.mark.parametrize("cutter", [CONTENT, FixedCutter(512)])
@pytest.mark.parametrize("offset", [0, 1, 511, 512, 100_000])
def test_windows_with_the_tail_carried_over_are_cut_as_one(cutter: Cutter, offset: int) -> None:
    pieces, start = [], 0
    for end in range(700, len(DATA), 700):
        for length, fingerprint in cutter(DATA[start:end], offset + start, False):
            pieces.append((length, fingerprint))
            start += length
    pieces += cutter(DATA[start:], offset + start, True)
    assert pieces == cutter(DATA, offset, True)
    assert sum(length for length, _ in pieces) == len(DATA)


def test_fixed_cuts_lie_at_multiples_of_the_file() -> None:
    assert [length for length, _ in FixedCutter(512)(DATA[:1500], 500, True)] == [12, 512, 512, 464]
    assert [length for length, _ in FixedCutter(512)(DATA[:600], 1024, True)] == [512, 88]


def test_content_cuts_do_not_depend_on_the_place_in_the_file() -> None:
    assert CONTENT(DATA, 0, True) == CONTENT(DATA, 12_345, True)


def test_zeros_have_no_fingerprint() -> None:
    zeros = [length for length, fingerprint in CONTENT(DATA, 0, True) if fingerprint is None]
    assert zeros == [300]
