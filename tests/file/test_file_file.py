"""A file in memory over its extents, against plain bytes, in every interleaving of writes and flushes."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from infinitfs.block.batch import Ending, Piece, Request, Stored
from infinitfs.block.cutting import ContentCutter, Cutter, FixedCutter
from infinitfs.file.dirty import Bytes
from infinitfs.file.extents import END, Edit, Extent, edited
from infinitfs.file.file import File

CUTTERS: list[Cutter] = [ContentCutter(random.Random(1).randbytes(2048), 64, 256, 512, 16), FixedCutter(64)]
CONTENT = CUTTERS[0]
LONGEST = 4096


class Store:
    """A block writer whose blocks are a list, and the extent map that the volume would keep."""

    def __init__(self, cutter: Cutter) -> None:
        self.cutter = cutter
        self.blocks: list[bytes] = []
        self.extents: list[Extent] = []

    def store(self, requests: Sequence[Request]) -> tuple[list[Ending], list[Stored]]:
        done = [self._store(each.offset, b"".join(each.chunks), each.final) for each in requests]
        return [ending for ending, _ in done], [stored for _, stored in done]

    def _store(self, offset: int, data: bytes, final: bool) -> tuple[Ending, Stored]:
        pieces: list[tuple[int, int, int | None]] = []
        start = 0
        for length, fingerprint in self.cutter(data, offset, final):
            block = None
            if fingerprint is not None:
                block = len(self.blocks)
                self.blocks.append(data[start : start + length])
            pieces.append((offset + start, length, block))
            start += length
        provisional = 0
        if final and pieces[-1][2] is not None:
            at, length, _ = pieces[-1]
            provisional = 0 if self.cutter(data[-length:], at, False) else length
        return Ending(len(data) - start, provisional), tuple(pieces)

    def edit(self, edits: Sequence[Edit]) -> None:
        for edit in edits:
            assert edit.offset < edit.end, "an edit changes something"
            assert all(edit.offset <= extent.offset and extent.end <= edit.end for extent in edit.extents)
            self.extents = edited(self.extents, [edit])

    def content(self, size: int) -> bytearray:
        found = bytearray(size)
        for offset, length, block, skip in self.extents:
            found[offset : offset + length] = self.blocks[block][skip : skip + length]
        return found


def flush(file: File, store: Store, *, whole: bool = True) -> list[Edit]:
    edits = finish(file, store, file.begin_flush(whole=whole))
    store.edit(edits)
    return edits


def finish(file: File, store: Store, taken: Sequence[Request], now: float = 0.0) -> list[Edit]:
    """The end of a flush that has no other behind it."""
    endings, stored = store.store(taken)
    file.note_cut(endings, now)
    edits = file.edits([piece for some in stored for piece in some])
    file.end_flush()
    return edits


def content_of(file: File, store: Store) -> bytes:
    found = store.content(file.size)
    for offset, piece in file.overlay(0, file.size):
        found[offset : offset + len(piece)] = piece
    return bytes(found)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Bytes with cut points and runs of zeros in them."""
    parts = draw(st.lists(st.tuples(st.booleans(), st.integers(1, 400), st.integers(0, 3)), min_size=1, max_size=4))
    return b"".join(bytes(length) if zero else random.Random(seed).randbytes(length) for zero, length, seed in parts)


@dataclass(eq=False)
class Intent:
    """What an fsync made durable without a flush."""

    pieces: list[tuple[int, Bytes]]
    clip: int = END


