"""Inodes, dirents and attributes: the tree of a volume.

Above: `volume.Volume`. Below: `inodes`, `xattrs`, `database`. Every method is one synchronous change of the tables:
statements on the event loop, no await, inside the transaction that `Database.begin` opens.
Invariant: after each method link counts, directory times and dirents agree as POSIX.1-2017 states them. An inode
without links stays until `remove`; `unlinked` lists those that a crash left behind.
"""

import stat
from collections.abc import Iterator

from infinitfs.errors import (
    DirectoryNotEmpty,
    EntryExists,
    InvalidOperation,
    IsADirectory,
    NameTooLong,
    NoAttribute,
    NoSpace,
    NoSuchEntry,
    NotADirectory,
    NotPermitted,
)
from infinitfs.volume import acl
from infinitfs.volume.database import Database
from infinitfs.volume.inodes import Attributes, Inode, Inodes
from infinitfs.volume.xattrs import Xattrs

ROOT = 1
NAME_MAX = 255
XATTR_NAMES_MAX = 2**16  # bytes of all attribute names of an inode: listxattr(2) shows no more

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

_ENTRY_SIZE = 32  # bytes by which each entry, "." and ".." included, makes a directory larger: a number without a disk

_JOINED = ", ".join(f"inodes.{field}" for field in Inode._fields)
_LOOKUP = (
    f"SELECT dirents.{_JOINED.removeprefix('inodes.')} FROM dirents LEFT JOIN inodes ON inodes.ino = dirents.ino"
    " WHERE dirents.parent = ? AND name = ?"
)
_ADD = "INSERT OR IGNORE INTO dirents VALUES (?, ?, ?, ?)"
_SEEN = ", ".join(f"inodes.{field}" for field in Inode._fields[: Inode._fields.index("created")])
_LIST = (
    f"SELECT position, name, {_SEEN} FROM dirents JOIN inodes USING (ino)"
    " WHERE dirents.parent = ? AND position > ? ORDER BY position"
)

Entry = tuple[int, bytes, *Attributes]
"""One of a listing: position, name, and the inode's attributes. A plain row: an Inode takes a third as long to make as
the row to read."""


