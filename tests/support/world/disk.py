"""A machine's disk: which bytes of which files are durable, and what a crash leaves of them.

Above: `life`. Below: `os.fsync` and `os.fdatasync`, replaced while a disk is watched, and a VFS between SQLite's cipher
and its files, so that the writes and syncs of SQLite are seen as they reach the files.

The rules, which are those of POSIX and no more:
- A file's content is durable as it was when it was last synced. Of what was written since, a power cut keeps any part:
  any of the 4 KiB pages (or 512-byte sectors), and any length between the old and the new one.
- A name is durable as the folder was when it was last synced. Each name that came, went or changed since is there or
  not, one by one; but a file that was renamed and not removed keeps one of its names.
- After a killed process all files are as they are, and not more durable than they were.
Invariant: what was there when a disk was made is durable, unless `durable` of an earlier disk says less.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from stat import S_ISDIR
from unittest import mock

import apsw

PAGE = 4096
SECTOR = 512

Point = Callable[[str, str], None]
"""Told the name of what happens and "before" or "after"."""


class Disk:
    """The files under `root`. Inode numbers are their identity: one that is known is kept open, so that its number
    is not given to another file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.point: Point = lambda name, side: None
        self._contents: dict[int, bytes] = {}
        self._folders: dict[str, dict[str, int]] = {}
        self._held: dict[int, int] = {}
        for folder in [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]:
            self._folders[self._relative(folder)] = _listing(folder)
            for path in sorted(folder.iterdir()):
                if path.is_file():
                    self._keep(path, path.read_bytes())

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _keep(self, path: Path, content: bytes) -> None:
        number = path.stat().st_ino
        if number not in self._held:
            self._held[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._contents[number] = content

    def close(self) -> None:
        """Nothing is known any more; the files go too."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
        shutil.rmtree(self.root)

    # --- what happens to it ---

    def synced(self, path: Path) -> None:
        if path.is_dir():
            self._folders[self._relative(path)] = _listing(path)
        elif path.exists():
            self._keep(path, path.read_bytes())

    # --- what a crash leaves ---

    def after_kill(self, root: Path) -> "Disk":
        """A disk at `root` with every file as it is."""
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("*-shm"))
        copy = Disk(root)
        numbers = {}
        for path in sorted(self.root.rglob("*")):
            twin = root / path.relative_to(self.root)
            if twin.exists():
                numbers[path.stat().st_ino] = twin.stat().st_ino
                if path.is_file():
                    copy._keep(twin, self._contents.get(path.stat().st_ino, b""))
        # A file that was durable under some name and is gone now has no twin; what a power cut would leave of it then
        # is a file nobody knows, which says nothing about the volume: it is left out.
        copy._folders = {
            folder: {name: numbers[number] for name, number in names.items() if number in numbers}
            for folder, names in self._folders.items()
        }
        return copy

    def after_power_cut(self, root: Path, source: Random) -> "Disk":
        """A disk at `root` with what may be left when the power goes now."""
        folders = self._folders_left(self.root, source)
        for folder in folders:
            (root / folder.relative_to(self.root)).mkdir()
        for path, file in self._files_left(folders, source).items():
            (root / path).write_bytes(self._content_left(file, source))
        return Disk(root)

    def _folders_left(self, folder: Path, source: Random) -> list[Path]:
        """`folder` and what is left of those in it. None is ever removed or renamed."""
        durable = self._folders.get(self._relative(folder), {})
        left = [folder]
        for path in sorted(folder.iterdir()):
            if path.is_dir() and (path.name in durable or source.random() < 0.5):
                left += self._folders_left(path, source)
        return left

    def _files_left(self, folders: list[Path], source: Random) -> "dict[str, _File]":
        left: dict[str, _File] = {}
        dropped: dict[int, tuple[str, _File]] = {}
        now = {self._relative(folder): _listing(folder) for folder in folders}
        for folder in sorted(now):
            new, old = now[folder], self._folders.get(folder, {})
            for name in sorted({*new, *old}):
                path = name if folder == "." else f"{folder}/{name}"
                if path.endswith("-shm") or (self.root / path).is_dir():
                    continue
                is_new, was = new.get(name), old.get(name)
                chosen = is_new if is_new == was else source.choice((is_new, was))
                if chosen is not None:
                    left[path] = _File(chosen, self._path_of(chosen, now))
                elif is_new is not None:
                    dropped[is_new] = path, _File(is_new, self.root / path)
        kept = {file.number for file in left.values()}
        durable = {number for names in self._folders.values() for number in names.values()}
        return left | dict(dropped[number] for number in sorted(dropped) if number in durable and number not in kept)

    def _path_of(self, number: int, now: dict[str, dict[str, int]]) -> Path | None:
        for folder, names in now.items():
            for name, each in names.items():
                if each == number:
                    return self.root / folder / name
        return None

    def _content_left(self, file: "_File", source: Random) -> bytes:
        old = self._contents.get(file.number, b"")
        if file.path is None:
            return old
        return torn(old, file.path.read_bytes(), source)


class _File:
    """A file by its inode number, and where it can be read now; None where it was removed."""

    def __init__(self, number: int, path: Path | None) -> None:
        self.number = number
        self.path = path


def torn(old: bytes, new: bytes, source: Random) -> bytes:
    """What may be left of a file that was `old` when it was synced and is `new` now."""
    if old == new:
        return new
    shorter, longer = sorted((len(old), len(new)))
    length = source.choice((len(old), len(new), source.randint(shorter, longer)))
    share = source.choice((0.0, 0.5, 0.9, 1.0))
    unit = source.choice((PAGE, PAGE, SECTOR))
    left = bytearray(old[:length].ljust(length, b"\0"))
    for start in range(0, length, unit):
        end = min(start + unit, length, len(new))
        if end > start and left[start:end] != new[start:end] and source.random() < share:
            left[start:end] = new[start:end]
    return bytes(left)


def _listing(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted(folder.iterdir())}


# --- seeing what happens ---


class _Watched(apsw.VFSFile):
    """A file of SQLite's; it says so before and after it is written or synced."""

    def __init__(self, vfs: "_Watching", name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._vfs = vfs
        self._path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "")

    def xWrite(self, data: bytes, offset: int) -> None:
        self._vfs.tell(f"SQLite writes {self._path.name}", "before", self._path)
        super().xWrite(data, offset)
        self._vfs.tell(f"SQLite writes {self._path.name}", "after", self._path)

    def xSync(self, flags: int) -> None:
        self._vfs.tell(f"SQLite syncs {self._path.name}", "before", self._path)
        self._vfs.sync(self._path)
        self._vfs.tell(f"SQLite syncs {self._path.name}", "after", self._path)


class _Watching(apsw.VFS):
    """SQLite's usual file system, watched. The cipher's VFS lies over it under the name `multipleciphers-watched`."""

    def __init__(self) -> None:
        super().__init__("watched", "unix")
        self.disk: Disk | None = None

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _Watched(self, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        super().xDelete(name, False)
        if syncdir:
            self.sync(Path(name).parent)

    def tell(self, name: str, side: str, path: Path) -> None:
        if self._is_watched(path) and self.disk is not None:
            self.disk.point(name, side)

    def sync(self, path: Path) -> None:
        if self._is_watched(path) and self.disk is not None:
            self.disk.synced(path)

    def _is_watched(self, path: Path) -> bool:
        return self.disk is not None and f"{path}/".startswith(f"{self.disk.root}/")


class Watch:
    """Sees what this process does to the files of the disk that `disk` says, one at a time; nothing is synced for
    real while it is entered."""

    def __init__(self) -> None:
        self._vfs = _Watching()
        # The cipher's VFS over ours exists from the first connection that names it.
        apsw.Connection(":memory:", vfs="multipleciphers-watched").close()

    @contextmanager
    def entered(self) -> Iterator[None]:
        with (
            mock.patch("os.fsync", self._fsync),
            mock.patch("os.fdatasync", self._fsync),
            # Room that is reserved says nothing about what is written, and copying it at every sync takes long.
            mock.patch("os.posix_fallocate", lambda descriptor, offset, length: None),
        ):
            apsw.set_default_vfs("multipleciphers-watched")
            try:
                yield
            finally:
                apsw.set_default_vfs("multipleciphers-unix")
                self._vfs.disk = None

    @property
    def disk(self) -> Disk | None:
        return self._vfs.disk

    @disk.setter
    def disk(self, disk: Disk | None) -> None:
        self._vfs.disk = disk

    def _fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if S_ISDIR(os.fstat(descriptor).st_mode):
            name = f"sync of the folder {self._role(path)}"
        elif path.name.startswith("volume."):
            name = f"sync of {path.name}"
        else:
            name = f"sync of a file in {self._role(path.parent)}"
        self._vfs.tell(name, "before", path)
        self._vfs.sync(path)
        self._vfs.tell(name, "after", path)

    def _role(self, folder: Path) -> str:
        """The folder's name where it says what it is for."""
        if self.disk is not None and folder == self.disk.root:
            return "home"
        return "volume" if len(folder.name) == 32 else folder.name
