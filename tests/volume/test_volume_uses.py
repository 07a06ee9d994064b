"""Counts of uses: those of a plain dictionary, in little memory."""

import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from infinitfs.volume.uses import Uses

INODES = st.one_of(st.integers(0, 600), st.integers(0, 2**60))
COUNTS = st.one_of(st.integers(1, 3), st.integers(250, 600))


@given(st.lists(st.tuples(st.booleans(), INODES, COUNTS)))
def test_counts_are_those_of_a_dictionary(steps: list[tuple[bool, int, int]]) -> None:
    uses, model = Uses(), Counter[int]()
    for adds, ino, count in steps:
        if adds:
            uses.add(ino, count)
            model[ino] += count
        else:
            model[ino] = max(model[ino] - count, 0)
            assert uses.remove(ino, count) == (model[ino] == 0)
        assert (ino in uses) == (model[ino] > 0)
    for ino, count in model.items():
        for left in reversed(range(count)):
            assert ino in uses
            assert uses.remove(ino) == (left == 0)
        assert ino not in uses


def test_inodes_that_follow_each_other_take_little_memory_and_give_it_back() -> None:
    inodes = range(1_000, 101_000)
    tracemalloc.start()
    try:
        uses = Uses()
        empty = tracemalloc.get_traced_memory()[0]
        for ino in inodes:
            uses.add(ino)
        held = tracemalloc.get_traced_memory()[0] - empty
        for ino in inodes:
            uses.remove(ino)
        left = tracemalloc.get_traced_memory()[0] - empty
    finally:
        tracemalloc.stop()
    assert held < 2 * len(inodes)
    assert left < held / 4  # a dictionary keeps its room
