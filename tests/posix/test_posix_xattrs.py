"""Extended attributes: names, values, flags, sizes, and who sees which."""

# System calls are made by their own names.
# ruff: noqa: PTH104

import errno
import os
from pathlib import Path

import pytest

from tests.support.mounted import needs_fuse
from tests.support.references import Drive
from tests.support.syscalls import getxattr_sized, listxattr_sized, refused, setxattr
from tests.support.users import ANN, BOB, IS_ROOT, acting_as

pytestmark = needs_fuse


@pytest.fixture
def file(folder: Path) -> Path:
    path = folder / "file"
    path.touch()
    return path


def test_set_get_list_and_remove(file: Path) -> None:
    values = {"user.text": b"text", "user.binary": b"\0\xff\0", "user.empty": b"", "user.caf\udce9": b"name"}
    for name, value in values.items():
        os.setxattr(file, name, value)
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == values
    os.setxattr(file, "user.text", b"another")
    assert os.getxattr(file, "user.text") == b"another"
    os.removexattr(file, "user.text")
    with refused(errno.ENODATA):
        os.getxattr(file, "user.text")
    with refused(errno.ENODATA):
        os.removexattr(file, "user.text")


def test_create_and_replace(file: Path) -> None:
    with refused(errno.ENODATA):
        os.setxattr(file, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    with refused(errno.EEXIST):
        os.setxattr(file, "user.a", b"2", os.XATTR_CREATE)
    assert os.getxattr(file, "user.a") == b"1"
    os.setxattr(file, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(file, "user.a") == b"3"


def test_sizes_asked_for(file: Path) -> None:
    os.setxattr(file, "user.a", b"0123456789")
    assert getxattr_sized(file, "user.a", 0) == 10 == getxattr_sized(file, "user.a", 10)
    with refused(errno.ERANGE):
        getxattr_sized(file, "user.a", 9)
    assert listxattr_sized(file, 0) == 7 == listxattr_sized(file, 7)
    with refused(errno.ERANGE):
        listxattr_sized(file, 6)


def test_limits_of_names_and_values(file: Path) -> None:
    longest = "user." + "n" * 250
    os.setxattr(file, longest, b"value")
    assert os.listxattr(file) == [longest]
    with refused(errno.ERANGE):
        os.setxattr(file, longest + "n", b"value")
    with refused(errno.ERANGE):
        setxattr(file, b"", b"value")
    with refused(errno.E2BIG):
        os.setxattr(file, "user.a", bytes(65537))
    with refused(errno.EINVAL):
        os.setxattr(file, "user.", b"value")


@pytest.mark.parametrize("name", ["user", "system.unknown", "other.name", "plain"])
def test_kinds_that_are_not_kept(file: Path, name: str) -> None:
    for call in (lambda: os.setxattr(file, name, b""), lambda: os.getxattr(file, name)):
        with refused(errno.EOPNOTSUPP):
            call()


def test_a_value_of_64_kib(drive: Drive) -> None:
    """More than most local disks keep."""
    path = drive.folder / "large"
    path.touch()
    value = os.urandom(65536)
    os.setxattr(path, "user.large", value)
    assert os.getxattr(path, "user.large") == value


def test_as_many_names_as_can_be_listed(drive: Drive) -> None:
    path = drive.folder / "many"
    path.touch()
    with refused(errno.ENOSPC):
        for number in range(1000):
            os.setxattr(path, f"user.{number:0250d}", b"")
    assert len(os.listxattr(path)) == 256
    os.setxattr(path, f"user.{0:0250d}", b"one more value")


def test_on_directories_and_links(folder: Path) -> None:
    os.setxattr(folder, "user.a", b"folder")
    assert os.getxattr(folder, "user.a") == b"folder"
    (folder / "link").symlink_to("nothing")
    with refused(errno.EPERM):
        os.setxattr(folder / "link", "user.a", b"", follow_symlinks=False)
    os.mkfifo(folder / "pipe")
    with refused(errno.EPERM):
        os.setxattr(folder / "pipe", "user.a", b"")


@pytest.mark.skipif(not IS_ROOT, reason="trusted attributes are root's")
def test_trusted_ones_are_roots(shared: Path) -> None:
    path = shared / "file"
    path.touch(mode=0o666)
    for name in ("trusted.a", "user.a", "security.a"):
        os.setxattr(path, name, b"value")
    assert sorted(os.listxattr(path)) == ["security.a", "trusted.a", "user.a"]
    with acting_as(ANN):
        assert sorted(os.listxattr(path)) == ["security.a", "user.a"]
        with refused(errno.ENODATA):
            os.getxattr(path, "trusted.a")
        for name in ("trusted.a", "security.a"):
            with refused(errno.EPERM):
                os.setxattr(path, name, b"")
        with refused(errno.EPERM):
            os.removexattr(path, "trusted.a")
        assert os.getxattr(path, "security.a") == b"value"
    (shared / "link").symlink_to("file")
    os.setxattr(shared / "link", "trusted.l", b"of the link", follow_symlinks=False)
    assert os.listxattr(shared / "link", follow_symlinks=False) == ["trusted.l"]


def test_permissions_of_the_file_count(shared: Path) -> None:
    path = shared / "file"
    path.touch(mode=0o640)
    os.chown(path, ANN.uid, BOB.gid)
    with acting_as(ANN):
        os.setxattr(path, "user.a", b"by ann")
    with acting_as(BOB):
        assert os.getxattr(path, "user.a") == b"by ann"
        with refused(errno.EACCES):
            os.setxattr(path, "user.a", b"by bob")
    path.chmod(0o600)
    with acting_as(BOB), refused(errno.EACCES):
        os.getxattr(path, "user.a")


def test_hard_links_share_them_and_copies_may_have_them(file: Path) -> None:
    os.setxattr(file, "user.a", b"value")
    os.link(file, file.with_name("twin"))
    os.rename(file, file.with_name("renamed"))
    assert os.getxattr(file.with_name("twin"), "user.a") == b"value"
    file.touch()
    assert os.listxattr(file) == []
