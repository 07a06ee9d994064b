"""Dirty ranges, against a dictionary of single bytes."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from infinitfs.file.dirty import DirtyRanges

SPACE = 40
OFFSETS = st.integers(0, SPACE)
DATA = st.binary(max_size=12)


class AgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ranges = DirtyRanges()
        self.model: dict[int, int] = {}
        self.seen: list[tuple[Any, bytes]] = []

    @rule(offset=OFFSETS, data=DATA, as_view=st.booleans())
    def write(self, offset: int, data: bytes, as_view: bool) -> None:
        self.ranges.write(offset, memoryview(data) if as_view else data)
        self.model |= dict(enumerate(data, offset))

    @rule(offset=OFFSETS, length=st.integers(0, 15))
    def discard(self, offset: int, length: int) -> None:
        self.ranges.discard(offset, length)
        self.model = {at: byte for at, byte in self.model.items() if not offset <= at < offset + length}

    @rule(size=OFFSETS)
    def truncate(self, size: int) -> None:
        self.ranges.discard(size)
        self.model = {at: byte for at, byte in self.model.items() if at < size}

    @rule(offset=OFFSETS, data=DATA)
    def put_under(self, offset: int, data: bytes) -> None:
        self.ranges.put_under(offset, data)
        self.model = dict(enumerate(data, offset)) | self.model

    @rule(offset=OFFSETS, length=st.integers(0, SPACE))
    def overlay(self, offset: int, length: int) -> None:
        found: dict[int, int] = {}
        for start, piece in self.ranges.overlay(offset, length):
            assert piece, "a piece is never empty"
            assert not found or start > max(found), "pieces come in order and do not overlap"
            found |= dict(enumerate(bytes(piece), start))
        assert found == {at: byte for at, byte in self.model.items() if offset <= at < offset + length}

    @rule()
    def hold(self) -> None:
        """What a flush takes with it: the chunks, and what was in them."""
        for run in self.ranges.runs():
            self.seen.extend((chunk, bytes(chunk)) for chunk in run.chunks)

    @invariant()
    def runs_are_the_model(self) -> None:
        found: dict[int, int] = {}
        ends = [-1]
        for run in self.ranges.runs():
            assert run.offset > ends[-1], "adjacent chunks are one run"
            joined = b"".join(run.chunks)
            assert run.length == len(joined) and run.end == run.offset + len(joined)
            found |= dict(enumerate(joined, run.offset))
            ends.append(run.end)
        assert found == self.model

    @invariant()
    def total_is_right(self) -> None:
        assert self.ranges.total == len(self.model)
        assert bool(self.ranges) == bool(self.model)

    @invariant()
    def chunks_never_change(self) -> None:
        assert all(bytes(chunk) == content for chunk, content in self.seen)


AgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
TestAgainstModel = AgainstModel.TestCase


def test_appends_are_one_run() -> None:
    ranges = DirtyRanges()
    for i in range(5):
        ranges.write(10 + 2 * i, b"ab")
    (run,) = ranges.runs()
    assert (run.offset, run.end, b"".join(run.chunks)) == (10, 20, b"ab" * 5)


def test_what_is_left_of_a_chunk_keeps_little_more_than_itself_in_memory() -> None:
    ranges = DirtyRanges()
    for i in range(16):
        ranges.write(i, bytes([i]) * 1000)  # each leaves one byte of the one before
    views = [memoryview(chunk) for run in ranges.runs() for chunk in run.chunks]
    held = {id(view.obj): memoryview(view.obj).nbytes for view in views}
    assert sum(held.values()) <= 2 * ranges.total


def test_what_is_whole_is_not_copied() -> None:
    ranges = DirtyRanges()
    data = bytes(100)
    ranges.write(0, data)
    ((_, piece),) = ranges.overlay(0, 100)
    assert piece is data
