"""Extents, blocks and packs: what is counted equals what a recount finds, and edits cost no scan of the file."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infinitfs.block.index import Location, NewFrame
from infinitfs.errors import LocalDiskFailed
from infinitfs.file.extents import END, Edit, Extent
from infinitfs.transfer.files import inline
from infinitfs.volume import blocks as module
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.database import Database
from infinitfs.volume.inodes import GATHERED

KEY = bytes(32)
SIZE = 100  # of every block
LENGTH = 2000  # of every file


def open_blocks(folder: Path) -> tuple[Database, Blocks]:
    database = Database(folder / "volume.db", KEY, inline)
    database.create()
    blocks = Blocks(database)
    database.before_commit = blocks.write_out
    blocks.load()
    database.position = 1
    return database, blocks


def block_id(number: int) -> bytes:
    return number.to_bytes(32, "big")


def pack_name(number: int) -> str:
    return number.to_bytes(16, "big").hex()


def add(blocks: Blocks, pack: int, ids: list[int]) -> dict[int, int]:
    frames = [NewFrame(block_id(id), pack_name(pack), i * SIZE, SIZE, SIZE) for i, id in enumerate(ids)]
    added = blocks.add(frames)
    return {id: added[block_id(id)] for id in ids}


class Bookkeeping(RuleBasedStateMachine):
    """Files as byte strings of block numbers: byte i of a file comes from (block, offset in block), or is a hole."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database, self.blocks = open_blocks(Path(self.folder.name))
        self.files: dict[int, list[tuple[int, int] | None]] = {ino: [None] * LENGTH for ino in (1, 2, 3)}
        self.numbers: list[int] = []
        self.next_id = 0
        self.next_pack = 0
        self.deaths: dict[int, int | None] = {}
        self.counted: Counter[int] = Counter()

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @rule(count=st.integers(1, 4), same_pack=st.booleans())
    def store(self, count: int, same_pack: bool) -> None:
        if not same_pack or not self.next_pack:
            self.next_pack += 1
        ids = list(range(self.next_id, self.next_id + count))
        self.next_id += count
        numbers = add(self.blocks, self.next_pack, ids)
        assert self.blocks.find([block_id(id) for id in ids]) == {block_id(id): n for id, n in numbers.items()}
        assert not set(numbers.values()) & set(self.numbers)
        self.numbers.extend(numbers.values())
        self.deaths |= dict.fromkeys(numbers.values())

    @precondition(lambda self: self.numbers)
    @rule(
        ino=st.integers(1, 3),
        changes=st.lists(
            st.tuples(
                st.integers(0, LENGTH - 1) | st.integers(0, 20),
                st.lists(st.tuples(st.integers(0, 30), st.integers(1, SIZE), st.integers(0, 40)), max_size=4),
                st.integers(0, 300),
            ),
            max_size=4,
        ),
    )
    def edit(self, ino: int, changes: list[tuple[int, list[tuple[int, int, int]], int]]) -> None:
        """Edits in ascending order, each (bytes left as they are before it, pieces, hole behind them)."""
        edits: list[Edit] = []
        for gap, pieces, rest in changes:
            start = gap + (edits[-1].end if edits else 0)
            if start < LENGTH:
                edits.append(self.place(self.files[ino], start, pieces, rest))
        before = self.allocated(ino)
        assert self.blocks.edit(ino, edits, before) == self.allocated(ino)
        self.note_deaths()

    def place(
        self, content: list[tuple[int, int] | None], start: int, pieces: list[tuple[int, int, int]], rest: int
    ) -> Edit:
        """`pieces` are (block, length, hole before it); then a hole of `rest`."""
        extents, offset = [], start
        for which, length, hole in pieces:
            block = self.numbers[which % len(self.numbers)]
            length = min(length, LENGTH - offset - hole)
            if length <= 0:
                break
            content[offset : offset + hole] = [None] * hole
            offset += hole
            skip = SIZE - length
            extents.append(Extent(offset, length, block, skip))
            content[offset : offset + length] = [(block, skip + i) for i in range(length)]
            offset += length
        end = min(max(offset, start + 1) + rest, LENGTH)
        content[offset:end] = [None] * (end - offset)
        return Edit(start, end, tuple(extents))

    def allocated(self, ino: int) -> int:
        return self.database.value("SELECT sum(length) FROM extents WHERE ino = ?", (ino,))

    @rule(ino=st.integers(1, 3), size=st.integers(0, LENGTH))
    def truncate(self, ino: int, size: int) -> None:
        self.blocks.edit(ino, [Edit(size, END, ())], self.allocated(ino))
        self.files[ino][size:] = [None] * (LENGTH - size)
        self.note_deaths()

    @rule(ino=st.integers(1, 3))
    def remove(self, ino: int) -> None:
        self.blocks.remove_extents(ino, self.allocated(ino))
        self.files[ino] = [None] * LENGTH
        self.note_deaths()

    def note_deaths(self) -> None:
        """When the last reference of a block went, by a recount of the extents."""
        self.blocks.write_out()
        refs = Counter(row[0] for row in self.database.rows("SELECT block FROM extents"))
        for block in self.numbers:
            if refs[block]:
                self.deaths[block] = None
            elif self.counted[block]:
                self.deaths[block] = self.database.position
        self.counted = refs

    @rule()
    def next_record(self) -> None:
        self.database.commit()
        self.database.position += 1

    @rule()
    def commit(self) -> None:
        self.database.commit()

    @rule()
    def reload(self) -> None:
        self.database.commit()
        self.blocks.load()

    @rule(ino=st.integers(1, 3), offset=st.integers(0, LENGTH - 1), length=st.integers(1, LENGTH))
    def read(self, ino: int, offset: int, length: int) -> None:
        end = min(offset + length, LENGTH)
        found: list[tuple[int, int] | None] = [None] * LENGTH
        last = 0
        for extent, where in self.blocks.extents(ino, offset, end):
            assert extent.offset >= last
            assert extent.offset < end
            assert extent.end > offset
            assert where == self.blocks.locate([extent.block])[extent.block]
            last = extent.end
            found[extent.offset : extent.end] = [(extent.block, extent.skip + i) for i in range(extent.length)]
        assert found[offset:end] == self.files[ino][offset:end]

    @rule(ino=st.integers(1, 3), offset=st.integers(0, LENGTH - 1), length=st.integers(1, SIZE // 2))
    def read_of_one_extent(self, ino: int, offset: int, length: int) -> None:
        end = min(offset + length, LENGTH)
        for _ in range(2):  # from the table, and from memory
            wanted = [each for each in self.blocks.extents(ino, offset, end) if each[0].offset <= offset]
            found = self.blocks.covering(ino, offset, end)
            assert found == (wanted[0] if wanted and wanted[0][0].end >= end else None)

    @invariant()
    def the_books_are_right(self) -> None:
        self.blocks.write_out()
        refs = Counter(row[0] for row in self.database.rows("SELECT block FROM extents"))
        rows = self.database.rows("SELECT block, refs, death FROM blocks")
        assert {row[0]: row[1] for row in rows} == {block: refs[block] for block in self.numbers}
        assert {row[0]: row[2] for row in rows} == self.deaths
        if not self.database.in_transaction:
            live = dict(self.database.rows("SELECT pack, live FROM packs"))
            recount = Counter(row[0] for row in self.database.rows("SELECT pack FROM blocks WHERE refs > 0"))
            assert live == {pack: recount[pack] for pack in live}


Bookkeeping.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
test_bookkeeping = Bookkeeping.TestCase


# --- single cases ---


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Database, Blocks]]:
    database, blocks = open_blocks(tmp_path)
    yield database, blocks
    database.close()


