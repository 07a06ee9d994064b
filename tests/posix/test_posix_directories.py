"""Listings: complete, stable while entries come and go, of any length; what changes a directory's times."""

# System calls are made by their own names.
# ruff: noqa: PTH108, PTH116, PTH208

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.calls import await_tick
from tests.support.mounted import needs_fuse
from tests.support.references import Drive
from tests.support.syscalls import EXCHANGE, Directory, refused, rename

pytestmark = needs_fuse

TYPES = {"folder": 4, "file": 8, "link": 10, "pipe": 1}
MANY = int(os.environ.get("POSIX_ENTRIES", "5000"))


@pytest.fixture
def listing(folder: Path) -> Iterator[Directory]:
    with closing(Directory(folder)) as opened:
        yield opened


def fill(folder: Path, count: int) -> set[bytes]:
    names = [f"entry-{number:06d}" for number in range(count)]
    for name in names:
        (folder / name).touch()
    return {name.encode() for name in names}


def test_a_listing_has_dots_numbers_and_types(folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "file").touch()
    (folder / "link").symlink_to("x")
    os.mkfifo(folder / "pipe")
    with closing(Directory(folder)) as listing:
        entries = list(iter(listing.read, None))
    found = {name.decode(): (inode, kind) for name, inode, kind in entries}
    assert len(found) == len(entries) == 6
    assert found.pop(".") == (folder.stat().st_ino, 4)
    assert found.pop("..") == (folder.parent.stat().st_ino, 4)
    assert found == {name: ((folder / name).lstat().st_ino, kind) for name, kind in TYPES.items()}


def test_dots_come_first_then_what_came_first(drive: Drive) -> None:
    folder = drive.folder / "in-order"
    folder.mkdir()
    names = [f"{number * 7919 % 100}" for number in range(100)]
    for name in names:
        (folder / name).touch()
    with closing(Directory(folder)) as listing:
        assert listing.rest() == [b".", b"..", *map(str.encode, names)]


