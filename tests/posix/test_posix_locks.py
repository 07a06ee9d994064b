"""What processes tell each other through files: locks, notifications; and what the filesystem says of itself."""

import ctypes
import errno
import fcntl
import os
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounted import needs_fuse
from tests.support.references import Drive
from tests.support.syscalls import refused

pytestmark = needs_fuse


def in_child(call: Callable[[], object]) -> str:
    """What a child process meets: "done", or the name of an errno."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            call()
            os.write(writer, b"done")
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno or 0].encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    return answer


@pytest.fixture
def path(folder: Path) -> Path:
    made = folder / "file"
    made.write_bytes(bytes(1000))
    return made


def test_flock_between_processes(path: Path) -> None:
    def attempt(operation: int) -> str:
        return in_child(lambda: fcntl.flock(os.open(path, os.O_RDWR), operation | fcntl.LOCK_NB))

    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert attempt(fcntl.LOCK_SH) == "done" and attempt(fcntl.LOCK_EX) == "EAGAIN"
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert attempt(fcntl.LOCK_SH) == "EAGAIN"
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    assert attempt(fcntl.LOCK_EX) == "done"
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)
    assert attempt(fcntl.LOCK_EX) == "done", "closing gives it up"


def test_record_locks_between_processes(path: Path) -> None:
    def attempt(kind: int, start: int, length: int) -> str:
        return in_child(lambda: fcntl.lockf(os.open(path, os.O_RDWR), kind | fcntl.LOCK_NB, length, start))

    descriptor = os.open(path, os.O_RDWR)
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 100, 200)
    assert attempt(fcntl.LOCK_EX, 250, 10) == "EAGAIN" and attempt(fcntl.LOCK_SH, 0, 0) == "EAGAIN"
    assert attempt(fcntl.LOCK_EX, 300, 0) == "done" and attempt(fcntl.LOCK_EX, 0, 200) == "done"
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 50, 200)
    assert attempt(fcntl.LOCK_EX, 200, 50) == "done" and attempt(fcntl.LOCK_EX, 250, 1) == "EAGAIN"
    os.close(os.open(path, os.O_RDONLY))
    assert attempt(fcntl.LOCK_EX, 0, 0) == "done", "closing any descriptor gives all of them up"
    os.close(descriptor)


def test_who_holds_a_record_lock(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 10, 20)
    holder = os.getpid()

    def ask() -> None:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack("hhqqi4x", fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_GETLK, asked))
        if answer[0] != fcntl.F_WRLCK or answer[2:5] != (20, 10, holder):
            raise OSError(errno.EPROTO, str(answer))

    assert in_child(ask) == "done"
    os.close(descriptor)


def test_locks_of_open_files(path: Path) -> None:
    """OFD locks: of a descriptor, not of a process."""
    one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    set_lock = 37  # F_OFD_SETLK of <fcntl.h>
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 10, 0)
    fcntl.fcntl(one, set_lock, lock)
    with refused(errno.EAGAIN):
        fcntl.fcntl(two, set_lock, lock)
    os.close(one)
    fcntl.fcntl(two, set_lock, lock)
    os.close(two)


def test_leases_end_with_another_open(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EINVAL)
    else:
        assert fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    os.close(descriptor)


def test_notifications(folder: Path) -> None:
    masks = {
        "create": 0x100,
        "modify": 0x2,
        "close_write": 0x8,
        "attrib": 0x4,
        "moved_from": 0x40,
        "moved_to": 0x80,
        "delete": 0x200,
    }
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_NONBLOCK)
    assert library.inotify_add_watch(descriptor, os.fsencode(folder), sum(masks.values())) >= 0
    path = folder / "file"
    path.write_bytes(b"content")
    path.chmod(0o600)
    path.rename(folder / "renamed")
    (folder / "renamed").unlink()
    seen = []
    while select.select([descriptor], [], [], 0)[0]:
        data = os.read(descriptor, 65536)
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            name = data[16 : 16 + length].rstrip(b"\0").decode()
            seen += [(word, name) for word, value in masks.items() if mask & value]
            data = data[16 + length :]
    os.close(descriptor)
    assert seen == [
        ("create", "file"),
        ("modify", "file"),
        ("close_write", "file"),
        ("attrib", "file"),
        ("moved_from", "file"),
        ("moved_to", "renamed"),
        ("delete", "renamed"),
    ]


def test_statfs(folder: Path) -> None:
    space = os.statvfs(folder)
    assert space.f_namemax == 255 and space.f_frsize > 0
    assert 0 < space.f_bavail <= space.f_bfree <= space.f_blocks
    assert 0 < space.f_ffree <= space.f_files


def test_statfs_counts_files(drive: Drive) -> None:
    before = os.statvfs(drive.folder).f_ffree
    for number in range(10):
        (drive.folder / f"counted-{number}").touch()
    assert before - os.statvfs(drive.folder).f_ffree == 10
    for number in range(10):
        (drive.folder / f"counted-{number}").unlink()
    end = time.monotonic() + 10  # the kernel says a moment later that it has forgotten a removed file
    while os.statvfs(drive.folder).f_ffree != before and time.monotonic() < end:
        time.sleep(0.01)
    assert os.statvfs(drive.folder).f_ffree == before


def test_a_file_and_its_filesystem_can_be_synced(folder: Path) -> None:
    path = folder / "file"
    with path.open("wb") as file:
        file.write(b"content")
        os.fdatasync(file.fileno())
        assert ctypes.CDLL(None).syncfs(file.fileno()) == 0
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.fdatasync(descriptor)
    os.close(descriptor)