class Namespace:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection = database.connection
        self._inodes = Inodes(database)
        self._xattrs = Xattrs(database)
        self._next = 0
        self._written = 0
        self.inodes = 0
        """How many inodes there are, for `statfs`."""

    # --- life ---

    def create_root(self, uid: int, gid: int, now: int) -> None:
        self._database.begin()
        self._database.change("INSERT INTO numbers VALUES ('next', ?)", (ROOT + 1,))
        self._next = self._written = ROOT + 1
        size = 2 * _ENTRY_SIZE
        self._inodes.add(Inode(ROOT, stat.S_IFDIR | 0o755, uid, gid, 2, size, 0, 0, now, now, now, now, ROOT, None))
        self.inodes = 1

    def load(self) -> None:
        """Read the counters; again after rows were applied from elsewhere."""
        self.forget()
        self._next = self._written = self._database.value("SELECT value FROM numbers WHERE name = 'next'")
        self.inodes = self._database.value("SELECT count(*) FROM inodes")

    def forget(self) -> None:
        """The tables were changed from elsewhere, or are as they were before the transaction."""
        self._inodes.forget()
        self._xattrs.forget()

    def write_out(self) -> None:
        """Part of every transaction's end."""
        self._inodes.write_out()
        if self._next != self._written:
            self._database.change("UPDATE numbers SET value = ? WHERE name = 'next'", (self._next,))
            self._written = self._next

    def _number(self) -> int:
        """A number never used before in this volume: inodes, and places in listings."""
        self._next += 1
        return self._next - 1

    # --- reading ---

    def inode(self, ino: int) -> Inode:
        return self._inodes.get(ino)

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """The inode that `name` leads to, None where there is none. Raises NameTooLong."""
        row = self._database.row(_LOOKUP, (parent, name))
        if row is not None:
            return self._inodes.found(row)
        if name == b"..":
            return self.inode(self.inode(parent).parent)
        if name == b".":
            return self.inode(parent)
        if len(name) > NAME_MAX:
            raise NameTooLong(path=_show(name))
        return None

    def _entry(self, parent: int, name: bytes) -> Inode:
        if name in (b".", b".."):
            raise InvalidOperation(path=_show(name))
        inode = self.lookup(parent, name)
        if inode is None:
            raise NoSuchEntry(path=_show(name))
        return inode

    def entries(self, parent: int, after: int) -> Iterator[Entry]:
        """The entries behind position `after`, in order. Read a bounded number of them and come back with the last
        position: the statement must not stay open across an await."""
        self._inodes.write_out()
        return self._connection.execute(_LIST, (parent, after))

    def unlinked(self) -> list[int]:
        self._inodes.write_out()
        return [row[0] for row in self._connection.execute("SELECT ino FROM inodes WHERE nlink = 0")]

    # --- entries ---

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        now: int,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Inode:
        """A new inode under a new name. Raises EntryExists, NoSuchEntry where the directory was removed."""
        folder = self._folder(parent, name)
        if folder.mode & stat.S_ISGID:
            gid = folder.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        default = None if stat.S_ISLNK(mode) else self._xattrs.get(parent, acl.DEFAULT)
        if default is not None:
            mode = acl.inherited(default, mode)
        number = self._add_entry(parent, name)
        is_directory = stat.S_ISDIR(mode)
        size = 2 * _ENTRY_SIZE if is_directory else len(target or b"")
        inode = Inode(
            number,
            mode,
            uid,
            gid,
            2 if is_directory else 1,
            size,
            0,
            rdev,
            now,
            now,
            now,
            now,
            parent if is_directory else 0,
            target,
        )
        self._inodes.add(inode)
        self._xattrs.expect_none(inode.ino)
        self._touch(parent, now, entries=1, links=int(is_directory))
        if default is not None and acl.says_more(default):
            self._xattrs.put(inode.ino, acl.ACCESS, default)
        if default is not None and is_directory:
            self._xattrs.put(inode.ino, acl.DEFAULT, default)
        self.inodes += 1
        return inode

    def _add_entry(self, parent: int, name: bytes, ino: int | None = None) -> int:
        """A new name, without `ino` of a new inode; returns its place in the listing, which is that inode's number: it
        is new, too. The kernel has seldom missed that there is one: to look first takes as long as to add it."""
        if len(name) > NAME_MAX:
            raise NameTooLong(path=_show(name))
        self._database.begin()
        place = self._next
        if name in (b".", b"..") or not self._database.change(_ADD, (parent, name, place, ino or place)):
            raise EntryExists(path=_show(name))
        return self._number()

    def _folder(self, parent: int, name: bytes) -> Inode:
        """The directory that `name` is to be in; one that was removed takes no names."""
        folder = self.inode(parent)
        if not folder.is_directory:
            raise NotADirectory(path=_show(name))
        if folder.nlink == 0:
            raise NoSuchEntry(path=_show(name))
        return folder

    def _touch(self, folder: int, now: int, *, entries: int = 0, links: int = 0) -> None:
        """A directory changed: its times; so many entries came, and so many of them subdirectories (less than 0:
        they went)."""
        inode = self._inodes.get(folder)
        size, nlink = inode.size + entries * _ENTRY_SIZE, inode.nlink + links
        self._inodes.put(inode.changed(mtime=now, ctime=now, size=size, nlink=nlink))

    def link(self, ino: int, parent: int, name: bytes, now: int) -> Inode:
        inode = self.inode(ino)
        if inode.is_directory:
            raise NotPermitted(path=_show(name))
        if inode.nlink == 0:
            raise NoSuchEntry(path=_show(name))
        self._folder(parent, name)
        self._add_entry(parent, name, ino)
        self._touch(parent, now, entries=1)
        return self._inodes.update(ino, nlink=inode.nlink + 1, ctime=now)

    def unlink(self, parent: int, name: bytes, now: int) -> Inode:
        """Remove a name of something that is no directory; returns the inode as it is then."""
        inode = self._entry(parent, name)
        if inode.is_directory:
            raise IsADirectory(path=_show(name))
        self._database.begin()
        self._database.change("DELETE FROM dirents WHERE parent = ? AND name = ?", (parent, name))
        self._touch(parent, now, entries=-1)
        return self._unlinked(inode, now)

    def rmdir(self, parent: int, name: bytes, now: int) -> Inode:
        inode = self._entry(parent, name)
        self._check_empty(inode, name)
        self._database.begin()
        self._database.change("DELETE FROM dirents WHERE parent = ? AND name = ?", (parent, name))
        self._touch(parent, now, entries=-1, links=-1)
        return self._unlinked(inode, now)

    def _check_empty(self, inode: Inode, name: bytes) -> None:
        if not inode.is_directory:
            raise NotADirectory(path=_show(name))
        if self._database.value("SELECT 1 FROM dirents WHERE parent = ? LIMIT 1", (inode.ino,)):
            raise DirectoryNotEmpty(path=_show(name))

    def _unlinked(self, inode: Inode, now: int) -> Inode:
        nlink = 0 if inode.is_directory else inode.nlink - 1
        return self._inodes.put(inode.changed(nlink=nlink, ctime=now))

    def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        now: int,
        *,
        uid: int = 0,
        gid: int = 0,
    ) -> Inode | None:
        """rename(2), and renameat2(2) with its flags; returns the inode that lost its name, if any.

        WHITEOUT leaves a character device 0/0 of `uid` and `gid` at the old name, which overlay filesystems take for
        "nothing is here".
        """
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
            raise InvalidOperation(path=_show(name))
        if flags & RENAME_EXCHANGE and flags != RENAME_EXCHANGE:
            raise InvalidOperation(path=_show(name))
        moved = self._entry(parent, name)
        self._folder(new_parent, new_name)
        target = self.lookup(new_parent, new_name)
        if flags & RENAME_EXCHANGE:
            if target is None:
                raise NoSuchEntry(path=_show(new_name))
            self._database.begin()
            self._exchange(parent, name, moved, new_parent, new_name, target, now)
            return None
        if target is not None:
            if flags & RENAME_NOREPLACE:
                raise EntryExists(path=_show(new_name))
            if target.ino == moved.ino:
                return None
            if moved.is_directory:
                self._check_empty(target, new_name)
            elif target.is_directory:
                raise IsADirectory(path=_show(new_name))
        self._check_descent(moved, new_parent, name)
        self._database.begin()
        if target is not None:
            self._database.change("DELETE FROM dirents WHERE parent = ? AND name = ?", (new_parent, new_name))
            target = self._unlinked(target, now)
        self._database.change(
            "UPDATE dirents SET parent = ?, name = ?, position = ? WHERE parent = ? AND name = ?",
            (new_parent, new_name, self._number(), parent, name),
        )
        self._inodes.update(moved.ino, ctime=now)
        leaves = parent != new_parent
        if leaves:
            self._touch(parent, now, entries=-1, links=-int(moved.is_directory))
            self._adopt(moved, new_parent)
        entries = int(leaves) - int(target is not None)
        links = int(leaves and moved.is_directory) - int(target is not None and target.is_directory)
        self._touch(new_parent, now, entries=entries, links=links)
        if flags & RENAME_WHITEOUT:
            self.create(parent, name, stat.S_IFCHR, uid, gid, now)
        return target

    def _exchange(
        self, parent: int, name: bytes, one: Inode, new_parent: int, new_name: bytes, other: Inode, now: int
    ) -> None:
        self._check_descent(one, new_parent, name)
        self._check_descent(other, parent, new_name)
        for folder, entry, inode in ((parent, name, other), (new_parent, new_name, one)):
            self._database.change(
                "UPDATE dirents SET ino = ? WHERE parent = ? AND name = ?", (inode.ino, folder, entry)
            )
            self._inodes.update(inode.ino, ctime=now)
        moved = int(one.is_directory) - int(other.is_directory) if parent != new_parent else 0
        self._touch(parent, now, links=-moved)
        self._touch(new_parent, now, links=moved)
        self._adopt(one, new_parent)
        self._adopt(other, parent)

    def _adopt(self, inode: Inode, parent: int) -> None:
        if inode.is_directory:
            self._inodes.update(inode.ino, parent=parent)

    def _check_descent(self, moved: Inode, folder: int, name: bytes) -> None:
        """A directory cannot move into itself or below itself."""
        if not moved.is_directory:
            return
        while folder != ROOT:
            if folder == moved.ino:
                raise InvalidOperation(path=_show(name))
            folder = self.inode(folder).parent

    # --- attributes ---

    def update(self, ino: int, **fields: int) -> None:
        """Set columns of an inode."""
        self._inodes.update(ino, **fields)

    def remove(self, ino: int) -> None:
        """The end of an inode that has no links; its extents were removed before."""
        self._xattrs.remove(ino)
        self._inodes.remove(ino)
        self.inodes -= 1

    def get_xattr(self, ino: int, name: bytes) -> bytes:
        value = self._xattrs.get(ino, name)
        if value is None:
            raise NoAttribute(path=_show(name))
        return acl.shown(value, self.inode(ino).mode) if name == acl.ACCESS else value

    def set_xattr(self, ino: int, name: bytes, value: bytes, now: int) -> None:
        """Set an attribute; an access ACL sets the mode, too, and is kept if it says more than that."""
        fields = {"ctime": now}
        kept = True
        if name == acl.ACCESS:
            fields["mode"] = acl.mode_of(value, self.inode(ino).mode)
            kept = acl.says_more(value)
        elif sum(len(other) + 1 for other in {*self._xattrs.names(ino), name}) > XATTR_NAMES_MAX:
            raise NoSpace(what="this file for the names of its attributes", remedy="remove some of them")
        if kept:
            self._xattrs.put(ino, name, value)
        else:
            self._xattrs.drop(ino, name)
        self.update(ino, **fields)

    def list_xattrs(self, ino: int) -> list[bytes]:
        return sorted(self._xattrs.names(ino))

    def remove_xattr(self, ino: int, name: bytes, now: int) -> None:
        """Raises NoAttribute; but there is always an ACL to remove."""
        if name not in (acl.ACCESS, acl.DEFAULT):
            self.get_xattr(ino, name)
        self._xattrs.drop(ino, name)
        self.update(ino, ctime=now)


def _show(name: bytes) -> str:
    return name.decode(errors="replace")
