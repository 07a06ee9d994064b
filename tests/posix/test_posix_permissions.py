"""Who may do what: modes, owners, groups, the sticky bit, set-id bits."""

# System calls are made by their own names.
# ruff: noqa: PTH208

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounted import needs_fuse
from tests.support.syscalls import refused
from tests.support.users import ANN, BOB, ROOT, TEAM, User, acting_as

pytestmark = needs_fuse


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def make_file(path: Path, owner: User, mode: int, gid: int = -1) -> Path:
    path.write_bytes(b"content")
    os.chown(path, owner.uid, owner.gid if gid < 0 else gid)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("mode", "readers", "writers"),
    [
        (0o600, {ANN}, {ANN}),
        (0o440, {ANN, BOB}, set()),
        (0o420, {ANN}, {BOB}),
        (0o070, {BOB}, {BOB}),
        (0o000, set(), set()),
        (0o604, {ANN}, {ANN}),
    ],
)
def test_reading_and_writing(shared: Path, mode: int, readers: set[User], writers: set[User]) -> None:
    path = make_file(shared / "file", ANN, mode, TEAM)
    for user in (ROOT, ANN, BOB):
        with acting_as(user):
            for flags, allowed in ((os.O_RDONLY, readers), (os.O_WRONLY, writers), (os.O_RDWR, readers & writers)):
                if user in allowed or user is ROOT:
                    os.close(os.open(path, flags))
                else:
                    with refused(errno.EACCES):
                        os.open(path, flags)


def test_the_owner_class_counts_first(shared: Path) -> None:
    """An owner without a permission is refused though the group and all others have it."""
    path = make_file(shared / "file", ANN, 0o077, TEAM)
    with acting_as(ANN), refused(errno.EACCES):
        path.read_bytes()
    with acting_as(BOB):
        assert path.read_bytes() == b"content"


def test_directories_are_searched_listed_and_changed_by_permission(shared: Path) -> None:
    folder = shared / "folder"
    folder.mkdir()
    make_file(folder / "file", ANN, 0o666)
    folder.chmod(0o711)
    with acting_as(ANN):
        assert (folder / "file").read_bytes() == b"content"
        with refused(errno.EACCES):
            os.listdir(folder)
        with refused(errno.EACCES):
            (folder / "new").touch()
    folder.chmod(0o744)
    with acting_as(ANN):
        assert os.listdir(folder) == ["file"]
        with refused(errno.EACCES):
            (folder / "file").lstat()
    folder.chmod(0o722)
    with acting_as(ANN), refused(errno.EACCES):
        (folder / "new").touch()
    folder.chmod(0o733)
    with acting_as(ANN):
        (folder / "new").touch()
        (folder / "new").unlink()
        (folder / "file").unlink()


def test_execution(shared: Path) -> None:
    path = shared / "program"
    path.write_text("#!/bin/sh\nexit 7\n")
    path.chmod(0o644)
    for user in (ROOT, ANN):
        with acting_as(user):
            assert not os.access(path, os.X_OK, effective_ids=True)
    path.chmod(0o701)
    for user in (ROOT, ANN):
        with acting_as(user):
            assert os.access(path, os.X_OK, effective_ids=True)
    assert os.waitstatus_to_exitcode(os.spawnv(os.P_WAIT, path, [str(path)]) << 8) == 7


def test_sticky_directories(shared: Path) -> None:
    shared.chmod(0o1777)
    for name in ("anns", "bobs", "another"):
        make_file(shared / name, ANN if name != "bobs" else BOB, 0o666)
    with acting_as(BOB):
        with refused(errno.EPERM):
            (shared / "anns").unlink()
        with refused(errno.EPERM):
            (shared / "anns").rename(shared / "renamed")
        with refused(errno.EPERM):
            (shared / "bobs").rename(shared / "anns")
        (shared / "bobs").rename(shared / "mine")
        (shared / "mine").unlink()
    os.chown(shared, BOB.uid, -1)
    with acting_as(BOB):
        (shared / "anns").unlink()
        (shared / "another").rename(shared / "renamed")


def test_moving_a_directory_needs_the_right_to_change_it(shared: Path) -> None:
    """Its `..` changes."""
    moved, target = shared / "moved", shared / "target"
    moved.mkdir(mode=0o755)
    target.mkdir(mode=0o777)
    with acting_as(ANN):
        moved.rename(shared / "renamed")
        with refused(errno.EACCES):
            (shared / "renamed").rename(target / "moved")


def test_a_new_file_belongs_to_its_maker(folder: Path, user: User) -> None:
    (folder / "file").touch(mode=0o640)
    (folder / "folder").mkdir(mode=0o750)
    (folder / "link").symlink_to("file")
    os.mkfifo(folder / "pipe", 0o620)
    for name, mode in (("file", 0o640), ("folder", 0o750), ("link", 0o777), ("pipe", 0o620)):
        status = (folder / name).lstat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (user.uid, user.gid, mode), name


def test_the_umask(folder: Path) -> None:
    os.umask(0o027)
    (folder / "file").touch(mode=0o666)
    (folder / "folder").mkdir(mode=0o777)
    os.mkfifo(folder / "pipe", 0o666)
    assert [mode_of(folder / name) for name in ("file", "folder", "pipe")] == [0o640, 0o750, 0o640]


