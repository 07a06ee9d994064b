"""What differs from a local disk, row by row as README has it: what is seen here is seen on any mount of pyfuse3.

Each difference is looked at in three places: the mount, a bare pyfuse3 filesystem with nothing of infinitfs in it, and
a local disk. The first two agree, and the disk does not: so the difference is the kernel's or pyfuse3's.
"""

import errno
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pyfuse3
import pytest

from tests.support.bare import bare_mount
from tests.support.mounted import needs_fuse
from tests.support.references import Drive, public_folder
from tests.support.syscalls import DEFAULT, GROUP_OBJ, MASK, OTHER, USER_OBJ, acl, fallocate
from tests.support.users import ANN, BOB, IS_ROOT, TEAM, acting_as

pytestmark = [*needs_fuse, pytest.mark.skipif(not IS_ROOT, reason="only root can mount for several users")]

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # <linux/falloc.h>
_FS_IOC_GETFLAGS = 0x80086601  # <linux/fs.h>
_NUMBERS = count()

Look = Callable[[Path], object]


@pytest.fixture(scope="module")
def bare() -> Iterator[tuple[Path, Path]]:
    with public_folder() as folder, bare_mount(folder) as made:
        yield made


@pytest.fixture
def places(drive: Drive, bare: tuple[Path, Path], local: Path) -> list[Path]:
    """A new folder in the mount, in the bare one, and on the disk."""
    folders = [place / f"limits-{next(_NUMBERS)}" for place in (drive.folder, bare[0], local)]
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o777)
    return folders


def answer(call: Callable[[], object]) -> object:
    """What a call returns, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def unnamed(folder: Path) -> object:
    def call() -> str:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))
        return "opened"

    return answer(call)


def with_file(look: Callable[[int], object]) -> Look:
    """What is seen of an open file that begins with a hole of 1 MiB and has data behind it."""

    def look_at(folder: Path) -> object:
        descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(descriptor, b"x" * 4096, 2**20)
            os.fsync(descriptor)
            return answer(lambda: look(descriptor))
        finally:
            os.close(descriptor)

    return look_at


def birth(folder: Path) -> object:
    """Whether statx(2) knows it; 0 is coreutils' word for no."""
    shown = subprocess.run(["stat", "-c", "%W", folder], check=True, capture_output=True, text=True, timeout=60)
    return int(shown.stdout) > 0


def blocks_of_a_write(folder: Path) -> object:
    with (folder / "file").open("wb", buffering=0) as file:
        before = os.fstat(file.fileno()).st_blocks
        file.write(b"x" * 100_000)
        return os.fstat(file.fileno()).st_blocks > before


def accessed(folder: Path) -> object:
    """Whether a read moves the access time of a file that was never read."""
    path = folder / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(5, 6))
    path.read_bytes()
    return path.stat().st_atime_ns != 5


def times_of_a_fifo(folder: Path) -> object:
    """Whether what goes through it moves its mtime."""
    path = folder / "fifo"
    os.mkfifo(path)
    os.utime(path, ns=(5, 6))
    descriptor = os.open(path, os.O_RDWR)
    os.write(descriptor, b"content")
    os.close(descriptor)
    return path.stat().st_mtime_ns != 6


def idle_chown(folder: Path) -> object:
    """What somebody else gets who changes neither owner nor group of a file with an idle set-group-ID bit."""
    path = folder / "program"
    path.touch()
    path.chmod(0o2600)
    with acting_as(BOB):
        return answer(lambda: os.chown(path, -1, -1))


def set_group_id(folder: Path) -> object:
    """Whether the bit stays when somebody who is not of the group writes, and the group may not execute."""
    path = folder / "file"
    path.write_bytes(b"content")
    os.chown(path, ANN.uid, TEAM + 1)
    path.chmod(0o2666)
    with acting_as(BOB), path.open("r+b", buffering=0) as file:
        file.write(b"new")
    return bool(path.stat().st_mode & 0o2000)


