"""Extents, blocks and packs: where the content of a volume lies and who refers to it.

Above: `volume.Volume` (reads, flushes), `collector` (frees packs). Below: `database`. Implements `block.BlockIndex`.
Invariant: `refs` of a block is the number of extents that name it, `live` of a pack the number of its blocks with
`refs` > 0; a block without references has a `death`, the position of the record in which the last one went. Blocks of
a condemned pack are not in the table, so nothing deduplicates against it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from infinitfs.block.index import Location, NewFrame
from infinitfs.block.pack import Entry
from infinitfs.file.extents import Edit, Extent, remainders
from infinitfs.volume.database import Database

END = 2**63 - 1  # behind the last byte any file can have


class Blocks:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection = database.connection
        self._packs: dict[str, int] = {}
        self._live: Counter[int] = Counter()
        self.stored = 0
        """Bytes of all packs, for `statfs`."""

    def load(self) -> None:
        """Read the totals; again after rows were applied from elsewhere."""
        self._packs.clear()
        self.stored = self._database.value("SELECT sum(size) FROM packs")

    def write_counters(self) -> None:
        """Part of every transaction's end."""
        for pack, change in self._live.items():
            if change:
                self._connection.execute("UPDATE packs SET live = live + ? WHERE pack = ?", (change, pack))
        self._live.clear()

    # --- the index that block/ asks for ---

    def find(self, ids: Iterable[bytes]) -> dict[bytes, int]:
        found = {}
        for id in ids:
            row = self._database.row("SELECT block FROM blocks WHERE id = ?", (id,))
            if row:
                found[id] = row[0]
        return found

    def add(self, frames: Sequence[NewFrame]) -> dict[bytes, int]:
        self._database.begin()
        added = {}
        for frame in frames:
            pack = self._packs.get(frame.pack) or self._enter_pack(frame.pack)
            row = self._database.row(
                "INSERT INTO blocks (id, pack, offset, length, size, refs, birth, death)"
                " VALUES (?, ?, ?, ?, ?, 0, ?, NULL) RETURNING block",
                (frame.id, pack, frame.offset, frame.length, frame.size, self._database.position),
            )
            added[frame.id] = row[0]
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
        self._connection.execute("UPDATE packs SET size = ? WHERE pack = ?", (size, pack))
        self._connection.execute(
            "INSERT INTO staged VALUES (?, ?, ?, 0)", (bytes.fromhex(name), size, self._database.position)
        )
        self.stored += size

    def unfinished(self) -> dict[str, tuple[int, list[Entry]]]:
        """The packs this machine has that the storage may not: size (0 while open) and frames of the open ones."""
        packs: dict[str, tuple[int, list[Entry]]] = {}
        for name, size in self._database.rows("SELECT pack, size FROM staged"):
            packs[bytes(name).hex()] = size, []
        for pack, name in self._database.rows("SELECT pack, name FROM packs WHERE size = 0"):
            packs[bytes(name).hex()] = 0, self.entries(pack)
        return packs

    def entries(self, pack: int) -> list[Entry]:
        return [
            Entry(bytes(row[0]), *row[1:])
            for row in self._connection.execute(
                "SELECT id, offset, length, size FROM blocks WHERE pack = ? ORDER BY offset", (pack,)
            )
        ]

    # --- extents ---

    def extents(self, ino: int, offset: int, end: int) -> list[tuple[Extent, Location]]:
        """What covers `[offset, end)` of a file, in order, with where it lies."""
        return [
            (Extent(*row[:4]), _location(row[4:]))
            for row in self._connection.execute(_COVERING, (ino, ino, offset, offset, end))
            if row[0] + row[1] > offset
        ]

    def edit(self, ino: int, edits: Iterable[Edit]) -> int:
        """Change the extent map of a file; returns by how many bytes what it allocates has grown."""
        self._database.begin()
        changes: Counter[int] = Counter()
        grown = 0
        for edit in edits:
            old = [
                extent
                for row in self._connection.execute(_OVERLAPPING, (ino, ino, edit.offset, edit.offset, edit.end))
                if (extent := Extent(*row)).end > edit.offset
            ]
            new = [*remainders(old, edit.offset, edit.end), *edit.extents]
            for extent in old:
                self._connection.execute("DELETE FROM extents WHERE ino = ? AND offset = ?", (ino, extent.offset))
                changes[extent.block] -= 1
                grown -= extent.length
            for extent in new:
                self._connection.execute("INSERT INTO extents VALUES (?, ?, ?, ?, ?)", (ino, *extent))
                changes[extent.block] += 1
                grown += extent.length
        self._count(changes)
        return grown

    def remove_extents(self, ino: int) -> None:
        self._database.begin()
        rows = self._connection.execute("SELECT block, count(*) FROM extents WHERE ino = ? GROUP BY block", (ino,))
        self._count(Counter({block: -count for block, count in rows}))
        self._connection.execute("DELETE FROM extents WHERE ino = ?", (ino,))

    def _count(self, changes: Counter[int]) -> None:
        for block, change in changes.items():
            if not change:
                continue
            refs, pack = self._database.row(
                "UPDATE blocks SET refs = refs + ? WHERE block = ? RETURNING refs, pack", (change, block)
            )
            if refs == 0:
                self._connection.execute(
                    "UPDATE blocks SET death = ? WHERE block = ?", (self._database.position, block)
                )
                self._live[pack] -= 1
            elif refs == change:
                self._connection.execute(
                    "UPDATE blocks SET death = NULL WHERE block = ? AND death IS NOT NULL", (block,)
                )
                self._live[pack] += 1


_LOCATION = "blocks.block, blocks.id, packs.name, packs.size, blocks.offset, blocks.length, blocks.size"
_LOCATE = f"SELECT {_LOCATION} FROM blocks JOIN packs USING (pack) WHERE block = ?"
# From the last extent that starts at or before the range on, so that a long file costs no scan.
_RANGE = (
    " WHERE extents.ino = ? AND extents.offset >="
    " coalesce((SELECT max(offset) FROM extents WHERE ino = ? AND offset <= ?), ?) AND extents.offset < ?"
    " ORDER BY extents.offset"
)
_OVERLAPPING = "SELECT offset, length, block, skip FROM extents" + _RANGE
_COVERING = (
    f"SELECT extents.offset, extents.length, extents.block, extents.skip, {_LOCATION}"
    " FROM extents JOIN blocks USING (block) JOIN packs USING (pack)" + _RANGE
)


def _location(row: tuple[int, bytes, bytes, int, int, int, int]) -> Location:
    block, id, pack, pack_size, offset, length, size = row
    return Location(block, bytes(id), bytes(pack).hex(), pack_size, offset, length, size)
