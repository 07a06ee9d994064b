"""The table of extended attributes, with the names of those who were asked lately in memory.

Above: `namespace`. Below: `database`.
Invariant: what memory says of an inode is what the table says. Most inodes have no attribute and are asked for some
all the same: the kernel wants `security.capability` before the first write to a file, and every new name its
directory's default ACL.
"""

from infinitfs.volume.database import Database

_KEPT = 16384  # inodes whose names are in memory

_NONE: frozenset[bytes] = frozenset()


class Xattrs:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._names: dict[int, frozenset[bytes]] = {}

    def names(self, ino: int) -> frozenset[bytes]:
        names = self._names.get(ino)
        if names is None:
            rows = self._database.rows("SELECT name FROM xattrs WHERE ino = ?", (ino,))
            names = self._know(ino, frozenset(row[0] for row in rows))
        return names

    def _know(self, ino: int, names: frozenset[bytes]) -> frozenset[bytes]:
        if len(self._names) >= _KEPT:
            self._names.clear()
        self._names[ino] = names
        return names

    def expect_none(self, ino: int) -> None:
        """The inode is new."""
        self._know(ino, _NONE)

    def get(self, ino: int, name: bytes) -> bytes | None:
        if name not in self.names(ino):
            return None
        row = self._database.row("SELECT value FROM xattrs WHERE ino = ? AND name = ?", (ino, name))
        return bytes(row[0])

    def put(self, ino: int, name: bytes, value: bytes) -> None:
        self._database.begin()
        self._know(ino, self.names(ino) | {name})
        self._database.change("INSERT OR REPLACE INTO xattrs VALUES (?, ?, ?)", (ino, name, value))

    def drop(self, ino: int, name: bytes) -> None:
        self._database.begin()
        self._know(ino, self.names(ino) - {name})
        self._database.change("DELETE FROM xattrs WHERE ino = ? AND name = ?", (ino, name))

    def remove(self, ino: int) -> None:
        """All of an inode's, which goes."""
        if self.names(ino):
            self._database.begin()
            self._database.change("DELETE FROM xattrs WHERE ino = ?", (ino,))
        self._names.pop(ino, None)

    def forget(self) -> None:
        """The table was changed from elsewhere, or is as it was before the transaction."""
        self._names.clear()