def group_of_new(folder: Path) -> object:
    """What the group may in a folder that is made below one with a default ACL, with a umask that forbids it all."""
    entries = (USER_OBJ, 7), (GROUP_OBJ, 7), (MASK, 7), (OTHER, 0)
    os.setxattr(folder, DEFAULT, acl(*entries))
    previous = os.umask(0o077)
    try:
        (folder / "below").mkdir()
    finally:
        os.umask(previous)
    return (folder / "below").stat().st_mode >> 3 & 7


@pytest.mark.parametrize(
    ("look", "here", "on_disk"),
    [
        pytest.param(unnamed, "ENOTSUP", "opened", id="O_TMPFILE"),
        pytest.param(with_file(lambda file: fallocate(file, 0, 0, 2**21)), "ENOTSUP", None, id="fallocate"),
        pytest.param(
            with_file(lambda file: fallocate(file, _PUNCH_HOLE | _KEEP_SIZE, 2**20, 4096)),
            "ENOTSUP",
            None,
            id="punching a hole",
        ),
        pytest.param(with_file(lambda file: os.lseek(file, 0, os.SEEK_DATA)), 0, 2**20, id="SEEK_DATA"),
        pytest.param(
            with_file(lambda file: len(fcntl.ioctl(file, _FS_IOC_GETFLAGS, bytes(8)))), "ENOTTY", 8, id="lsattr"
        ),
        pytest.param(birth, False, True, id="birth time"),
        pytest.param(blocks_of_a_write, False, True, id="st_blocks"),
        pytest.param(accessed, False, True, id="access time"),
        pytest.param(times_of_a_fifo, False, True, id="times of a FIFO"),
        pytest.param(idle_chown, None, "EPERM", id="chown to nobody"),
        pytest.param(set_group_id, True, False, id="set-group-ID"),
        pytest.param(group_of_new, 0, 7, id="umask and default ACL"),
    ],
)
def test_the_bare_filesystem_does_the_same(places: list[Path], look: Look, here: object, on_disk: object) -> None:
    assert [look(place) for place in places] == [here, here, on_disk]


def test_pyfuse3_has_no_handler_for_them() -> None:
    """pyfuse3 3.5; the names are those of libfuse's `fuse_lowlevel_ops`. One that comes one day is ours to use."""
    missing = ["fallocate", "tmpfile", "lseek", "ioctl", "statx", "copy_file_range", "flock", "getlk", "setlk"]
    assert [name for name in missing if hasattr(pyfuse3.Operations, name)] == []


def test_what_the_kernel_says_of_a_umask_and_of_a_write(bare: tuple[Path, Path], places: list[Path]) -> None:
    """It has applied the umask (pyfuse3 asks for no FUSE_CAP_DONT_MASK), and clears set-id bits as of old: those of
    the owner, and of a group that may execute (`fuse_setattr` of fs/fuse/dir.c). What is written it
    keeps: who is asked for st_blocks has not seen it yet."""
    folder, requests = places[1], bare[1]

    def noted(do: Look) -> list[str]:
        before = requests.read_text()
        do(folder)
        return requests.read_text().removeprefix(before).splitlines()

    assert "mkdir 700" in noted(group_of_new)
    asked = noted(set_group_id)
    number = (folder / "file").stat().st_ino
    assert [line for line in asked if line.startswith(f"setattr {number} mode")] == [f"setattr {number} mode 102666"]
    assert noted(blocks_of_a_write) == [f"getattr {number}", f"write {number}"]


def test_every_mount_of_libfuse_is_without_set_id_and_devices(drive: Drive, bare: tuple[Path, Path]) -> None:
    table = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    options = {fields[4]: set(fields[5].split(",")) for fields in table}
    for folder in (drive.folder, bare[0]):
        assert {"nosuid", "nodev"} <= options[str(folder)]
