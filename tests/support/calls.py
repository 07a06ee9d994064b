"""Calls of programs, made in a folder, and everything that can be seen there afterwards.

Above: tests/posix/test_posix_differential.py makes the same calls in two folders and compares. Below: the system.
Invariant: what a call answers and what `Side.picture` shows is free of what may differ between two filesystems that
are both right: device and inode numbers, times of access, sizes of directories, blocks of files, the order of listings.
"""

# System calls are made by their own names.
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH113, PTH114, PTH115, PTH116, PTH123, PTH208, PTH211

import errno
import fcntl
import mmap
import os
import random
import stat
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import syscalls
from tests.support.users import ANN, BOB, ROOT, acting_as

USERS = (ROOT, ANN, BOB)
LONG_AGO = 1_500_000_000 * 10**9
"""Times before this were set by a call, later ones are those of changes."""

_COARSE = 5  # CLOCK_REALTIME_COARSE of <linux/time.h>

_END = 2**17  # bytes that are looked at, at both ends of a file

Outcome = tuple[str, Any]


class Call(NamedTuple):
    user: int
    name: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        arguments = [_brief(argument) if isinstance(argument, bytes) else argument for argument in self.arguments]
        return f"{USERS[self.user].name}: {self.name}({', '.join(map(str, arguments))})"


_WRITES = {"write": 0, "pwrite": 0, "copy": 1}
"""Calls that write, and which of their arguments is the slot that is written to."""


