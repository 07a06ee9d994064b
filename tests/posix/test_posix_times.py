"""Times: to the nanosecond, and which call changes which."""

# System calls are made by their own names.
# ruff: noqa: PTH208

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.calls import await_tick
from tests.support.mounted import needs_fuse
from tests.support.references import Drive
from tests.support.syscalls import EXCHANGE, rename

pytestmark = needs_fuse

Change = Callable[[Path], object]


def with_open(path: Path, flags: int, call: Callable[[int], object]) -> None:
    descriptor = os.open(path, flags)
    try:
        call(descriptor)
    finally:
        os.close(descriptor)


BOTH: dict[str, Change] = {
    "write": lambda path: with_open(path, os.O_WRONLY, lambda file: os.write(file, b"x")),
    "truncate": lambda path: os.truncate(path, 3),
    "extend": lambda path: os.truncate(path, 30_000),
    "O_TRUNC": lambda path: with_open(path, os.O_WRONLY | os.O_TRUNC, lambda file: None),
    "ftruncate to the same size": lambda path: with_open(path, os.O_WRONLY, lambda file: os.ftruncate(file, 7)),
    "touch": os.utime,
}
CTIME: dict[str, Change] = {
    "chmod": lambda path: path.chmod(0o640),
    "chmod to the same": lambda path: path.chmod(0o644),
    "chown": lambda path: os.chown(path, os.geteuid(), os.getegid()),
    "link": lambda path: os.link(path, path.with_name("twin")),
    "rename": lambda path: path.rename(path.with_name("renamed")),
    "exchange": lambda path: rename(path, path.with_name("other"), EXCHANGE),
    "setxattr": lambda path: os.setxattr(path, "user.a", b"1"),
    "removexattr": lambda path: os.removexattr(path, "user.before"),
    "unlink a twin": lambda path: path.with_name("one-more").unlink(),
}
NEITHER: dict[str, Change] = {
    "stat": lambda path: path.stat(),
    "read": lambda path: path.read_bytes(),
    "open": lambda path: with_open(path, os.O_RDWR, lambda file: None),
    "open with O_CREAT": lambda path: with_open(path, os.O_RDWR | os.O_CREAT, lambda file: None),
    "write nothing": lambda path: with_open(path, os.O_WRONLY, lambda file: os.write(file, b"")),
    "fsync": lambda path: with_open(path, os.O_WRONLY, os.fsync),
    "rename to itself": lambda path: path.rename(path),
    "getxattr": lambda path: os.getxattr(path, "user.before"),
}


@pytest.mark.parametrize(
    ("change", "mtime", "ctime"),
    [
        *(pytest.param(change, True, True, id=name) for name, change in BOTH.items()),
        *(pytest.param(change, False, True, id=name) for name, change in CTIME.items()),
        *(pytest.param(change, False, False, id=name) for name, change in NEITHER.items()),
    ],
)
def test_which_call_changes_what(folder: Path, change: Change, mtime: bool, ctime: bool) -> None:
    path = folder / "file"
    path.touch(mode=0o644)
    path.write_bytes(b"content")
    os.setxattr(path, "user.before", b"")
    os.link(path, folder / "one-more")
    (folder / "other").touch()
    with path.open("rb") as held:
        await_tick()
        before = os.fstat(held.fileno())
        await_tick()
        change(path)
        after = os.fstat(held.fileno())
    changed = after.st_mtime_ns > before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns
    assert changed == (mtime, ctime)


@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe"])
def test_set_times_are_kept_to_the_nanosecond(folder: Path, kind: str) -> None:
    path = folder / kind
    match kind:
        case "file":
            path.touch()
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("nowhere")
        case "pipe":
            os.mkfifo(path)
    moments = [(1_234_567_890_123_456_789, 987_654_321_987_654_321), (0, 0), (-1, -1_000_000_001), (2**62, 1)]
    for times in moments:
        os.utime(path, ns=times, follow_symlinks=False)
        status = path.lstat()
        assert (status.st_atime_ns, status.st_mtime_ns) == times


def test_one_time_without_the_other(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    os.utime(path, ns=(11, 22))
    omit, now = (1 << 30) - 2, (1 << 30) - 1
    for nanoseconds, expected in (((33, omit), (33, 22)), ((omit, 44), (33, 44)), ((omit, omit), (33, 44))):
        _utimensat(path, *nanoseconds)
        assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == expected
    _utimensat(path, now, omit)
    assert path.stat().st_atime_ns > 10**18 and path.stat().st_mtime_ns == 44


def _utimensat(path: Path, atime: int, mtime: int) -> None:
    times = (ctypes.c_long * 4)(0, atime, 0, mtime)
    assert ctypes.CDLL(None).utimensat(-100, os.fsencode(path), times, 0) == 0


def test_writing_after_setting_times_moves_them_again(folder: Path) -> None:
    path = folder / "file"
    with path.open("wb", buffering=0) as file:
        file.write(b"one")
        os.utime(path, ns=(1, 2))
        assert path.stat().st_mtime_ns == 2
        file.write(b"two")
        assert path.stat().st_mtime_ns > 10**18
        os.utime(path, ns=(1, 3))
        file.flush()
        os.fsync(file.fileno())
    assert path.stat().st_mtime_ns == 3


@pytest.mark.parametrize("name", ["link", "rename", "exchange", "setxattr", "removexattr", "unlink a twin", "replace"])
def test_a_change_of_a_file_that_is_being_written_shows(folder: Path, name: str) -> None:
    """The time of the write, which waits for write-back, is older than that of the change."""
    path = folder / "file"
    path.touch()
    os.setxattr(path, "user.before", b"")
    os.link(path, folder / "one-more")
    (folder / "other").touch()
    with path.open("r+b", buffering=0) as held:
        held.write(b"dirty")
        os.utime(path)
        await_tick()
        before = os.fstat(held.fileno()).st_ctime_ns
        (CTIME | {"replace": lambda path: path.replace(folder / "other")})[name](path)
        after = os.fstat(held.fileno()).st_ctime_ns
    assert after > before


def test_reading_moves_no_access_time(drive: Drive) -> None:
    """The mount is `noatime`."""
    path = drive.folder / "read"
    path.write_bytes(b"content")
    os.utime(path, ns=(5, 6))
    path.read_bytes()
    os.listdir(drive.folder)
    assert path.stat().st_atime_ns == 5


def test_what_is_made_later_is_never_older(folder: Path) -> None:
    """make(1) and the like compare times; here the kernel stamps some of them, the filesystem others."""
    times = []
    for number in range(300):
        path = folder / str(number)
        match number % 4:
            case 0:
                path.write_bytes(b"x")
            case 1:
                path.mkdir()
            case 2:
                path.touch()
            case 3:
                path.symlink_to("x")
        times.append(path.lstat().st_mtime_ns)
    assert times == sorted(times)
    assert times[-1] <= folder.stat().st_mtime_ns


def test_times_that_cannot_be_kept_become_the_nearest(drive: Drive) -> None:
    path = drive.folder / "folder-of-the-far-future"
    path.mkdir()
    os.utime(path, (2**40, -(2**40)))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (2**63 - 1, -(2**63) + 1)
