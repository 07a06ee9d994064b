"""The table of inodes, through memory: a row is written once a transaction, and read once where its number is known.

Above: `namespace`. Below: `database`.
Invariant: what memory has is at least as new as the table; rows that are newer reach it at the end of their
transaction, or before a statement that reads the table itself (`write_out`). A transaction that is rolled back takes
them along. A thousand files made in one directory change its row a thousand times, and write it once.
"""

import stat
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from infinitfs.errors import NoSuchEntry
from infinitfs.volume.database import Database

GATHERED = 1000  # removed inodes that wait: the kernel forgets up to 65,000 at a time, and others want their turn
_KEPT = 16384  # rows in memory, about 10 MiB


Attributes = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""What programs see of an inode: its fields from `ino` to `ctime`."""


class Inode(NamedTuple):
    """A row of `inodes`. `size` and `allocated` in bytes, times in nanoseconds; `parent` of a directory, whose `size`
    grows with its entries."""

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    allocated: int
    rdev: int
    atime: int
    mtime: int
    ctime: int
    created: int
    parent: int
    target: bytes | None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def attributes(self) -> Attributes:
        return self[:11]

    def changed(self, **fields: int) -> "Inode":
        """As `_replace`, in half the time."""
        row: list[Any] = [*self]
        for field, value in fields.items():
            row[_PLACES[field]] = value
        return _inode(row)


_PLACES = {field: place for place, field in enumerate(Inode._fields)}
_inode = partial(tuple.__new__, Inode)  # of a row; `Inode(*row)` is a call of Python

_SELECT = f"SELECT {', '.join(Inode._fields)} FROM inodes WHERE ino = ?"
_INSERT = f"INSERT INTO inodes VALUES ({', '.join('?' * len(Inode._fields))})"
_CHANGING = ("mode", "uid", "gid", "nlink", "size", "allocated", "atime", "mtime", "ctime", "parent")
_UPDATE = f"UPDATE inodes SET {', '.join(f'{field} = ?' for field in _CHANGING)} WHERE ino = ?"
_DELETE = "DELETE FROM inodes WHERE ino = ?"


class Inodes:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[int, Inode] = {}
        self._new: dict[int, None] = {}
        self._changed: dict[int, None] = {}
        self._gone: set[int] = set()

    def get(self, ino: int) -> Inode:
        """Raises NoSuchEntry."""
        inode = self._rows.get(ino)
        if inode is None:
            row = self._database.row(_SELECT, (ino,))
            if row is None or ino in self._gone:
                raise NoSuchEntry(path=f"inode {ino}")
            inode = self._keep(_inode(row))
        return inode

    def found(self, row: Sequence[Any]) -> Inode:
        """The inode of a row that a join brought; one that is not in the table yet is null there but for its number.

        Not kept: the kernel asks for a name once, and memory that goes round serves all requests from the processor's
        cache. A stat among a million files took some 2 us longer where the last 16,384 were kept.
        """
        return self._rows.get(row[0]) or _inode(row)

    def _keep(self, inode: Inode) -> Inode:
        if len(self._rows) >= _KEPT:
            self._rows = {ino: self._rows[ino] for ino in (*self._new, *self._changed)}
        self._rows[inode.ino] = inode
        return inode

    def add(self, inode: Inode) -> None:
        self._database.begin()
        self._keep(inode)
        self._new[inode.ino] = None

    def update(self, ino: int, **fields: int) -> Inode:
        return self.put(self.get(ino).changed(**fields))

    def put(self, inode: Inode) -> Inode:
        """A new version of an inode that there is."""
        self._database.begin()
        self._keep(inode)  # first: what has changed must have its row in memory
        if inode.ino not in self._new:
            self._changed[inode.ino] = None
        return inode

    def remove(self, ino: int) -> None:
        self._database.begin()
        self._rows.pop(ino, None)
        self._changed.pop(ino, None)
        if ino in self._new:
            del self._new[ino]
        else:
            self._gone.add(ino)
            if len(self._gone) >= GATHERED:
                self.write_out()

    def write_out(self) -> None:
        """The table is as new as memory when this returns."""
        if self._new:
            self._database.connection.executemany(_INSERT, [self._rows[ino] for ino in self._new])
            self._new.clear()
        if self._changed:
            rows = (self._rows[ino] for ino in self._changed)
            self._database.connection.executemany(
                _UPDATE, [(*(getattr(row, field) for field in _CHANGING), row.ino) for row in rows]
            )
            self._changed.clear()
        if self._gone:
            self._database.connection.executemany(_DELETE, [(ino,) for ino in self._gone])
            self._gone.clear()

    def forget(self) -> None:
        """The table was changed from elsewhere, or is as it was before the transaction."""
        self._rows.clear()
        self._gone.clear()
        self._new.clear()
        self._changed.clear()