def test_a_set_group_id_directory_passes_its_group_on(shared: Path) -> None:
    os.chown(shared, -1, TEAM)
    shared.chmod(0o2777)
    with acting_as(ANN):
        (shared / "file").touch()
        (shared / "folder").mkdir(mode=0o755)
        (shared / "link").symlink_to("file")
        (shared / "folder" / "below").mkdir(mode=0o700)
    for name in ("file", "folder", "link", "folder/below"):
        assert (shared / name).lstat().st_gid == TEAM, name
    assert mode_of(shared / "folder") == 0o2755 and mode_of(shared / "folder" / "below") == 0o2700
    os.chown(shared, -1, 4321)
    with acting_as(ANN):
        os.close(os.open(shared / "foreign", os.O_CREAT | os.O_WRONLY, 0o2775))
    assert mode_of(shared / "foreign") == 0o775, "no program for a group that its maker is not in"


def test_who_may_change_a_mode(shared: Path) -> None:
    path = make_file(shared / "file", ANN, 0o644, TEAM)
    with acting_as(BOB), refused(errno.EPERM):
        path.chmod(0o666)
    with acting_as(ANN):
        path.chmod(0o2755)
        assert mode_of(path) == 0o2755
    os.chown(path, ANN.uid, 4321)
    with acting_as(ANN):
        path.chmod(0o2755)
        assert mode_of(path) == 0o755, "not for a group that the owner is not in"
    path.chmod(0o2755)
    assert mode_of(path) == 0o2755


def test_who_may_change_an_owner(shared: Path) -> None:
    path = make_file(shared / "file", ANN, 0o644)
    with acting_as(ANN):
        with refused(errno.EPERM):
            os.chown(path, BOB.uid, -1)
        with refused(errno.EPERM):
            os.chown(path, -1, 4321)
        os.chown(path, -1, TEAM)
        os.chown(path, ANN.uid, ANN.gid)
    with acting_as(BOB), refused(errno.EPERM):
        os.chown(path, -1, TEAM)
    os.chown(path, 2**32 - 2, 2**32 - 2)
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (2**32 - 2, 2**32 - 2)
    (shared / "link").symlink_to("file")
    os.lchown(shared / "link", 5, 6)
    assert (shared / "link").lstat().st_uid == 5 and path.stat().st_uid == 2**32 - 2


def opened(path: Path, flags: int, change: Callable[[int], object] = lambda descriptor: None) -> None:
    descriptor = os.open(path, flags)
    try:
        change(descriptor)
    finally:
        os.close(descriptor)


CHANGES: dict[str, Callable[[Path], None]] = {
    "write": lambda path: opened(path, os.O_WRONLY, lambda descriptor: os.write(descriptor, b"x")),
    "append": lambda path: opened(path, os.O_WRONLY | os.O_APPEND, lambda descriptor: os.write(descriptor, b"x")),
    "truncate": lambda path: os.truncate(path, 1),
    "ftruncate": lambda path: opened(path, os.O_WRONLY, lambda descriptor: os.ftruncate(descriptor, 1)),
    "O_TRUNC": lambda path: opened(path, os.O_WRONLY | os.O_TRUNC),
    "extend": lambda path: os.truncate(path, 100),
}


@pytest.mark.parametrize("change", CHANGES)
def test_set_id_bits_go_when_another_user_changes_a_file(shared: Path, change: str) -> None:
    path = make_file(shared / "program", ANN, 0o6777)
    with acting_as(BOB):
        CHANGES[change](path)
    assert mode_of(path) == 0o777
    path.chmod(0o6777)
    CHANGES[change](path)
    assert mode_of(path) == 0o6777, "root may"


@pytest.mark.parametrize("change", CHANGES)
def test_capabilities_go_when_a_file_changes(shared: Path, change: str) -> None:
    path = make_file(shared / "program", ROOT, 0o777)
    capability = (0x02000001).to_bytes(4, "little") + bytes(16)
    os.setxattr(path, "security.capability", capability)
    CHANGES[change](path)
    assert os.listxattr(path) == []


def test_set_id_bits_and_capabilities_go_when_the_owner_changes(shared: Path) -> None:
    path = make_file(shared / "program", ANN, 0o6755, ANN.gid)
    with acting_as(ANN):
        os.chown(path, -1, TEAM)
    assert mode_of(path) == 0o755
    path.chmod(0o6755)
    os.chown(path, BOB.uid, -1)
    assert mode_of(path) == 0o755
    (shared / "folder").mkdir()
    (shared / "folder").chmod(0o6755)
    os.chown(shared / "folder", ANN.uid, TEAM)
    assert mode_of(shared / "folder") == 0o6755, "of a directory they stay"


def test_who_may_set_times(shared: Path) -> None:
    path = make_file(shared / "file", ANN, 0o622, ANN.gid)
    with acting_as(BOB):
        os.utime(path)
        with refused(errno.EPERM):
            os.utime(path, ns=(1, 2))
    path.chmod(0o644)
    with acting_as(BOB), refused(errno.EACCES):
        os.utime(path)
    with acting_as(ANN):
        path.chmod(0o400)
        os.utime(path)
        os.utime(path, ns=(1, 2))
    assert path.stat().st_mtime_ns == 2


def test_an_open_file_keeps_its_rights(folder: Path) -> None:
    path = folder / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o000)
    os.write(descriptor, b"though its mode forbids it")
    assert os.pread(descriptor, 6, 0) == b"though"
    os.close(descriptor)


def test_access_asks_the_kernel(shared: Path) -> None:
    path = make_file(shared / "file", ANN, 0o640, TEAM)
    with acting_as(BOB):
        assert os.access(path, os.R_OK, effective_ids=True)
        assert not os.access(path, os.W_OK, effective_ids=True)
        assert not os.access(shared / "none", os.F_OK)
