"""What a mount shows is what the next one shows: everything but times of access, down to the inode numbers."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.mounted import needs_fuse
from tests.support.references import Drive
from tests.support.syscalls import (
    ACCESS,
    DEFAULT,
    EXCHANGE,
    GROUP_OBJ,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    Directory,
    acl,
    rename,
)
from tests.support.trees import make_tree
from tests.support.users import ANN, BOB, IS_ROOT, TEAM, acting_as

pytestmark = needs_fuse

FOR_ANN = acl((USER_OBJ, 6), (USER, 6, ANN.uid), (GROUP_OBJ, 4), (MASK, 6), (OTHER, 0))

Seen = dict[str, tuple[object, ...]]


def picture(folder: Path) -> Seen:
    """Of each path everything that stays."""
    seen: Seen = {}
    for place, folders, files in os.walk(folder):
        for name in [".", *folders, *files]:
            path = Path(place) / name
            status = path.lstat()
            fields = [
                getattr(status, f"st_{field}") for field in ("ino", "mode", "nlink", "uid", "gid", "size", "rdev")
            ]
            times = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
            names = sorted(os.listxattr(path, follow_symlinks=False))
            values = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size < 2**30 else b""
            seen[os.path.relpath(path, folder)] = (*fields, *times, values, content)
    return seen


def order(folder: Path) -> list[bytes]:
    listing = Directory(folder)
    names = listing.rest()
    listing.close()
    return names


def test_a_tree_of_every_kind(drive: Drive) -> None:
    make_tree(drive.folder / "tree", 60)
    before, listed = picture(drive.folder), order(drive.folder / "tree" / "oddities")
    drive.remount()
    assert picture(drive.folder) == before
    assert order(drive.folder / "tree" / "oddities") == listed


def test_after_every_kind_of_change(drive: Drive) -> None:
    folder = drive.folder / "changes"
    folder.mkdir()
    for name in ("one", "two", "three", "four"):
        (folder / name).write_bytes(name.encode() * 1000)
    (folder / "a" / "b").mkdir(parents=True)
    drive.remount()
    (folder / "one").rename(folder / "a" / "one")
    rename(folder / "two", folder / "a" / "b", EXCHANGE)
    os.link(folder / "three", folder / "twin")
    (folder / "three").chmod(0o4711)
    os.truncate(folder / "four", 100)
    os.truncate(folder / "four", 5000)
    with (folder / "twin").open("ab") as file:
        file.write(b"appended")
    os.utime(folder / "four", ns=(1, 2))
    os.setxattr(folder, DEFAULT, FOR_ANN)
    (folder / "inherits").mkdir()
    os.setxattr(folder / "three", ACCESS, FOR_ANN)
    before = picture(folder)
    drive.remount()
    assert picture(folder) == before
    assert (folder / "four").read_bytes() == (b"four" * 1000)[:100] + bytes(4900)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become several users")
def test_what_several_users_did(drive: Drive) -> None:
    folder = drive.folder / "users"
    folder.mkdir()
    folder.chmod(0o1777)
    os.setxattr(folder, "trusted.a", b"of root")
    with acting_as(ANN):
        (folder / "program").write_bytes(b"content")
        (folder / "program").chmod(0o4755)
        os.chown(folder / "program", -1, TEAM)
        (folder / "program").chmod(0o6777)
    with acting_as(BOB):
        os.close(os.open(folder / "program", os.O_WRONLY | os.O_TRUNC))
    before = picture(folder)
    assert stat.S_IMODE((folder / "program").stat().st_mode) == 0o777
    drive.remount()
    assert picture(folder) == before