def test_find_and_locate_leave_out_what_is_not_there(opened: tuple[Database, Blocks]) -> None:
    _, blocks = opened
    numbers = add(blocks, 7, [1, 2])
    assert blocks.find([block_id(1), block_id(3)]) == {block_id(1): numbers[1]}
    located = blocks.locate([numbers[2], 99])
    assert list(located) == [numbers[2]]
    where = located[numbers[2]]
    assert (where.id, where.pack, where.pack_size) == (block_id(2), pack_name(7), 0)
    assert (where.offset, where.length, where.size) == (SIZE, SIZE, SIZE)


def test_a_number_is_never_given_twice(opened: tuple[Database, Blocks]) -> None:
    """Whoever still holds the number of a block that was freed does not find another one under it."""
    database, blocks = opened
    (first,) = add(blocks, 1, [1]).values()
    database.commit()
    database.connection.execute("DELETE FROM blocks; DELETE FROM packs")
    blocks.load()
    (second,) = add(blocks, 1, [2]).values()
    assert second > first
    blocks.write_out()
    assert database.value("SELECT pack FROM blocks") == 2


def test_a_closed_pack_waits_for_its_upload_before_the_next_record(opened: tuple[Database, Blocks]) -> None:
    database, blocks = opened
    numbers = add(blocks, 1, [1, 2])
    open_entries = blocks.unfinished()[pack_name(1)]
    assert open_entries[0] == 0
    assert [entry.id for entry in open_entries[1]] == [block_id(1), block_id(2)]
    database.position = 5
    blocks.close_pack(pack_name(1), 300)
    assert database.rows("SELECT * FROM staged") == [(bytes.fromhex(pack_name(1)), 300, 5, 0)]
    assert blocks.unfinished() == {pack_name(1): (300, [])}
    assert blocks.stored == 300
    assert blocks.locate([numbers[1]])[numbers[1]].pack_size == 300
    database.connection.execute("DELETE FROM staged")
    assert blocks.unfinished() == {}


