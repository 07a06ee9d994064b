"""Extents, blocks and packs: where the content of a volume lies and who refers to it.

Above: `volume.Volume` (reads, flushes), `collector` (frees packs). Below: `database`. Implements `block.BlockIndex`.
Invariant: `refs` of a block is the number of extents that name it, `live` of a pack the number of its blocks with
`refs` > 0; a block without references has a `death`, the position of the record in which the last one went. Blocks of
a condemned pack are not in the table, so nothing deduplicates against it. A new block waits in memory for the end of
its transaction, or for a statement that reads its row: until then it is counted without one. So do the extents of a
removed file, which nobody can read any more, and what they count.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infinitfs.block.index import Location, NewFrame
from infinitfs.block.pack import Entry
from infinitfs.file.extents import END, Edit, Extent, edited
from infinitfs.volume.database import Database
from infinitfs.volume.inodes import GATHERED

_KEPT = 8192  # extents in memory, about 5 MiB
STEP = 64  # extents that come or go without letting another task run, in some 2 ms
_LEAST = 4096  # bytes that extents have, but for a few


@dataclass(slots=True)
class _NewBlock:
    """A row of `blocks` to be."""

    frame: NewFrame
    pack: int
    birth: int
    refs: int = 0
    death: int | None = None


class Blocks:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection = database.connection
        self._new: dict[int, _NewBlock] = {}
        self._numbers: dict[bytes, int] = {}  # those of the new blocks, by id
        self._next = 0
        self._packs: dict[str, int] = {}
        self._live: Counter[int] = Counter()
        self._gone: list[int] = []  # the removed files, and
        self._gone_extents = 0  # theirs, or less
        self._edited: set[int] = set()  # files, in the transaction of this number
        self._transaction = -1
        self._lost: set[int] = set()  # files whose edits were rolled back
        self._known: dict[int, tuple[list[int], list[tuple[Extent, Location]]]] = {}  # by inode: where they start
        self._kept = 0
        self.stored = 0
        """Bytes of all packs, for `statfs`."""

    def load(self) -> None:
        """Read the totals; again after rows were applied from elsewhere."""
        self.forget()
        self._next = self._database.value("SELECT seq FROM sqlite_sequence WHERE name = 'blocks'") + 1
        self.stored = self._database.value("SELECT sum(size) FROM packs")

    def forget(self) -> None:
        """The tables were changed from elsewhere, or are as they were before the transaction."""
        if self._transaction == self._database.transaction:
            self._lost |= self._edited
        self._new.clear()
        self._numbers.clear()
        self._packs.clear()
        self._live.clear()
        self._gone.clear()
        self._gone_extents = 0
        self._forget_extents()

    def write_out(self) -> None:
        """Part of every transaction's end: the tables are as new as memory when this returns."""
        if self._gone:
            gone = [(ino,) for ino in self._gone]
            self._gone.clear()
            self._gone_extents = 0
            changes: Counter[int] = Counter()
            changes.subtract(row[0] for row in self._connection.executemany(_BLOCKS, gone))
            self._connection.executemany("DELETE FROM extents WHERE ino = ?", gone)
            self._count(changes)
        rows = []
        for number, new in self._new.items():
            id, _, offset, length, size = new.frame
            rows.append((number, id, new.pack, offset, length, size, new.refs, new.birth, new.death))
            self._live[new.pack] += new.refs > 0
        if rows:
            self._connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._new.clear()
            self._numbers.clear()
        for pack, change in self._live.items():
            if change:
                self._connection.execute("UPDATE packs SET live = live + ? WHERE pack = ?", (change, pack))
        self._live.clear()

    # --- the index that block/ asks for ---

    def find(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        found = {id: self._numbers[id] for id in ids if id in self._numbers}
        others = [(id,) for id in ids if id not in found]
        return found | dict(self._database.rows_of_each("SELECT id, block FROM blocks WHERE id = ?", others))

    def add(self, frames: Sequence[NewFrame]) -> dict[bytes, int]:
        self._database.begin()
        added = {}
        for frame in frames:
            pack = self._packs.get(frame.pack) or self._enter_pack(frame.pack)
            added[frame.id] = self._numbers[frame.id] = self._next
            self._new[self._next] = _NewBlock(frame, pack, self._database.position)
            self._next += 1
        return added

    def _enter_pack(self, name: str) -> int:
        row = self._database.row("SELECT pack FROM packs WHERE name = ?", (bytes.fromhex(name),))
        if row is None:
            row = self._database.row(
                "INSERT INTO packs (name, size, live, birth, condemned) VALUES (?, 0, 0, ?, NULL) RETURNING pack",
                (bytes.fromhex(name), self._database.position),
            )
        self._packs = {name: row[0]}  # one pack is open at a time
        return int(row[0])

    def locate(self, blocks: Iterable[int]) -> dict[int, Location]:
        self.write_out()
        located = {}
        for block in blocks:
            row = self._database.row(_LOCATE, (block,))
            if row:
                located[block] = _location(row)
        return located

    # --- packs ---

    def close_pack(self, name: str, size: int) -> None:
        """The pack has got its index and is `size` bytes; it waits for its upload before the next record."""
        self._database.begin()
        pack = self._enter_pack(name)
        self._forget_extents()  # for the locations in it say that the pack is open
        self._connection.execute("UPDATE packs SET size = ? WHERE pack = ?", (size, pack))
        self._connection.execute(
            "INSERT INTO staged VALUES (?, ?, ?, 0)", (bytes.fromhex(name), size, self._database.position)
        )
        self.stored += size

    def unfinished(self) -> dict[str, tuple[int, list[Entry]]]:
        """The packs this machine has that the storage may not: size (0 while open) and frames of the open ones."""
        self.write_out()
        packs: dict[str, tuple[int, list[Entry]]] = {}
        for name, size in self._database.rows("SELECT pack, size FROM staged"):
            packs[bytes(name).hex()] = size, []
        for pack, name in self._database.rows("SELECT pack, name FROM packs WHERE size = 0"):
            packs[bytes(name).hex()] = 0, self.entries(pack)
        return packs

    def entries(self, pack: int) -> list[Entry]:
        self.write_out()
        return [
            Entry(bytes(row[0]), *row[1:])
            for row in self._connection.execute(
                "SELECT id, offset, length, size FROM blocks WHERE pack = ? ORDER BY offset", (pack,)
            )
        ]

    # --- extents ---

    def extents(self, ino: int, offset: int, end: int) -> list[tuple[Extent, Location]]:
        """What covers `[offset, end)` of a file, in order, with where it lies."""
        if self._new:
            self.write_out()
        return [
            (Extent(*row[:4]), _location(row[4:]))
            for row in self._database.rows(_COVERING, (ino, ino, offset, offset, end))
            if row[0] + row[1] > offset
        ]

    def covering(self, ino: int, offset: int, end: int) -> tuple[Extent, Location] | None:
        """The extent that covers all of `[offset, end)` of a file, with where it lies, None without one. What was found
        before is in memory."""
        if ino not in self._known:
            if self._kept >= _KEPT:
                self._forget_extents()
            self._known[ino] = [], []
            self._kept += 1
        starts, known = self._known[ino]
        place = bisect_right(starts, offset)
        if place and end <= known[place - 1][0].end:
            return known[place - 1]
        found = self.extents(ino, offset, end)
        if len(found) != 1 or found[0][0].offset > offset or end > found[0][0].end:
            return None
        starts.insert(place, found[0][0].offset)
        known.insert(place, found[0])
        self._kept += 1
        return found[0]

    def _forget_extents(self) -> None:
        self._known.clear()
        self._kept = 0

    def edit(self, ino: int, edits: Sequence[Edit], allocated: int) -> int:
        """Change the extent map of a file, of which `allocated` bytes are stored; returns how many are then. The edits
        are in ascending order and do not overlap."""
        self._database.begin()
        if self._transaction != self._database.transaction:
            self._transaction = self._database.transaction
            self._edited.clear()
        self._edited.add(ino)
        return self._edit(ino, edits, allocated)

    def shorten(self, ino: int, size: int, allocated: int) -> int:
        """As `edit`, for a file that nobody reads any more: `check` is not about it."""
        self._database.begin()
        return self._edit(ino, [Edit(size, END, ())], allocated)

    def _edit(self, ino: int, edits: Sequence[Edit], allocated: int) -> int:
        self._known.pop(ino, None)
        old = self._overlapping(ino, edits) if allocated else []
        new = edited(old, edits)
        if old:
            kept = {extent.offset for extent in new}
            self._connection.executemany(
                "DELETE FROM extents WHERE ino = ? AND offset = ?",
                [(ino, extent.offset) for extent in old if extent.offset not in kept],
            )
        self._connection.executemany(
            "INSERT OR REPLACE INTO extents VALUES (?, ?, ?, ?, ?)", [(ino, *extent) for extent in new]
        )
        changes = Counter(extent.block for extent in new)
        changes.subtract(extent.block for extent in old)
        self._count(changes)
        return allocated + sum(extent.length for extent in new) - sum(extent.length for extent in old)

    def check(self, ino: int) -> None:
        """Raise what the database failed with where the tables do not say any more what a file was told to have: its
        bytes have left memory."""
        if ino in self._lost and self._database.failed is not None:
            raise self._database.failed

    def _overlapping(self, ino: int, edits: Sequence[Edit]) -> list[Extent]:
        """The extents that edits touch, in order."""
        ranges = [(ino, ino, edit.offset, edit.offset, edit.end, edit.offset) for edit in edits]
        touched = {row[0]: Extent(*row) for row in self._database.rows_of_each(_OVERLAPPING, ranges)}
        return list(touched.values())

    def step(self, ino: int, size: int, allocated: int, most: int) -> int:
        """To how many bytes, `size` or more, a file can be cut so that about `most` of its extents go, which have
        `allocated` bytes."""
        if allocated <= most * _LEAST:
            return size
        row = self._database.row(_STEPS_BACK, (ino, size, most))
        return size if row is None else int(row[0])

    def remove_extents(self, ino: int, allocated: int) -> None:
        """The file has no extents from now on, and had no more than STEP, with `allocated` bytes; nobody edits them
        again."""
        self._database.begin()
        self._known.pop(ino, None)
        self._gone.append(ino)
        self._gone_extents += min(allocated // _LEAST + 1, STEP)
        if self._gone_extents >= GATHERED:
            self.write_out()

    def _count(self, changes: Counter[int]) -> None:
        stored = []
        for block, change in changes.items():
            new = self._new.get(block)
            if new is not None:
                new.refs += change
                new.death = None if new.refs else self._database.position
            elif change:
                stored.append((block,))
        if not stored:
            return
        rows = []
        for block, refs, pack in self._database.rows_of_each(_REFS, stored):
            counted = refs + changes[block]
            self._live[pack] += (counted > 0) - (refs > 0)
            rows.append((counted, None if counted else self._database.position, block))
        self._connection.executemany("UPDATE blocks SET refs = ?, death = ? WHERE block = ?", rows)


_BLOCKS = "SELECT block FROM extents WHERE ino = ?"
_STEPS_BACK = "SELECT offset FROM extents WHERE ino = ? AND offset >= ? ORDER BY offset DESC LIMIT 1 OFFSET ?"
_REFS = "SELECT block, refs, pack FROM blocks WHERE block = ?"
_LOCATION = "blocks.block, blocks.id, packs.name, packs.size, blocks.offset, blocks.length, blocks.size"
_LOCATE = f"SELECT {_LOCATION} FROM blocks JOIN packs USING (pack) WHERE block = ?"
# From the last extent that starts at or before the range on, so that a long file costs no scan.
_RANGE = (
    " WHERE extents.ino = ? AND extents.offset >="
    " coalesce((SELECT max(offset) FROM extents WHERE ino = ? AND offset <= ?), ?) AND extents.offset < ?"
)
_OVERLAPPING = (
    f"SELECT offset, length, block, skip FROM extents{_RANGE} AND extents.offset + length > ? ORDER BY extents.offset"
)
_COVERING = (
    f"SELECT extents.offset, extents.length, extents.block, extents.skip, {_LOCATION}"
    " FROM extents JOIN blocks USING (block) JOIN packs USING (pack)" + _RANGE + " ORDER BY extents.offset"
)


def _location(row: tuple[int, bytes, bytes, int, int, int, int]) -> Location:
    block, id, pack, pack_size, offset, length, size = row
    return Location(block, bytes(id), bytes(pack).hex(), pack_size, offset, length, size)
