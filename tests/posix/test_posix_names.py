"""Names: links, their counts, renaming in all its forms, removal while open, limits, special files."""

# System calls are made by their own names.
# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH115, PTH121, PTH208, PTH211

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.mounted import needs_fuse
from tests.support.references import Drive
from tests.support.syscalls import EXCHANGE, NOREPLACE, WHITEOUT, link_open, refused, rename
from tests.support.users import ANN, acting_as

pytestmark = needs_fuse


def links(path: Path) -> int:
    return path.lstat().st_nlink


def test_hard_links(folder: Path) -> None:
    one, two = folder / "one", folder / "two"
    one.write_bytes(b"content")
    os.link(one, two)
    assert links(one) == links(two) == 2 and one.samefile(two)
    two.write_bytes(b"changed")
    assert one.read_bytes() == b"changed"
    one.unlink()
    assert links(two) == 1 and two.read_bytes() == b"changed"
    two.touch()
    with refused(errno.EEXIST):
        os.link(two, two)
    with refused(errno.EPERM):
        os.link(folder, folder / "three")
    with refused(errno.ENOENT):
        os.link(one, folder / "three")


def test_hard_links_to_links_and_special_files(folder: Path) -> None:
    (folder / "link").symlink_to("nowhere")
    os.link(folder / "link", folder / "twin", follow_symlinks=False)
    assert (folder / "twin").readlink() == Path("nowhere") and links(folder / "twin") == 2
    os.mkfifo(folder / "pipe")
    os.link(folder / "pipe", folder / "pipe2")
    assert stat.S_ISFIFO((folder / "pipe2").stat().st_mode)


def test_link_counts_of_directories(folder: Path) -> None:
    assert links(folder) == 2
    for name in ("one", "two"):
        (folder / name).mkdir()
    (folder / "file").touch()
    assert links(folder) == 4 and links(folder / "one") == 2
    (folder / "one").rename(folder / "two" / "one")
    assert links(folder) == 3 and links(folder / "two") == 3
    rename(folder / "two" / "one", folder / "file", EXCHANGE)
    assert links(folder) == 4 and links(folder / "two") == 2
    (folder / "file").rmdir()
    assert links(folder) == 3
    (folder / "empty").mkdir()
    (folder / "other").mkdir()
    (folder / "empty").rename(folder / "other")
    assert links(folder) == 4