def test_what_covers_a_range_is_asked_for_once(
    opened: tuple[Database, Blocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, blocks = opened
    monkeypatch.setattr(module, "_KEPT", 3)
    numbers = add(blocks, 1, list(range(4)))
    extents = tuple(Extent(i * SIZE, SIZE, numbers[i], 0) for i in range(4))
    blocks.edit(7, [Edit(0, 4 * SIZE, extents)], 0)
    asked = 0
    whole = blocks.extents

    def counted(ino: int, offset: int, end: int) -> list[tuple[Extent, Location]]:
        nonlocal asked
        asked += 1
        return whole(ino, offset, end)

    monkeypatch.setattr(blocks, "extents", counted)
    for index in (2, 0, 1, 0, 1, 2):
        found = blocks.covering(7, index * SIZE + 5, index * SIZE + 10)
        assert found is not None and found[0] == extents[index]
    assert asked == 3
    assert blocks.covering(7, SIZE - 1, SIZE + 1) is None, "two extents"
    found = blocks.covering(7, 3 * SIZE, 4 * SIZE)
    assert found is not None and found[1].pack_size == 0
    blocks.close_pack(pack_name(1), 5 * SIZE)
    found = blocks.covering(7, 0, 1)
    assert found is not None and found[1].pack_size == 5 * SIZE, "no more the location in an open pack"


def test_an_edit_of_a_long_file_touches_a_few_rows(opened: tuple[Database, Blocks]) -> None:
    """SQLite's virtual machine makes some hundred steps an edit; a scan of these 20,000 extents makes 100,000s."""
    database, blocks = opened
    (block,) = add(blocks, 1, [1]).values()
    extents = tuple(Extent(i * SIZE, SIZE, block, 0) for i in range(20_000))
    stored = blocks.edit(1, [Edit(0, 20_000 * SIZE, extents)], 0)
    assert stored == 20_000 * SIZE
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    database.connection.set_progress_handler(count, 1)
    middle = 10_000 * SIZE + SIZE // 2
    edit = Edit(middle, middle + SIZE, (Extent(middle, 50, block, 0),))
    assert blocks.edit(1, [edit], stored) == stored + 50 - SIZE
    assert len(blocks.extents(1, middle, middle + SIZE)) == 1
    edit = Edit(30_000 * SIZE, 30_001 * SIZE, (Extent(30_000 * SIZE, SIZE, block, 0),))
    assert blocks.edit(1, [edit], stored) == stored + SIZE
    database.connection.set_progress_handler(None)
    assert 50 < steps < 2000


def test_extents_of_removed_files_do_not_all_wait_for_the_commit(opened: tuple[Database, Blocks]) -> None:
    database, blocks = opened
    files = range(1, 1 + 5 * GATHERED // 2)
    numbers = add(blocks, 1, [1, 2])
    for ino in files:
        blocks.edit(ino, [Edit(0, 10, (Extent(0, 10, numbers[1 + ino % 2], 0),))], 0)
    database.commit()
    for ino in files:
        blocks.remove_extents(ino, 10)
    assert database.in_transaction
    assert database.value("SELECT count(*) FROM extents") == GATHERED // 2
    database.commit()
    assert database.value("SELECT count(*) FROM extents") == 0
    assert database.rows("SELECT refs FROM blocks") == [(0,), (0,)]


def test_nor_do_those_of_large_ones(opened: tuple[Database, Blocks], monkeypatch: pytest.MonkeyPatch) -> None:
    database, blocks = opened
    monkeypatch.setattr(module, "GATHERED", 30)
    monkeypatch.setattr(module, "_LEAST", SIZE)
    numbers = add(blocks, 1, list(range(10)))
    whole = Edit(0, 10 * SIZE, tuple(Extent(i * SIZE, SIZE, number, 0) for i, number in numbers.items()))
    for ino in range(1, 6):
        blocks.edit(ino, [whole], 0)
    for ino in range(1, 6):
        blocks.remove_extents(ino, 10 * SIZE)
    assert database.value("SELECT count(*) FROM extents") == 2 * 10, "after the third, of at most 11 each"


def test_a_step_towards_a_size_takes_so_many_extents(
    opened: tuple[Database, Blocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, blocks = opened
    monkeypatch.setattr(module, "_LEAST", SIZE)
    numbers = add(blocks, 1, list(range(10)))
    stored = blocks.edit(
        1, [Edit(0, 20 * SIZE, tuple(Extent(2 * i * SIZE, SIZE, numbers[i], 0) for i in range(10)))], 0
    )
    size, steps = 20 * SIZE, []
    while size > 5 * SIZE:
        size = blocks.step(1, 5 * SIZE, stored, 3)
        stored = blocks.edit(1, [Edit(size, END, ())], stored)
        steps.append(size // SIZE)
    assert steps == [12, 5], "12, 14, 16 and 18; 6, 8 and 10"
    assert stored == 3 * SIZE
    assert blocks.step(1, 0, stored, 2) == 0 < blocks.step(1, 0, stored, 1)
    assert blocks.step(1, 0, 1 * SIZE, 1) == 0, "without a look, for who has so little cannot have more"


def test_only_what_was_told_to_have_something_is_lost_by_a_rollback(opened: tuple[Database, Blocks]) -> None:
    database, blocks = opened
    numbers = add(blocks, 1, [1, 2])
    for ino in (1, 2):
        blocks.edit(ino, [Edit(0, SIZE, (Extent(0, SIZE, numbers[ino], 0),))], 0)
    database.commit()
    blocks.edit(1, [Edit(0, 10, ())], SIZE)
    blocks.shorten(2, 0, SIZE)
    database.failed = LocalDiskFailed(path="volume.db", reason="broken")
    blocks.forget()
    with pytest.raises(LocalDiskFailed):
        blocks.check(1)
    blocks.check(2)