class Side:
    """One folder and the files that are open in it, by slot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[int, int] = {}
        self._times: dict[int, tuple[int, int]] = {}

    def make(self, call: Call) -> Outcome:
        """("ok", answer) or ("failed", name of the errno)."""
        with acting_as(USERS[call.user]):
            try:
                answer = getattr(self, call.name)(*call.arguments)
            except OSError as error:
                return "failed", errno.errorcode[error.errno or 0]
        if call.name in _WRITES and answer:
            self._drop_idle_group_bit(call.arguments[_WRITES[call.name]])
        return "ok", answer

    def _drop_idle_group_bit(self, slot: int) -> None:
        """A set-group-ID bit without the right to execute means nothing, until somebody gives the right: what is
        written by one who is not in the group clears it, but a FUSE filesystem is not told of that."""
        mode = os.fstat(self.open[slot]).st_mode
        if stat.S_ISREG(mode) and mode & stat.S_ISGID and not mode & stat.S_IXGRP:
            os.fchmod(self.open[slot], stat.S_IMODE(mode) & ~stat.S_ISGID)

    def close_all(self) -> None:
        for descriptor in self.open.values():
            os.close(descriptor)
        self.open.clear()

    def _at(self, path: str) -> str:
        return f"{self.folder}/{path}"

    def _slot(self, slot: int) -> int:
        if slot not in self.open:
            raise OSError(errno.EBADF, "no such slot")
        return self.open[slot]

    # --- names ---

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rename(self, source: str, target: str, flags: int) -> None:
        syscalls.rename(self._at(source), self._at(target), flags)

    def link(self, source: str, target: str, follow: bool) -> None:
        os.link(self._at(source), self._at(target), follow_symlinks=follow)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._at(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def mknod(self, path: str, mode: int, device: int) -> None:
        os.mknod(self._at(path), mode, device)

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path)))

    # --- attributes ---

    def stat(self, path: str, follow: bool) -> tuple[Any, ...]:
        return _shown(os.stat(self._at(path), follow_symlinks=follow))

    def fstat(self, slot: int) -> tuple[Any, ...]:
        return _shown(os.fstat(self._slot(slot)))

    def access(self, path: str, mode: int) -> bool:
        return os.access(self._at(path), mode, effective_ids=True)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._slot(slot), mode)

    def chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        if (uid, gid) != (-1, -1):  # on FUSE the kernel lets everybody do that
            os.chown(self._at(path), uid, gid, follow_symlinks=follow)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        if (uid, gid) != (-1, -1):
            os.fchown(self._slot(slot), uid, gid)

    def utime(self, path: str, times: tuple[int, int] | None, follow: bool) -> None:
        if times is None:
            os.utime(self._at(path), follow_symlinks=follow)
        else:
            os.utime(self._at(path), ns=times, follow_symlinks=follow)

    def futime(self, slot: int, times: tuple[int, int]) -> None:
        os.utime(self._slot(slot), ns=times)

    def setxattr(self, path: str, name: str, value: bytes, flags: int, follow: bool) -> None:
        os.setxattr(self._at(path), name, value, flags, follow_symlinks=follow)

    def getxattr(self, path: str, name: str, follow: bool) -> bytes:
        return os.getxattr(self._at(path), name, follow_symlinks=follow)

    def removexattr(self, path: str, name: str, follow: bool) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=follow)

    def listxattr(self, path: str, follow: bool) -> list[str]:
        return sorted(os.listxattr(self._at(path), follow_symlinks=follow))

    # --- content ---

    def open_file(self, slot: int, path: str, flags: int, mode: int) -> None:
        try:
            status = os.stat(self._at(path))
        except OSError:
            status = None
        if status is not None and (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            return  # a device is of the machine, not of the folder
        descriptor = os.open(self._at(path), flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        self.close(slot)
        self.open[slot] = descriptor

    def close(self, slot: int) -> None:
        if slot in self.open:
            os.close(self.open.pop(slot))

    def read(self, slot: int, length: int) -> str:
        return _brief(os.read(self._slot(slot), length))

    def write(self, slot: int, data: bytes) -> int:
        return os.write(self._slot(slot), data)

    def pread(self, slot: int, length: int, offset: int) -> str:
        return _brief(os.pread(self._slot(slot), length, offset))

    def pwrite(self, slot: int, data: bytes, offset: int) -> int:
        return os.pwrite(self._slot(slot), data, offset)

    def seek(self, slot: int, offset: int, whence: int) -> int:
        if stat.S_ISDIR(os.fstat(self._slot(slot)).st_mode):
            return 0  # places in a listing are the filesystem's own
        return os.lseek(self._slot(slot), offset, whence)

    def truncate(self, path: str, size: int) -> None:
        if os.path.isfile(self._at(path)) and os.stat(self._at(path)).st_size == size:
            return  # some filesystems change times, others do not: POSIX leaves it open
        os.truncate(self._at(path), size)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._slot(slot), size)

    def fsync(self, slot: int) -> None:
        os.fsync(self._slot(slot))

    def copy(self, source: int, target: int, length: int, source_offset: int, target_offset: int) -> int:
        return os.copy_file_range(self._slot(source), self._slot(target), length, source_offset, target_offset)

    def map(self, slot: int, offset: int, data: bytes) -> bytes:
        """Write through a shared map, and see what a private one of the same page shows."""
        descriptor = self._slot(slot)
        size = os.fstat(descriptor).st_size
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or offset + len(data) > size:
            raise OSError(errno.EINVAL, "outside of the file")
        with mmap.mmap(descriptor, size) as shared:
            shared[offset : offset + len(data)] = data
            with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE) as private:
                private[offset : offset + 1] = b"P"
                return bytes(shared[max(offset - 8, 0) : offset + len(data) + 8])

    def lock(self, slot: int, operation: int) -> None:
        fcntl.flock(self._slot(slot), operation | fcntl.LOCK_NB)

    # --- all of it ---

    def picture(self, *, contents: bool) -> dict[str, tuple[Any, ...]]:
        """Everything below the folder, as root sees it, by path; and the open files, by slot."""
        seen: dict[str, tuple[Any, ...]] = {}
        numbers: dict[int, int] = {}
        self._look(self._at("."), ".", contents, seen, numbers)
        for slot, descriptor in self.open.items():
            status = os.fstat(descriptor)
            seen[f"slot {slot}"] = (_shown(status), numbers.get(status.st_ino))
        return seen

    def _look(
        self, place: str, path: str, contents: bool, seen: dict[str, tuple[Any, ...]], numbers: dict[int, int]
    ) -> None:
        status = os.lstat(place)
        number = numbers.setdefault(status.st_ino, len(numbers))
        details: tuple[Any, ...] = ()
        if contents:
            details = (
                [(name, os.getxattr(place, name, follow_symlinks=False)) for name in self._names(place)],
                _content(place, status),
            )
        seen[path] = (_shown(status), number, *details)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(place) as found:
                entries = sorted((entry.name, entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in found)
            for name, inode, is_directory in entries:
                below = os.lstat(f"{place}/{name}")
                assert (inode, is_directory) == (below.st_ino, stat.S_ISDIR(below.st_mode)), f"listing of {path}"
                self._look(f"{place}/{name}", f"{path}/{name}", contents, seen, numbers)

    def _names(self, place: str) -> list[str]:
        return sorted(os.listxattr(place, follow_symlinks=False))

    def changes(self) -> dict[str, tuple[str, str]]:
        """Of each path and slot, whether mtime and ctime have changed since the last time this was asked."""
        times: dict[int, tuple[int, int]] = {}
        changed: dict[str, tuple[str, str]] = {}

        def note(name: str, status: os.stat_result) -> None:
            if stat.S_ISFIFO(status.st_mode):
                return  # what goes through it moves its times on a disk only
            now = times[status.st_ino] = status.st_mtime_ns, status.st_ctime_ns
            before = self._times.get(status.st_ino)
            if before is None:
                changed[name] = "new", "new"
            else:
                words = [
                    "same" if one == other else "later" if other > one else "earlier"
                    for one, other in zip(before, now, strict=True)
                ]
                changed[name] = words[0], words[1]

        for folder, folders, files in os.walk(self.folder):
            note(os.path.relpath(folder, self.folder), os.lstat(folder))
            for name in files + [name for name in folders if os.path.islink(f"{folder}/{name}")]:
                path = f"{folder}/{name}"
                note(os.path.relpath(path, self.folder), os.lstat(path))
        for slot, descriptor in self.open.items():
            note(f"slot {slot}", os.fstat(descriptor))
        self._times = times
        return changed


def _shown(status: os.stat_result) -> tuple[Any, ...]:
    mode = status.st_mode
    if stat.S_ISREG(mode) and not mode & stat.S_IXGRP:
        # It means nothing here, and a FUSE filesystem is not told that somebody else's write is to clear it.
        mode &= ~stat.S_ISGID
    sized = stat.S_ISREG(mode) or stat.S_ISLNK(mode)
    return (
        stat.filemode(mode),
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_size if sized else 0,
        status.st_rdev,
        "unmoved" if stat.S_ISFIFO(mode) else status.st_mtime_ns if status.st_mtime_ns < LONG_AGO else "now",
    )


def _content(place: str, status: os.stat_result) -> str | None:
    """Both ends of a file, between which there may be a large hole."""
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(place)
    if not stat.S_ISREG(status.st_mode):
        return None
    with open(place, "rb") as file:
        head = file.read(_END)
        file.seek(max(status.st_size - _END, 0))
        return f"{_brief(head)} ... {_brief(file.read())}"


def _brief(data: bytes) -> str:
    """Bytes as the lengths of their runs: "00*4096 af*10"."""
    return " ".join(f"{byte:02x}*{len(list(run))}" for byte, run in groupby(data)) or "nothing"


def await_tick() -> None:
    """Return once the clock with which the kernel stamps files is past everything it may have stamped until now: since
    Linux 6.13 some stamps are finer than that clock."""
    before = time.time_ns()
    while time.clock_gettime_ns(_COARSE) <= before:
        time.sleep(0.0005)


# --- random calls ---


def _path(source: random.Random) -> str:
    parts = [source.choice("abcd") for _ in range(source.choice((1, 1, 1, 2, 2, 3)))]
    if source.random() < 0.04:
        parts.insert(source.randrange(len(parts) + 1), source.choice((".", "..", "n" * 255, "n" * 256)))
    return "/".join(parts) + ("/" if source.random() < 0.03 else "")


def _mode(source: random.Random) -> int:
    mode = source.choice((0o777, 0o755, 0o700, 0o770, 0o644, 0o600, 0o666, 0o500, 0o070, 0o007, 0o000))
    if source.random() < 0.3:
        mode |= source.choice((0o4000, 0o2010, 0o6010, 0o1000, 0o7010))
    return mode


def _flags(source: random.Random) -> int:
    names = [source.choice(("RDONLY", "WRONLY", "RDWR", "RDWR"))]
    for name, chance in (
        ("CREAT", 0.5),
        ("EXCL", 0.1),
        ("TRUNC", 0.15),
        ("APPEND", 0.15),
        ("NOFOLLOW", 0.05),
        ("DIRECTORY", 0.04),
        ("SYNC", 0.05),
    ):
        if source.random() < chance:
            names.append(name)
    return syscalls.flags_of(names)


def _times(source: random.Random) -> tuple[int, int]:
    return source.randrange(-(10**18), LONG_AGO), source.randrange(-(10**18), LONG_AGO)


def _identity(source: random.Random) -> int:
    return source.choice((-1, 0, ANN.uid, BOB.uid, 30_003))


def _slot(source: random.Random) -> int:
    return source.randrange(4)


def _data(source: random.Random) -> bytes:
    return source.randbytes(1) * source.choice((0, 1, 10, 500, 4096, 5000, 20_000))


def _offset(source: random.Random) -> int:
    return source.choice((0, 1, 100, 4095, 4096, 8192, 30_000, 10**6, 2**33))


def _attribute(source: random.Random) -> str:
    return source.choice(
        ("user.a", "user.b", "user.a", "trusted.a", "security.a", "system.a", "user.", "user", "other.a", "trusted.")
    )


def _acl(source: random.Random) -> bytes:
    def permissions() -> int:
        return source.randrange(8)

    entries: list[tuple[int, int] | tuple[int, int, int]] = [(syscalls.USER_OBJ, permissions())]
    named = [(syscalls.USER, permissions(), user.uid) for user in (ANN, BOB) if source.random() < 0.4]
    groups = [(syscalls.GROUP, permissions(), 30_003)] if source.random() < 0.4 else []
    entries += named
    entries.append((syscalls.GROUP_OBJ, permissions()))
    entries += groups
    if named or groups or source.random() < 0.1:
        entries.append((syscalls.MASK, permissions()))
    entries.append((syscalls.OTHER, permissions()))
    if source.random() < 0.1:
        entries.pop(source.randrange(len(entries)))
    return syscalls.acl(*entries)


_KINDS = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)

_CALLS: dict[str, tuple[int, Callable[[random.Random], tuple[Any, ...]]]] = {
    "open_file": (16, lambda s: (_slot(s), _path(s), _flags(s), _mode(s))),
    "close": (5, lambda s: (_slot(s),)),
    "mkdir": (10, lambda s: (_path(s), _mode(s))),
    "rmdir": (4, lambda s: (_path(s),)),
    "unlink": (5, lambda s: (_path(s),)),
    "rename": (9, lambda s: (_path(s), _path(s), s.choice((0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6)))),
    "link": (5, lambda s: (_path(s), _path(s), s.random() < 0.3)),
    "symlink": (4, lambda s: (s.choice((_path(s), "../" + _path(s), "x" * 300)), _path(s))),
    "readlink": (2, lambda s: (_path(s),)),
    "mknod": (3, lambda s: (_path(s), s.choice(_KINDS) | _mode(s), os.makedev(240, 77_000))),
    "names": (2, lambda s: (_path(s),)),
    "stat": (4, lambda s: (_path(s), s.random() < 0.7)),
    "fstat": (4, lambda s: (_slot(s),)),
    "access": (3, lambda s: (_path(s), s.randrange(8))),
    "chmod": (7, lambda s: (_path(s), _mode(s))),
    "fchmod": (3, lambda s: (_slot(s), _mode(s))),
    "chown": (6, lambda s: (_path(s), _identity(s), _identity(s), s.random() < 0.7)),
    "fchown": (2, lambda s: (_slot(s), _identity(s), _identity(s))),
    "utime": (6, lambda s: (_path(s), s.choice((None, _times(s), _times(s))), s.random() < 0.7)),
    "futime": (3, lambda s: (_slot(s), _times(s))),
    "setxattr": (5, lambda s: (_path(s), _attribute(s), _data(s)[:200], s.choice((0, 0, 1, 2)), s.random() < 0.8)),
    "getxattr": (3, lambda s: (_path(s), _attribute(s), s.random() < 0.8)),
    "removexattr": (3, lambda s: (_path(s), _attribute(s), s.random() < 0.8)),
    "listxattr": (2, lambda s: (_path(s), s.random() < 0.8)),
    "read": (3, lambda s: (_slot(s), s.choice((0, 10, 5000)))),
    "write": (7, lambda s: (_slot(s), _data(s))),
    "pread": (4, lambda s: (_slot(s), s.choice((0, 10, 5000)), _offset(s))),
    "pwrite": (7, lambda s: (_slot(s), _data(s), _offset(s))),
    "seek": (3, lambda s: (_slot(s), s.choice((-1, 0, 10, 5000)), s.choice((0, 1, 2)))),
    "truncate": (5, lambda s: (_path(s), s.choice((-1, 0, 1, 5000, 2**40)))),
    "ftruncate": (4, lambda s: (_slot(s), s.choice((0, 1, 5000, 4096, 2**40)))),
    "fsync": (2, lambda s: (_slot(s),)),
    "copy": (2, lambda s: (_slot(s), _slot(s), s.choice((0, 10, 5000)), s.choice((0, 10)), s.choice((0, 7000)))),
    "map": (3, lambda s: (_slot(s), s.choice((0, 10, 4090)), s.randbytes(1) * s.choice((1, 20)))),
    "lock": (2, lambda s: (_slot(s), s.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)))),
}
_ACL_CALLS: dict[str, tuple[int, Callable[[random.Random], tuple[Any, ...]]]] = {
    "setxattr": (24, lambda s: (_path(s), s.choice((syscalls.ACCESS, syscalls.DEFAULT)), _acl(s), 0, True)),
    "getxattr": (4, lambda s: (_path(s), s.choice((syscalls.ACCESS, syscalls.DEFAULT)), True)),
    "removexattr": (4, lambda s: (_path(s), s.choice((syscalls.ACCESS, syscalls.DEFAULT)), True)),
}


def random_calls(source: random.Random, count: int, *, acls: bool, root_only: bool) -> list[Call]:
    tables = [_CALLS, _ACL_CALLS] if acls else [_CALLS]
    choices = [(name, make, weight) for table in tables for name, (weight, make) in table.items()]
    weights = [weight for _, _, weight in choices]
    picked = source.choices(choices, weights, k=count)
    return [Call(0 if root_only else source.choice((0, 1, 1, 2)), name, make(source)) for name, make, _ in picked]