def test_a_file_that_is_removed_while_open(folder: Path) -> None:
    path = folder / "file"
    with path.open("w+b") as file:
        file.write(b"content")
        file.flush()
        path.unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b" and more")
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), 10)
        os.utime(file.fileno(), ns=(1, 2))
        if path.parent.owner():
            os.setxattr(file.fileno(), "user.a", b"value")
            assert os.getxattr(file.fileno(), "user.a") == b"value"
        path.write_bytes(b"a new one")
        assert os.pread(file.fileno(), 100, 0) == b"content an"
        status = os.fstat(file.fileno())
        assert (status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (10, 2, 0o600)
        with refused(errno.ENOENT):
            link_open(file.fileno(), folder / "again")
    assert path.read_bytes() == b"a new one"


def test_a_directory_that_is_removed_while_open(folder: Path) -> None:
    path = folder / "below"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    path.rmdir()
    assert os.fstat(descriptor).st_nlink == 0
    with refused(errno.ENOENT):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    with refused(errno.ENOENT):
        os.mkdir("folder", dir_fd=descriptor)
    os.close(descriptor)


def test_a_file_that_is_replaced_while_open(folder: Path) -> None:
    (folder / "old").write_bytes(b"old")
    (folder / "new").write_bytes(b"new")
    with (folder / "old").open("rb") as file:
        (folder / "new").rename(folder / "old")
        assert file.read() == b"old" and os.fstat(file.fileno()).st_nlink == 0
    assert (folder / "old").read_bytes() == b"new"


def test_what_cannot_be_removed(folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        (folder / "full").rmdir()
    with refused(errno.EISDIR):
        (folder / "full").unlink()
    with refused(errno.ENOTDIR):
        (folder / "full" / "file").rmdir()
    with refused(errno.ENOENT):
        (folder / "none").unlink()
    with refused(errno.EINVAL):
        os.rmdir(f"{folder}/full/.")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(f"{folder}/full/..")
    with refused(errno.ENOTDIR):
        os.unlink(f"{folder}/full/file/")


def test_rename_replaces(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).write_text(name)
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    (folder / "one").rename(folder / "two")
    assert (folder / "two").read_text() == "one" and not (folder / "one").exists()
    with refused(errno.EISDIR):
        (folder / "two").rename(folder / "empty")
    with refused(errno.ENOTDIR):
        (folder / "empty").rename(folder / "two")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        (folder / "empty").rename(folder / "full")
    (folder / "full").rename(folder / "empty")
    assert (folder / "empty" / "file").exists()


def test_rename_onto_itself_or_its_twin_does_nothing(folder: Path) -> None:
    (folder / "one").touch()
    os.link(folder / "one", folder / "two")
    (folder / "one").rename(folder / "two")
    (folder / "one").rename(folder / "one")
    assert sorted(os.listdir(folder)) == ["one", "two"]


def test_rename_into_its_own_subtree(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    with refused(errno.EINVAL):
        (folder / "a").rename(folder / "a" / "b" / "c")
    with refused(errno.EINVAL):
        (folder / "a").rename(folder / "a" / "c")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        (folder / "a" / "b").rename(folder / "a")
    with refused(errno.EINVAL):
        rename(folder / "a", folder / "a" / "b", EXCHANGE)
    with refused(errno.EBUSY, errno.EINVAL, errno.ENOTEMPTY):
        os.rename(f"{folder}/a/b/..", f"{folder}/c")


def test_rename_with_noreplace(folder: Path) -> None:
    (folder / "one").touch()
    (folder / "two").touch()
    with refused(errno.EEXIST):
        rename(folder / "one", folder / "two", NOREPLACE)
    rename(folder / "one", folder / "three", NOREPLACE)
    assert sorted(os.listdir(folder)) == ["three", "two"]
    with refused(errno.EINVAL):
        rename(folder / "two", folder / "three", NOREPLACE | EXCHANGE)
    with refused(errno.EINVAL):
        rename(folder / "two", folder / "three", 1 << 10)


def test_rename_that_exchanges(folder: Path) -> None:
    (folder / "file").write_text("file")
    (folder / "folder" / "below").mkdir(parents=True)
    (folder / "other").mkdir()
    (folder / "other" / "link").symlink_to("x")
    rename(folder / "file", folder / "other" / "link", EXCHANGE)
    assert (folder / "other" / "link").read_text() == "file" and (folder / "file").is_symlink()
    rename(folder / "folder", folder / "other" / "link", EXCHANGE)
    assert (folder / "other" / "link" / "below").is_dir() and (folder / "folder").read_text() == "file"
    assert os.path.samefile(folder / "other" / "link" / "..", folder / "other")
    with refused(errno.ENOENT):
        rename(folder / "folder", folder / "none", EXCHANGE)


def test_rename_that_leaves_a_whiteout(folder: Path) -> None:
    (folder / "file").write_text("file")
    (folder / "below").mkdir()
    for moved, target in (("file", "below/file"), ("below", "moved")):
        rename(folder / moved, folder / target, WHITEOUT)
        left = (folder / moved).lstat()
        assert (left.st_mode, left.st_rdev, left.st_nlink) == (stat.S_IFCHR, 0, 1)
        assert (left.st_uid, left.st_gid) == (os.geteuid(), os.getegid())
    assert (folder / "moved" / "file").read_text() == "file" and links(folder) == 3
    rename(folder / "moved", folder / "again", WHITEOUT | NOREPLACE)
    with refused(errno.EEXIST):
        rename(folder / "again", folder / "moved", WHITEOUT | NOREPLACE)
    with refused(errno.EINVAL):
        rename(folder / "again", folder / "moved", WHITEOUT | EXCHANGE)
    assert sorted(os.listdir(folder)) == ["again", "below", "file", "moved"]
    (folder / "file").unlink()
    rename(folder / "below", folder / "moved", 0)


def test_rename_across_directories_moves_dot_dot(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "c").mkdir()
    descriptor = os.open(folder / "a" / "b", os.O_RDONLY)
    (folder / "a" / "b").rename(folder / "c" / "b")
    assert os.stat("..", dir_fd=descriptor).st_ino == (folder / "c").stat().st_ino
    os.close(descriptor)


def test_rename_needs_both_directories(shared: Path) -> None:
    for name, mode in (("open", 0o777), ("closed", 0o755)):
        (shared / name).mkdir()
        (shared / name / "file").touch()
        (shared / name).chmod(mode)
    with acting_as(ANN):
        for source, target in (("open", "closed"), ("closed", "open")):
            with refused(errno.EACCES):
                (shared / source / "file").rename(shared / target / "new")
            with refused(errno.EACCES):
                rename(shared / source / "file", shared / target / "file", EXCHANGE)


def test_symbolic_links(folder: Path) -> None:
    for target in ("file", "../x/./y", "/", "t" * 4095, "\udcff\n "):
        (folder / "link").symlink_to(target)
        assert os.readlink(folder / "link") == target
        status = (folder / "link").lstat()
        assert stat.S_IMODE(status.st_mode) == 0o777 and status.st_size == len(os.fsencode(target))
        (folder / "link").unlink()
    with refused(errno.ENAMETOOLONG):
        (folder / "link").symlink_to("t" * 4096)
    with refused(errno.ENOENT):
        os.symlink("", folder / "link")
    (folder / "loop").symlink_to("loop")
    with refused(errno.ELOOP):
        (folder / "loop").read_bytes()
    (folder / "file").write_bytes(b"content")
    (folder / "link").symlink_to("file")
    assert (folder / "link").read_bytes() == b"content"
    with refused(errno.ELOOP):
        os.open(folder / "link", os.O_RDONLY | os.O_NOFOLLOW)
    with refused(errno.EINVAL):
        os.readlink(folder / "file")
    (folder / "link").unlink()
    assert (folder / "file").exists()


def test_names_of_255_bytes_of_any_kind(folder: Path) -> None:
    every = bytes(set(range(1, 256)) - {ord("/")})
    names = [b"n" * 255, every[:200], every[54:], b"\xff\xfe", b" ", b"-", b"...", "日本語".encode()]
    names += [b"caf\xc3\xa9", b"cafe\xcc\x81"]
    for name in names:
        os.close(os.open(os.fsencode(folder) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(os.fsencode(folder))) == sorted(names)
    too_long = folder / ("n" * 256)
    for call in (too_long.touch, too_long.mkdir, too_long.unlink, too_long.stat, lambda: too_long.symlink_to("x")):
        with refused(errno.ENAMETOOLONG):
            call()
    with refused(errno.ENAMETOOLONG):
        os.rename(os.fsencode(folder) + b"/-", os.fsencode(too_long))
    assert os.pathconf(folder, "PC_NAME_MAX") == 255


def test_deep_trees(folder: Path) -> None:
    """Deeper than a path is long: one name at a time."""
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)
        for _ in range(60):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        Path("file").write_text("at the bottom")
        assert Path("file").read_text() == "at the bottom"
        with refused(errno.ENAMETOOLONG):
            (folder / Path("/".join(["d" * 100] * 60)) / "file").stat()
        Path("file").unlink()
        for _ in range(60):
            os.chdir("..")
            os.rmdir("d" * 100)
        assert os.path.samefile(".", folder)
    finally:
        os.fchdir(before)
        os.close(before)


def test_special_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe", 0o600)
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(folder / "file", stat.S_IFREG | 0o640)
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode) and stat.S_ISSOCK((folder / "socket").stat().st_mode)
    assert (folder / "file").read_bytes() == b""
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(folder / "pipe", os.O_WRONLY)
    os.write(writer, b"through the pipe")
    assert os.read(reader, 100) == b"through the pipe"
    os.close(reader)
    os.close(writer)
    with refused(errno.ENXIO):
        os.open(folder / "socket", os.O_RDONLY)


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_device_nodes(folder: Path, kind: int) -> None:
    device = os.makedev(4095, 2**20 - 1)
    if os.geteuid() != 0:
        with refused(errno.EPERM):
            os.mknod(folder / "device", kind | 0o600, device)
        return
    os.mknod(folder / "device", kind | 0o600, device)
    status = (folder / "device").stat()
    assert stat.S_IFMT(status.st_mode) == kind and status.st_rdev == device


def test_dots_as_names(folder: Path) -> None:
    (folder / "below").mkdir()
    for name in (".", ".."):
        with refused(errno.EEXIST):
            os.mkdir(f"{folder}/below/{name}")
        with refused(errno.EBUSY):
            os.rename(f"{folder}/below/{name}", folder / "other")
    assert os.path.samefile(folder / "below" / "..", folder)


def test_the_parent_of_the_root_is_outside(drive: Drive) -> None:
    assert os.path.samefile(drive.folder / "..", drive.folder.parent)
    assert (drive.folder / ".").stat().st_ino == drive.folder.stat().st_ino == 1