def test_a_directory_is_as_large_as_it_has_entries(drive: Drive) -> None:
    """As on tmpfs and btrfs; on ext4 in steps of 4 KiB, and never smaller again."""
    folder = drive.folder / "growing"
    folder.mkdir()
    empty = folder.stat().st_size
    fill(folder, 5)
    (folder / "entry-000001").rename(folder / "renamed")
    (folder / "renamed").rename(folder / "entry-000002")
    os.link(folder / "entry-000003", folder / "twin")
    (folder / "below").mkdir()
    (folder / "below").rename(drive.folder / "elsewhere")
    (folder / "twin").unlink()
    drive.remount()
    assert 0 < empty < folder.stat().st_size
    assert folder.stat().st_size - empty == 4 * ((drive.folder / "elsewhere").stat().st_size // 2)
    for path in folder.iterdir():
        path.unlink()
    assert folder.stat().st_size == empty
    folder.rmdir()
    (drive.folder / "elsewhere").rmdir()


def test_the_root_lists_dots(place: Path) -> None:
    with closing(Directory(place)) as listing:
        found = {name: inode for name, inode, _ in iter(listing.read, None)}
    assert found[b"."] == place.stat().st_ino and b".." in found


@pytest.mark.parametrize("count", [0, 1, 300])
def test_telldir_and_seekdir(folder: Path, count: int) -> None:
    fill(folder, count)
    with closing(Directory(folder)) as listing:
        places, names = [listing.tell()], []
        while (entry := listing.read()) is not None:
            names.append(entry[0])
            places.append(listing.tell())
        assert len(set(places)) == len(places) == count + 3
        for at in (len(names), len(names) // 2, 0, 1, 2, len(names) // 3):
            listing.seek(places[at])
            assert listing.rest() == names[at:], at
        listing.rewind()
        assert listing.rest() == names


def test_what_stays_is_listed_once_whatever_comes_and_goes(folder: Path) -> None:
    names = fill(folder, 1000)
    with closing(Directory(folder)) as listing:
        seen = [listing.read() for _ in range(500)]
        early = [entry[0] for entry in seen if entry is not None and entry[0] in names]
        for name in early[::2]:
            os.unlink(os.fsencode(folder) + b"/" + name)
        late = sorted(names - set(early))
        gone = {*early[::2], *late[::2]}
        for name in late[::2]:
            os.unlink(os.fsencode(folder) + b"/" + name)
        for number in range(200):
            (folder / f"new-{number}").touch()
        rest = listing.rest()
    every = early + [name for name in rest if name in names]
    assert len(every) == len(set(every)) and set(every) >= names - gone
    assert len([name for name in rest if name.startswith(b"new-")]) == len(
        {name for name in rest if name.startswith(b"new-")}
    )


def test_removing_while_listing_removes_everything(folder: Path) -> None:
    """What `rm -r` does, also in pieces."""
    fill(folder, 700)
    with os.scandir(folder) as entries:
        for entry in entries:
            os.unlink(entry)
    assert os.listdir(folder) == []


def test_rewinding_shows_what_is_new(folder: Path, listing: Directory) -> None:
    assert sorted(listing.rest()) == [b".", b".."]
    (folder / "new").touch()
    listing.rewind()
    assert sorted(listing.rest()) == [b".", b"..", b"new"]


def test_many_entries(drive: Drive) -> None:
    """POSIX_ENTRIES=200000 is the long form."""
    folder = drive.folder / "many"
    folder.mkdir()
    names = fill(folder, MANY)
    assert set(os.listdir(os.fsencode(folder))) == names
    drive.remount()
    with os.scandir(os.fsencode(folder)) as entries:
        found = {entry.name: entry.inode() for entry in entries}
    assert found.keys() == names and len(set(found.values())) == MANY
    assert all(os.stat(folder / os.fsdecode(name)).st_ino == found[name] for name in list(names)[::97])
    for name in names:
        os.unlink(folder / os.fsdecode(name))
    folder.rmdir()


def test_listing_a_file_and_what_is_missing(folder: Path) -> None:
    (folder / "file").touch()
    with refused(errno.ENOTDIR):
        os.listdir(folder / "file")
    with refused(errno.ENOENT):
        os.listdir(folder / "none")
    with refused(errno.EISDIR):
        os.open(folder, os.O_WRONLY)
    with refused(errno.ENOTDIR):
        os.open(folder / "file", os.O_RDONLY | os.O_DIRECTORY)
    descriptor = os.open(folder, os.O_RDONLY)
    with refused(errno.EISDIR):
        os.read(descriptor, 1)
    os.fsync(descriptor)
    os.close(descriptor)


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda folder: (folder / "new").touch(),
    "mkdir": lambda folder: (folder / "new").mkdir(),
    "symlink": lambda folder: (folder / "new").symlink_to("x"),
    "mknod": lambda folder: os.mknod(folder / "new", stat.S_IFREG | 0o600),
    "link": lambda folder: os.link(folder / "file", folder / "new"),
    "unlink": lambda folder: (folder / "file").unlink(),
    "rmdir": lambda folder: (folder / "below").rmdir(),
    "rename": lambda folder: (folder / "file").rename(folder / "new"),
    "exchange": lambda folder: rename(folder / "file", folder / "below", EXCHANGE),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changing_entries_changes_mtime_and_ctime(folder: Path, change: str) -> None:
    (folder / "file").touch()
    (folder / "below").mkdir()
    os.utime(folder, ns=(0, 0))
    before = folder.stat()
    await_tick()
    CHANGES[change](folder)
    after = folder.stat()
    assert after.st_mtime_ns > before.st_ctime_ns and after.st_ctime_ns == after.st_mtime_ns
    assert after.st_atime_ns == 0


def test_what_leaves_a_directorys_times_alone(folder: Path) -> None:
    (folder / "file").write_bytes(b"content")
    (folder / "below").mkdir()
    await_tick()
    before = folder.stat()
    (folder / "file").write_bytes(b"changed")
    (folder / "file").chmod(0o600)
    (folder / "below" / "new").touch()
    for call in ((folder / "below").rmdir, (folder / "none").unlink, (folder / "below").mkdir):
        with refused(errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
            call()
    os.listdir(folder)
    after = folder.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_rename_changes_both_directories(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
    (folder / "one" / "file").touch()
    await_tick()
    (folder / "one" / "file").rename(folder / "two" / "file")
    one, two, top = (folder / "one").stat(), (folder / "two").stat(), folder.stat()
    assert one.st_mtime_ns == two.st_mtime_ns > top.st_mtime_ns