class AgainstBytes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.file = File(1, 0)
        self.model = bytearray()
        self.taken: list[Request] | None = None  # by a flush that is not cut yet
        self.cut: deque[list[Piece]] = deque()  # what became of those that are, the oldest first
        self.now = 0.0
        self.intents: list[Intent] = []
        self.taken_intents: deque[Intent | None] = deque()
        """The last one before each flush."""
        self.fsynced: list[set[int]] = []
        """What each byte was at the last fsync, and has been since."""

    @initialize(cutter=st.sampled_from(CUTTERS))
    def choose(self, cutter: Cutter) -> None:
        self.store = Store(cutter)

    def _write(self, offset: int, data: bytes) -> None:
        data = data[: LONGEST - offset]
        self.now += 1
        self.file.write(offset, data, self.now)
        if data:
            self.model.extend(bytes(max(0, offset + len(data) - len(self.model))))
            self.model[offset : offset + len(data)] = data
            for at in range(offset, min(offset + len(data), len(self.fsynced))):
                self.fsynced[at].add(self.model[at])

    @rule(data=contents())
    def append(self, data: bytes) -> None:
        self._write(len(self.model), data)

    @rule(byte=st.integers(1, 255), count=st.integers(0, 50))
    def append_a_little(self, byte: int, count: int) -> None:
        """Often enough to be joined with a provisional block, seldom enough to end it."""
        self._write(len(self.model), bytes([byte]) * count)

    @rule(offset=st.integers(0, LONGEST), data=contents())
    def write(self, offset: int, data: bytes) -> None:
        self._write(offset, data)

    @rule(back=st.integers(1, 60), byte=st.integers(1, 255), count=st.integers(1, 20))
    def touch_near_the_end(self, back: int, byte: int, count: int) -> None:
        self._write(max(0, len(self.model) - back), bytes([byte]) * count)

    def _truncate(self, size: int) -> None:
        self.file.truncate(size)
        self.store.extents = edited(self.store.extents, [Edit(size, END, ())])
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))
        del self.fsynced[size:]
        for intent in self.intents:
            intent.clip = min(intent.clip, size)

    @rule(size=st.integers(0, LONGEST))
    def truncate(self, size: int) -> None:
        self._truncate(size)

    @rule(back=st.integers(0, 40))
    def truncate_near_the_end(self, back: int) -> None:
        self._truncate(max(0, len(self.model) - back))

    @precondition(lambda self: self.taken is None)
    @rule(whole=st.booleans())
    def flush(self, whole: bool) -> None:
        self.begin(whole)
        self.cut_it()

    @precondition(lambda self: self.taken is None)
    @rule(whole=st.booleans())
    def begin(self, whole: bool) -> None:
        self.taken = self.file.begin_flush(whole=whole or bool(self.intents))
        self.taken_intents.append(self.intents[-1] if self.intents else None)

    @precondition(lambda self: self.taken is not None)
    @rule()
    def cut_it(self) -> None:
        assert self.taken is not None
        self.now += 1
        endings, stored = self.store.store(self.taken)
        self.file.note_cut(endings, self.now)
        self.taken = None
        self.cut.append([piece for some in stored for piece in some])

    @precondition(lambda self: self.cut)
    @rule(count=st.integers(1, 3))
    def enter(self, count: int) -> None:
        """Some of the extents of a flush, the bytes of which stay in memory."""
        pieces = self.cut[0]
        self.store.edit(self.file.edits(pieces[:count]))
        del pieces[:count]

    @precondition(lambda self: self.cut)
    @rule()
    def finish(self) -> None:
        clean = self.file.last_flush
        self.store.edit(self.file.edits(self.cut.popleft()))
        self.file.end_flush()
        assert clean == (not self.file.has_content)
        last = self.taken_intents.popleft()
        if clean:
            self.intents.clear()
        elif last in self.intents:
            del self.intents[: self.intents.index(last) + 1]

    @rule(kept=st.booleans())
    def fsync(self, kept: bool) -> None:
        ranges = self.file.take_fresh()
        assert all(one[1] < other[0] for one, other in pairwise(ranges))
        if kept:
            self.intents.append(Intent([piece for lo, hi in ranges for piece in self.file.overlay(lo, hi - lo)]))
            self.fsynced = [{byte} for byte in self.model]
        else:
            self.file.put_back_fresh(ranges)

    @invariant()
    def a_crash_leaves_what_was_fsynced(self) -> None:
        """Or what was written since; of what is longer, something."""
        left = self.store.content(len(self.model))
        for intent in self.intents:
            for offset, piece in intent.pieces:
                end = min(offset + len(piece), intent.clip)
                left[offset : max(offset, end)] = piece[: max(0, end - offset)]
        assert all(byte in allowed for byte, allowed in zip(left, self.fsynced, strict=False))

    @precondition(lambda self: self.taken_intents)
    @rule()
    def abort(self) -> None:
        """One fails, and so do all behind it."""
        self.now += 1
        while self.taken_intents:
            self.file.abort_flush(self.now)
            self.taken_intents.pop()
        self.cut.clear()
        self.taken = None

    @invariant()
    def content_is_the_model(self) -> None:
        assert self.file.size == len(self.model)
        assert content_of(self.file, self.store) == self.model

    @invariant()
    def extents_are_in_order_and_inside_the_file(self) -> None:
        bounds = [bound for extent in self.store.extents for bound in (extent.offset, extent.end)]
        assert bounds == sorted(bounds)
        assert not bounds or bounds[-1] <= len(self.model)
        assert all(e.length > 0 and e.skip + e.length <= len(self.store.blocks[e.block]) for e in self.store.extents)

    @invariant()
    def what_is_dirty_has_an_age_and_asks_for_a_flush(self) -> None:
        assert not self.file.dirty or self.file.dirty_since is not None
        assert self.file.needs_flush or not self.file.bytes_in_memory

    def teardown(self) -> None:
        """After everything was flushed whole, the extents alone are the content."""
        if self.taken is not None:
            self.cut_it()
        while self.cut:
            self.finish()
        flush(self.file, self.store)
        assert not self.file.needs_flush and self.file.bytes_in_memory == 0
        assert self.store.content(len(self.model)) == self.model


