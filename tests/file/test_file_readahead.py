"""Read-ahead: what is advised to readers of different kinds."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.file.readahead import FIRST, LARGEST, ReadAhead

KI = 2**10
MI = 2**20
Advice = list[tuple[int, int]]


def read(ahead: ReadAhead, offsets: list[int], length: int, size: int) -> Advice:
    advice = [ahead.advise(offset, min(length, size - offset), size) for offset in offsets]
    return [window for window in advice if window is not None]


def in_order(advice: Advice) -> bool:
    """Whether windows are not empty, ascending and apart from each other."""
    bounds = [bound for window in advice for bound in window]
    return all(start < end for start, end in advice) and bounds == sorted(bounds)


@pytest.mark.parametrize("length", [4 * KI, 128 * KI, MI])
def test_a_sequential_reader_is_advised_all_of_the_file_once(length: int) -> None:
    size = 300 * MI + 5
    advice = read(ReadAhead(), list(range(0, size, length)), length, size)
    assert in_order(advice)
    assert advice[0][0] == length and advice[-1][1] == size
    assert all(end == start for (_, end), (start, _) in pairwise(advice)), "without a gap"
    assert max(end - start for start, end in advice) <= LARGEST


def test_the_window_grows_to_the_largest() -> None:
    ahead, size = ReadAhead(), 1000 * MI
    distances = []
    for offset in range(0, 200 * MI, 128 * KI):
        window = ahead.advise(offset, 128 * KI, size)
        if window is not None:
            distances.append(window[1] - offset - 128 * KI)
    assert distances[0] == FIRST and distances[-1] == LARGEST
    assert distances == sorted(distances)
    assert len(distances) < 60, "windows are large requests, not one for every read"


def test_who_reads_the_head_of_a_file_is_advised_little() -> None:
    advice = read(ReadAhead(), list(range(0, 64 * KI, 4 * KI)), 4 * KI, 1000 * MI)
    assert sum(end - start for start, end in advice) <= FIRST + 64 * KI


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.randoms(use_true_random=False), st.integers(2, 6))
def test_slightly_reordered_reads_count_as_sequential(source: random.Random, depth: int) -> None:
    """As parallel readers come: each read overtakes less than `depth` others."""
    length, size = 128 * KI, 64 * MI
    starts = list(range(0, size, length))
    head, rest = starts[:8], starts[8:]
    groups = [rest[i : i + depth] for i in range(0, len(rest), depth)]
    for group in groups:
        source.shuffle(group)
    advice = read(ReadAhead(), head + [start for group in groups for start in group], length, size)
    assert in_order(advice)
    assert advice[-1][1] == size
    assert all(end == start for (_, end), (start, _) in pairwise(advice)), "without a gap"


def test_a_random_reader_is_advised_nothing() -> None:
    source, size = random.Random(5), 10_000 * MI
    offsets = [source.randrange(MI, size - MI, 4 * KI) for _ in range(500)]
    assert read(ReadAhead(), offsets, 4 * KI, size) == []


def test_a_jump_ends_the_window_and_reading_on_opens_a_new_one() -> None:
    ahead, size = ReadAhead(), 1000 * MI
    read(ahead, list(range(0, 64 * MI, MI)), MI, size)
    assert ahead.advise(500 * MI, MI, size) is None
    assert ahead.advise(501 * MI, MI, size) == (502 * MI, 506 * MI)


def test_nothing_is_advised_behind_the_end_of_the_file() -> None:
    ahead = ReadAhead()
    assert ahead.advise(0, 100, 100) is None
    ahead = ReadAhead()
    assert ahead.advise(0, 50, 100) == (50, 100)
    assert ahead.advise(50, 50, 100) is None


def test_a_file_that_has_grown_is_advised_on() -> None:
    ahead = ReadAhead()
    assert ahead.advise(0, 50, 100) == (50, 100)
    assert ahead.advise(50, 50, 180) == (100, 180)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 8 * MI), st.integers(1, 2 * MI)), max_size=60), st.integers(0, 80 * MI))
def test_who_goes_forward_is_advised_nothing_twice(steps: list[tuple[int, int]], size: int) -> None:
    """Also over gaps, each of them a jump or not."""
    ahead, position, advice = ReadAhead(), 0, []
    for gap, length in steps:
        position += gap
        if position >= size:
            break
        window = ahead.advise(position, min(length, size - position), size)
        position += length
        if window is not None:
            assert position <= window[0] < window[1] <= size or position > size
            advice.append(window)
    assert in_order(advice)
