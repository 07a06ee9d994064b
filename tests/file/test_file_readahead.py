"""Read-ahead: what is advised to readers of different kinds."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.file.readahead import FIRST, IN_FLIGHT, LARGEST, LONG, REQUESTS, ReadAhead

KI = 2**10
MI = 2**20
Advice = list[tuple[int, int]]


def taken(ahead: ReadAhead, size: int, seconds: float = LONG / 2) -> Advice:
    """All that is given out where what is on its way arrives at once."""
    taken = []
    while (each := ahead.take(size)) is not None:
        ahead.arrived(*each, seconds)
        taken.append(each)
    return taken


def read(ahead: ReadAhead, offsets: list[int], length: int, size: int, seconds: float = LONG / 2) -> Advice:
    advice: Advice = []
    for offset in offsets:
        ahead.advance(offset, min(length, size - offset))
        advice += taken(ahead, size, seconds)
    return advice


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
    assert max(end - start for start, end in advice) == REQUESTS[0]


def test_the_window_grows_to_the_largest() -> None:
    ahead, size = ReadAhead(), 1000 * MI
    distances = []
    for offset in range(0, 200 * MI, 128 * KI):
        advice = read(ahead, [offset], 128 * KI, size)
        if advice:
            distances.append(advice[-1][1] - offset - 128 * KI)
    assert distances[0] == FIRST and distances[-1] == LARGEST
    assert distances == sorted(distances)
    assert len(distances) < 200 * MI // (4 * 128 * KI), "large requests, not one for every read"


def test_less_is_given_out_where_there_is_less_room() -> None:
    ahead = ReadAhead()
    read(ahead, list(range(0, 64 * MI, MI)), MI, 64 * MI)
    room = 3 * MI
    end = 64 * MI
    while (each := ahead.take(1000 * MI, room)) is not None:
        ahead.arrived(*each, 0)
        end = each[1]
    assert end == 64 * MI + room


def test_no_more_is_on_its_way_than_a_line_holds_and_what_arrives_makes_room() -> None:
    ahead, size = ReadAhead(), 1000 * MI
    for offset in range(0, 64 * MI, MI):
        ahead.advance(offset, MI)
    on_their_way = []
    while (each := ahead.take(size)) is not None:
        on_their_way.append(each)
    assert sum(end - start for start, end in on_their_way) == IN_FLIGHT[0]
    ahead.arrived(*on_their_way[3], 0)  # it was here
    end = 64 * MI + IN_FLIGHT[0]
    assert ahead.take(size) == (end, end + 2 * MI), "without a read"
    assert ahead.take(size) is None


@pytest.mark.parametrize(
    ("rate", "latency"), [(500, 0.08), (500, 0.02), (500, 0.001), (100, 0.08), (100, 0.3), (20, 0.05), (3, 0.1)]
)
def test_as_much_is_on_its_way_as_the_line_holds(rate: float, latency: float) -> None:
    """A line of so many MiB a second: what it brings, and how long the last of what was asked for waits."""
    ahead, size = ReadAhead(), 1000 * MI
    for offset in range(0, 32 * MI, MI):
        ahead.advance(offset, MI)
    now = free = 0.0
    coming: list[tuple[float, float, int, int]] = []
    seconds = [0.0]
    brought = 32 * MI
    while brought < size:
        while (each := ahead.take(size)) is not None:
            free = max(free, now + latency) + (each[1] - each[0]) / rate / MI
            coming.append((free, now, *each))
        now, asked, start, end = coming.pop(0)
        seconds.append(now - asked)
        ahead.arrived(start, end, now - asked)
        ahead.advance(start, end - start)
        brought = end
    assert 968 / now > 0.8 * rate
    assert max(seconds) < 3 * (latency + 17 / rate)


def test_a_line_that_is_not_full_tells_nothing_of_how_much_it_holds() -> None:
    """A reader slower than the line, then one that takes all of it."""
    ahead, size = ReadAhead(), 1000 * MI
    for offset in range(0, 500 * MI, MI):
        ahead.advance(offset, MI)
        while (each := ahead.take(size, 8 * MI)) is not None:
            ahead.arrived(*each, LONG / 5)
    begin = 500 * MI + 8 * MI
    end = begin
    while (each := ahead.take(size)) is not None:
        end = each[1]
    assert end - begin == IN_FLIGHT[0]


def test_after_a_jump_a_line_may_have_become_slower() -> None:
    ahead, size = ReadAhead(), 1000 * MI
    read(ahead, list(range(0, 64 * MI, MI)), MI, size, LONG / 10)
    ahead.advance(400 * MI, MI)
    on_their_way: Advice = []
    most = 0
    for offset in range(401 * MI, 800 * MI, MI):
        ahead.advance(offset, MI)
        while (each := ahead.take(size)) is not None:
            on_their_way.append(each)
        most = max(most, sum(end - start for start, end in on_their_way))
        if offset % (8 * MI) == 0:
            ahead.arrived(*on_their_way.pop(0), LONG / 2)
    assert most > 2 * IN_FLIGHT[0], "all take as long as the shortest did"


def test_what_is_stretched_is_on_its_way_and_not_given_out_again() -> None:
    ahead, size = ReadAhead(), 1000 * MI
    for offset in range(0, 64 * MI, MI):
        ahead.advance(offset, MI)
    end = 64 * MI
    for _ in range(IN_FLIGHT[0] // MI - 2):
        taken = ahead.take(size)
        assert taken == (end, end + MI)
        end += MI
        ahead.stretch(end, end + 5 * KI)
        end += 5 * KI
    ahead.stretch(end, end + 2 * MI - 5 * KI)
    end += 2 * MI - 5 * KI
    assert ahead.take(size) is None
    ahead.arrived(64 * MI, 65 * MI + 5 * KI, 0)
    assert ahead.take(size) == (end, end + 2 * MI)


@pytest.mark.parametrize(("seconds", "request_size"), [(LONG * 2, REQUESTS[0]), (LONG / 8, REQUESTS[1])])
def test_requests_are_large_unless_they_take_long(seconds: float, request_size: int) -> None:
    ahead, size = ReadAhead(), 1000 * MI
    read(ahead, list(range(0, 64 * MI, MI)), MI, size, LONG / 8 if seconds > LONG else LONG * 2)
    advice = read(ahead, list(range(64 * MI, 128 * MI, MI)), MI, size, seconds)
    assert {end - start for start, end in advice[4:]} == {request_size}


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
    assert read(ahead, [500 * MI], MI, size) == []
    assert read(ahead, [501 * MI], MI, size)[0] == (502 * MI, 503 * MI)


def test_nothing_is_advised_behind_the_end_of_the_file() -> None:
    ahead = ReadAhead()
    assert read(ahead, [0], 100, 100) == []
    ahead = ReadAhead()
    assert read(ahead, [0, 50], 50, 100) == [(50, 100)]


def test_a_file_that_has_grown_is_advised_on() -> None:
    ahead = ReadAhead()
    assert read(ahead, [0], 50, 100) == [(50, 100)]
    assert read(ahead, [50], 50, 180) == [(100, 180)]


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 8 * MI), st.integers(1, 2 * MI)), max_size=60), st.integers(0, 80 * MI))
def test_who_goes_forward_is_advised_nothing_twice(steps: list[tuple[int, int]], size: int) -> None:
    """Also over gaps, each of them a jump or not."""
    ahead, position, advice = ReadAhead(), 0, []
    for gap, length in steps:
        position += gap
        if position >= size:
            break
        found = read(ahead, [position], length, size)
        position += length
        assert all(position <= start < end <= size for start, end in found)
        advice += found
    assert in_order(advice)