AgainstBytes.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
TestAgainstBytes = AgainstBytes.TestCase


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def test_a_stream_in_windows_is_cut_as_in_one_piece() -> None:
    data = noise(20_000)
    once, at_once = File(1, 0), Store(CONTENT)
    once.write(0, data, 0.0)
    flush(once, at_once)
    file, store = File(2, 0), Store(CONTENT)
    for start in range(0, len(data), 700):
        file.write(start, data[start : start + 700], 0.0)
        flush(file, store, whole=False)
    flush(file, store)
    assert store.blocks == at_once.blocks


def test_a_tail_stays_dirty_until_a_whole_flush() -> None:
    file, store = File(1, 0), Store(FixedCutter(64))
    file.write(0, noise(100), 3.0)
    endings, stored = store.store(file.begin_flush(whole=False))
    file.note_cut(endings, 8.0)
    assert file.bytes_in_memory == 100, "it does not count twice"
    assert file.edits(stored[0]) == [Edit(0, 64, (Extent(0, 64, 0, 0),))]
    file.end_flush()
    assert [run.offset for run in file.dirty.runs()] == [64]
    assert file.dirty_since == 8.0 and file.bytes_in_memory == 36


def test_only_the_range_being_appended_to_keeps_its_tail() -> None:
    file = File(1, 0)
    file.write(1000, noise(10), 0.0)
    file.write(0, noise(10), 0.0)
    assert [(request.offset, request.final) for request in file.begin_flush(whole=False)] == [(0, False), (1000, True)]


