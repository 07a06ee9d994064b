"""What memory has of inodes: the files that are open or not stored yet, and who uses an inode.

Above: `volume`. Below: `uses`, `writeback` (dirty bytes), `namespace` (the tables), `removal`. "In-core" as the UNIX
kernels call their own (Bach, "The Design of the UNIX Operating System", 1986, ch. 4).
Invariant: an inode without links lives for as long as the kernel knows it or somebody has it open, then its rows go;
a file without any use in memory that is stored as it is has no place here. Nothing here awaits.
"""

from collections.abc import Iterator

from infinitfs.file.file import File
from infinitfs.volume.inodes import Inode
from infinitfs.volume.namespace import Entry, Namespace
from infinitfs.volume.removal import Removal
from infinitfs.volume.uses import Uses
from infinitfs.volume.writeback import WriteBack


class InCore:
    def __init__(self, namespace: Namespace, write_back: WriteBack, removal: Removal) -> None:
        self._namespace = namespace
        self._write_back = write_back
        self._removal = removal
        self._files: dict[int, File] = {}
        self._uses = Uses()
        self._unlinked: set[int] = set()  # and in use; the kernel forgets a million others at once
        self.use = self._uses.add
        """The kernel knows the inode (so many times), or somebody has it open: it stays though its last link goes."""
        write_back.at_clean = self._drop_idle

    # --- who uses an inode ---

    def is_used(self, ino: int) -> bool:
        return ino in self._uses

    def release_use(self, ino: int, count: int = 1) -> None:
        if self._uses.remove(ino, count) and ino in self._unlinked:
            self._unlinked.remove(ino)
            if self._namespace.inode(ino).nlink == 0:  # not where the database failed and took it back
                self.remove(ino)

    def after_unlink(self, inode: Inode | None) -> None:
        """A name of the inode is gone; without another one and without a use it goes, too."""
        if inode is None or inode.nlink:
            return
        if inode.ino in self._uses:
            self._unlinked.add(inode.ino)
        else:
            self.remove(inode.ino)

    def remove(self, ino: int) -> None:
        """The end of an inode without links."""
        file = self._files.pop(ino, None)
        if file is not None:
            self._write_back.forget(file)
        self._removal.remove(ino)

    # --- files ---

    def get(self, ino: int) -> File | None:
        """The file, where memory has something of it."""
        return self._files.get(ino)

    def opened(self, ino: int) -> File:
        """A file that somebody has open."""
        return self._files[ino]

    def bring(self, ino: int) -> File:
        """The file, from the tables where memory has nothing of it. Raises NoSuchEntry."""
        inode = self._namespace.inode(ino)
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = File(ino, inode.size)
        return file

    def open(self, ino: int) -> None:
        self.bring(ino).opens += 1
        self.use(ino)

    def close(self, ino: int) -> None:
        file = self._files[ino]
        file.opens -= 1
        self._drop_idle(file)
        self.release_use(ino)

    def _drop_idle(self, file: File) -> None:
        """A file that nobody has open and that is stored as it is needs no place in memory."""
        if not file.opens and not file.needs_flush:
            self._files.pop(file.ino, None)
            self._write_back.drop_tail(file)

    # --- what programs see ---

    def current(self, inode: Inode) -> Inode:
        """The inode with what memory knows better than its row."""
        file = self._files.get(inode.ino)
        if file is None:
            return inode
        return inode.changed(
            size=file.size,
            allocated=min(inode.allocated + file.bytes_in_memory, file.size),
            mtime=inode.mtime if file.mtime is None else file.mtime,
            ctime=inode.ctime if file.ctime is None else file.ctime,
        )

    def current_entries(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """A listing, likewise."""
        files = self._files
        if not files:
            return entries
        return (self._current_entry(entry) if entry[2] in files else entry for entry in entries)

    def _current_entry(self, entry: Entry) -> Entry:
        return *entry[:2], *self.current(self._namespace.inode(entry[2])).attributes

    def overtake(self, ino: int, now: int) -> None:
        """The inode changed in the tables: an older ctime that waits for a flush must neither hide nor replace this."""
        file = self._files.get(ino)
        if file is not None and file.ctime is not None:
            file.ctime = now
