"""POSIX ACLs: that they permit and forbid, agree with the mode, and are passed on."""

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.mounted import PATIENCE, needs_fuse
from tests.support.syscalls import (
    ACCESS,
    DEFAULT,
    GROUP,
    GROUP_OBJ,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    acl,
    acl_entries,
    refused,
)
from tests.support.users import ANN, BOB, TEAM, acting_as

pytestmark = needs_fuse

FOR_ANN = acl((USER_OBJ, 6), (USER, 6, ANN.uid), (GROUP_OBJ, 4), (MASK, 6), (OTHER, 0))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def permissions(path: Path, kind: str = ACCESS) -> dict[tuple[int, int | None], int]:
    """Of each entry, by its tag and, where it is named, its id."""
    return {
        (tag, id if tag in (USER, GROUP) else None): permission
        for tag, permission, id in acl_entries(os.getxattr(path, kind))
    }


def can(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


def test_named_users_and_groups(shared: Path) -> None:
    path = shared / "file"
    path.touch(mode=0o600)
    os.setxattr(path, ACCESS, FOR_ANN)
    assert mode_of(path) == 0o660
    with acting_as(ANN):
        path.write_bytes(b"by ann")
    with acting_as(BOB), refused(errno.EACCES):
        path.read_bytes()
    os.setxattr(path, ACCESS, acl((USER_OBJ, 6), (GROUP_OBJ, 0), (GROUP, 4, TEAM), (MASK, 7), (OTHER, 0)))
    with acting_as(BOB):
        assert path.read_bytes() == b"by ann"
        with refused(errno.EACCES):
            path.write_bytes(b"")


def test_an_entry_that_forbids(shared: Path) -> None:
    path = shared / "file"
    path.touch(mode=0o666)
    os.setxattr(path, ACCESS, acl((USER_OBJ, 6), (USER, 0, ANN.uid), (GROUP_OBJ, 6), (MASK, 6), (OTHER, 6)))
    with acting_as(ANN):
        assert not can(path, os.R_OK)
    with acting_as(BOB):
        assert can(path, os.R_OK | os.W_OK)


def test_the_mask_bounds(shared: Path) -> None:
    path = shared / "file"
    path.touch()
    os.setxattr(path, ACCESS, FOR_ANN)
    path.chmod(0o640)
    assert permissions(path) == {
        (USER_OBJ, None): 6,
        (USER, ANN.uid): 6,
        (GROUP_OBJ, None): 4,
        (MASK, None): 4,
        (OTHER, None): 0,
    }
    with acting_as(ANN):
        assert can(path, os.R_OK) and not can(path, os.W_OK)
    path.chmod(0o671)
    with acting_as(ANN):
        assert can(path, os.R_OK | os.W_OK) and not can(path, os.X_OK)
    assert permissions(path)[MASK, None] == 7 and permissions(path)[OTHER, None] == 1


def test_an_acl_that_says_no_more_than_a_mode_is_one(folder: Path) -> None:
    path = folder / "file"
    path.touch(mode=0o600)
    os.setxattr(path, ACCESS, FOR_ANN)
    assert os.listxattr(path) == [ACCESS]
    os.setxattr(path, ACCESS, acl((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1)))
    assert mode_of(path) == 0o751 and os.listxattr(path) == []
    with refused(errno.ENODATA):
        os.getxattr(path, ACCESS)


def test_an_acl_that_is_removed_leaves_the_mode(folder: Path) -> None:
    path = folder / "file"
    path.touch(mode=0o600)
    os.setxattr(path, ACCESS, FOR_ANN)
    os.removexattr(path, ACCESS)
    assert mode_of(path) == 0o660 and os.listxattr(path) == []
    os.removexattr(path, ACCESS)


def test_set_id_bits_stay_with_the_owner(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    path.chmod(0o6700)
    os.setxattr(path, ACCESS, FOR_ANN)
    assert mode_of(path) == 0o6660


def test_an_owner_outside_of_the_group_loses_its_set_id_bit(shared: Path) -> None:
    path = shared / "file"
    path.touch()
    os.chown(path, ANN.uid, 4321)
    path.chmod(0o2770)
    with acting_as(ANN):
        os.setxattr(path, ACCESS, FOR_ANN)
    assert mode_of(path) == 0o660
    os.chown(path, ANN.uid, TEAM)
    path.chmod(0o2770)
    with acting_as(ANN):
        os.setxattr(path, ACCESS, FOR_ANN)
    assert mode_of(path) == 0o2660


def test_only_the_owner_sets_one(shared: Path) -> None:
    path = shared / "file"
    path.touch(mode=0o666)
    with acting_as(ANN):
        with refused(errno.EPERM):
            os.setxattr(path, ACCESS, FOR_ANN)
        with refused(errno.EPERM):
            os.removexattr(path, ACCESS)


@pytest.mark.parametrize(
    "broken",
    [
        acl((USER_OBJ, 6), (OTHER, 0)),
        acl((USER_OBJ, 6), (USER, 6, 7), (GROUP_OBJ, 4), (OTHER, 0)),
        acl((USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0), (OTHER, 0)),
        acl((USER_OBJ, 9), (GROUP_OBJ, 4), (OTHER, 0)),
        b"\2\0\0\0xyz",
        b"\3\0\0\0",
    ],
)
def test_what_is_no_acl(folder: Path, broken: bytes) -> None:
    path = folder / "file"
    path.touch(mode=0o640)
    with refused(errno.EINVAL, errno.EOPNOTSUPP):
        os.setxattr(path, ACCESS, broken)
    assert mode_of(path) == 0o640 and os.listxattr(path) == []


def test_only_directories_have_a_default(folder: Path) -> None:
    (folder / "file").touch()
    with refused(errno.EACCES):
        os.setxattr(folder / "file", DEFAULT, FOR_ANN)
    before = mode_of(folder)
    os.setxattr(folder, DEFAULT, FOR_ANN)
    assert mode_of(folder) == before and os.listxattr(folder) == [DEFAULT]
    os.removexattr(folder, DEFAULT)
    assert os.listxattr(folder) == []


def test_a_default_is_passed_on(folder: Path) -> None:
    default = acl((USER_OBJ, 7), (USER, 6, ANN.uid), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 4))
    os.setxattr(folder, DEFAULT, default)
    (folder / "file").touch(mode=0o666)
    os.mkfifo(folder / "pipe", 0o600)
    (folder / "below").mkdir(mode=0o750)
    (folder / "link").symlink_to("file")
    assert [mode_of(folder / name) for name in ("file", "pipe", "below")] == [0o664, 0o600, 0o750]
    assert permissions(folder / "file") == {
        (USER_OBJ, None): 6,
        (USER, ANN.uid): 6,
        (GROUP_OBJ, None): 5,
        (MASK, None): 6,
        (OTHER, None): 4,
    }
    assert permissions(folder / "pipe")[MASK, None] == 0
    assert os.getxattr(folder / "below", DEFAULT) == default
    assert os.listxattr(folder / "link", follow_symlinks=False) == []
    (folder / "below" / "again").mkdir(mode=0o777)
    assert os.getxattr(folder / "below" / "again", DEFAULT) == default
    assert permissions(folder / "below" / "again")[OTHER, None] == 4


def test_a_default_without_names_is_a_mode(folder: Path) -> None:
    os.setxattr(folder, DEFAULT, acl((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 0)))
    (folder / "file").touch(mode=0o666)
    assert mode_of(folder / "file") == 0o640 and os.listxattr(folder / "file") == []


def test_getfacl_and_setfacl(folder: Path) -> None:
    (folder / "file").touch(mode=0o644)
    subprocess.run(["setfacl", "-m", "u:1:rwx,g:2:r", "file"], cwd=folder, check=True, timeout=PATIENCE)
    done = subprocess.run(
        ["getfacl", "-cn", "file"], cwd=folder, check=True, timeout=PATIENCE, capture_output=True, text=True
    )
    assert done.stdout.split() == ["user::rw-", "user:1:rwx", "group::r--", "group:2:r--", "mask::rwx", "other::r--"]
    subprocess.run(["setfacl", "-b", "file"], cwd=folder, check=True, timeout=PATIENCE)
    assert os.listxattr(folder / "file") == []


def test_copies_with_and_without(folder: Path) -> None:
    (folder / "file").touch(mode=0o600)
    os.setxattr(folder / "file", ACCESS, FOR_ANN)
    for options, name in (("-a", "archived"), ("-p", "preserved")):
        subprocess.run(["cp", options, "file", name], cwd=folder, check=True, timeout=PATIENCE)
        assert os.getxattr(folder / name, ACCESS) == FOR_ANN, name
    subprocess.run(["cp", "file", "plain"], cwd=folder, check=True, timeout=PATIENCE)
    assert os.listxattr(folder / "plain") == []