@pytest.mark.parametrize(("appended", "begins"), [(24, 100), (25, 0)])
def test_a_provisional_block_is_cut_again_once_a_quarter_of_it_came_behind(appended: int, begins: int) -> None:
    file, store = File(1, 0), Store(CONTENT)
    data = noise(100 + appended)
    file.write(0, data[:100], 0.0)
    flush(file, store)
    file.write(100, data[100:], 0.0)
    (request,) = file.begin_flush(whole=True)
    assert request == Request(begins, (data[:100], data[100:])[begins // 100 :], True)


def test_a_block_that_its_content_ended_is_not_cut_again() -> None:
    file, store = File(1, 0), Store(FixedCutter(64))
    file.write(0, noise(64), 0.0)
    flush(file, store)
    file.write(64, noise(64), 0.0)
    assert [request.offset for request in file.begin_flush(whole=True)] == [64]


@pytest.mark.parametrize("changed", ["overwritten", "cut", "cut and grown"])
def test_a_provisional_block_that_was_changed_is_not_cut_again(changed: str) -> None:
    file, store = File(1, 0), Store(CONTENT)
    file.write(0, noise(100), 0.0)
    flush(file, store)
    if changed == "overwritten":
        file.write(50, b"new", 0.0)
    else:
        file.truncate(99)
    if changed == "cut and grown":
        file.truncate(100)
    file.write(100, noise(100), 0.0)
    assert 0 not in [request.offset for request in file.begin_flush(whole=True)]


def test_zeros_become_a_hole() -> None:
    file, store = File(1, 0), Store(CONTENT)
    file.write(0, noise(100) + bytes(1000) + noise(100, seed=1), 0.0)
    flush(file, store)
    assert sum(extent.length for extent in store.extents) == 200
    file.write(0, bytes(100), 0.0)
    assert flush(file, store) == [Edit(0, 100, ())], "zeros over data cut it out"


def test_a_truncation_in_the_middle_of_a_flush_takes_nothing_back() -> None:
    file, store = File(1, 0), Store(CONTENT)
    file.write(0, noise(1000), 0.0)
    taken = file.begin_flush(whole=True)
    file.truncate(300)
    file.truncate(1000)
    edits = finish(file, store, taken, 0.0)
    assert max(edit.end for edit in edits) == 300
    store.edit(edits)
    assert content_of(file, store) == noise(1000)[:300] + bytes(700)


def test_a_failed_flush_lies_under_what_was_written_since() -> None:
    file, store = File(1, 0), Store(CONTENT)
    file.write(0, b"old" * 10, 1.0)
    file.begin_flush(whole=True)
    file.write(3, b"new", 2.0)
    file.truncate(20)
    file.abort_flush(7.0)
    assert content_of(file, store) == (b"old" + b"new" + b"old" * 10)[:20]
    assert file.dirty_since == 2.0
    assert file.bytes_in_memory == 20


def test_an_empty_write_changes_nothing() -> None:
    file = File(1, 10)
    file.write(100, b"", 0.0)
    assert file.size == 10 and not file.needs_flush and file.dirty_since is None


def test_times_alone_ask_for_a_flush_without_data() -> None:
    file, store = File(1, 10), Store(CONTENT)
    file.mtime = 5
    assert file.needs_flush
    assert file.begin_flush(whole=True) == []
    assert finish(file, store, [], 0.0) == []
    assert file.mtime == 5, "whoever stores the times takes them"


@pytest.mark.parametrize("changed", ["overwritten", "cut", "cut and grown"])
def test_a_provisional_block_that_was_changed_while_it_was_flushed_is_not_cut_again(changed: str) -> None:
    file, store = File(1, 0), Store(CONTENT)
    model = bytearray(noise(100))
    file.write(0, bytes(model), 0.0)
    taken = file.begin_flush(whole=True)
    if changed == "overwritten":
        file.write(50, b"new", 0.0)
        model[50:53] = b"new"
    else:
        file.truncate(60)
        model[60:] = b""
    if changed == "cut and grown":
        file.truncate(100)
        model.extend(bytes(40))
    store.edit(finish(file, store, taken, 0.0))
    file.write(len(model), noise(100, seed=1), 0.0)
    model += noise(100, seed=1)
    flush(file, store)
    assert store.content(file.size) == model


@pytest.mark.parametrize("size", [10, 50, 64, 80])
def test_a_tail_that_was_cut_off_while_it_was_flushed_does_not_come_back(size: int) -> None:
    """Before the tail, where it begins, in the middle of it."""
    file, store = File(1, 0), Store(FixedCutter(64))
    file.write(0, noise(100), 0.0)
    taken = file.begin_flush(whole=False)
    file.truncate(size)
    store.edit(finish(file, store, taken, 0.0))
    assert file.bytes_in_memory == max(0, size - 64)
    file.truncate(100)
    assert content_of(file, store) == noise(100)[:size] + bytes(100 - size)
