"""The same rules without a kernel: what ACLs say and pass on, which times a size changes, what clones share."""

from pathlib import Path

import pytest

from infinitfs.errors import InvalidOperation, NoAttribute
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import acl
from infinitfs.volume.clock import KernelTime
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.volume import Volume
from tests.support import syscalls
from tests.support.randomness import seeded
from tests.support.syscalls import GROUP_OBJ, MASK, OTHER, USER, USER_OBJ
from tests.support.volumes import FILE, FOLDER, START, WallClock, content, drained, opened_volume, put

NAMED = syscalls.acl((USER_OBJ, 7), (USER, 6, 5), (GROUP_OBJ, 5), (MASK, 4), (OTHER, 1))
PLAIN = syscalls.acl((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 0))


def test_an_acl_and_its_mode() -> None:
    assert acl.mode_of(NAMED, 0o104000) == 0o104741 and acl.mode_of(PLAIN, 0o777) == 0o750
    assert acl.says_more(NAMED) and not acl.says_more(PLAIN)
    assert acl.shown(NAMED, 0o741) == NAMED
    entries = syscalls.acl_entries(acl.shown(NAMED, 0o106213))
    assert [permissions for _, permissions, _ in entries] == [2, 6, 5, 1, 3]
    assert acl.inherited(NAMED, 0o106666) == 0o106640 and acl.inherited(PLAIN, 0o777) == 0o750


@pytest.mark.parametrize("broken", [b"", b"\2\0\0\0", NAMED[:-1], b"\1" + NAMED[1:], NAMED[:-8]])
def test_what_is_no_acl_is_refused(broken: bytes) -> None:
    with pytest.raises(InvalidOperation):
        acl.mode_of(broken, 0)


async def test_defaults_are_passed_on(tmp_path: Path, autojump_clock: object) -> None:
    async with opened_volume(MemoryStorage(), tmp_path / "home") as session:
        volume = session.volume
        await volume.set_xattr(ROOT, acl.DEFAULT, NAMED)
        file = await volume.create(ROOT, b"file", FILE | 0o666, 1, 1)
        folder = await volume.create(ROOT, b"folder", FOLDER | 0o777, 1, 1)
        link = await volume.create(ROOT, b"link", 0o120777, 1, 1, target=b"x")
        assert file.mode == 0o100640 and folder.mode == 0o040741 and link.mode == 0o120777
        assert volume.get_xattr(file.ino, acl.ACCESS) == acl.shown(NAMED, 0o640)
        assert volume.get_xattr(folder.ino, acl.DEFAULT) == NAMED
        assert volume.list_xattrs(file.ino) == [acl.ACCESS] and volume.list_xattrs(link.ino) == []
        await volume.remove_xattr(file.ino, acl.ACCESS)
        await volume.remove_xattr(file.ino, acl.ACCESS)
        with pytest.raises(NoAttribute):
            volume.get_xattr(file.ino, acl.ACCESS)


async def test_a_size_that_stays_changes_no_time(tmp_path: Path, autojump_clock: object) -> None:
    wall = WallClock()
    async with opened_volume(MemoryStorage(), tmp_path / "home", wall=wall) as session:
        ino = await put(session.volume, b"file", b"content", durable=True)
        wall.now += 1
        assert (await session.volume.set_attributes(ino, size=7)).ctime == START
        shorter = await session.volume.set_attributes(ino, size=6)
        assert shorter.mtime == shorter.ctime == START + 1
        wall.now += 1
        assert (await session.volume.set_attributes(ino)).ctime == START + 2, "a change of nothing is a change"


def refs_are_right(volume: Volume) -> bool:
    wrong = "SELECT block FROM blocks WHERE refs != (SELECT count(*) FROM extents WHERE extents.block = blocks.block)"
    return volume.database.rows(wrong) == []


@pytest.mark.parametrize("change", ["link", "unlink", "rename", "replace", "set_xattr", "remove_xattr"])
async def test_a_change_overtakes_the_time_of_a_write_before_it(
    change: str, tmp_path: Path, autojump_clock: object
) -> None:
    """The ctime of a write waits for its flush; that of a later change is in the tables at once, and stays."""
    wall = WallClock()
    async with opened_volume(MemoryStorage(), tmp_path / "home", wall=wall) as session:
        volume = session.volume
        ino = await put(volume, b"file", b"content", durable=True)
        await volume.link(ino, ROOT, b"twin")
        await volume.set_xattr(ino, b"user.before", b"")
        await put(volume, b"other", b"", durable=True)
        volume.open(ino)
        await volume.write(ino, 0, b"dirty")
        await volume.set_attributes(ino, mtime=START, ctime=START)
        wall.now += 1
        match change:
            case "link":
                assert (await volume.link(ino, ROOT, b"new")).ctime == START + 1
            case "unlink":
                await volume.unlink(ROOT, b"twin")
            case "rename":
                await volume.rename(ROOT, b"file", ROOT, b"new", 0)
            case "replace":
                await volume.rename(ROOT, b"other", ROOT, b"twin", 0)
            case "set_xattr":
                await volume.set_xattr(ino, b"user.a", b"")
            case "remove_xattr":
                await volume.remove_xattr(ino, b"user.before")
        assert volume.attributes(ino).ctime == START + 1
        await volume.fsync(ino)
        assert volume.attributes(ino).ctime == START + 1 and volume.attributes(ino).mtime == START
        volume.close(ino)


async def test_clones_share_blocks(tmp_path: Path, autojump_clock: object) -> None:
    storage = MemoryStorage()
    data = seeded(b"content")(100_000)
    async with opened_volume(storage, tmp_path / "home") as session:
        volume = session.volume
        source = await put(volume, b"source", data)
        target = await put(volume, b"target", b"old" * 50_000)
        await volume.clone(source, target, 100_000)
        assert await content(volume, target) == data + (b"old" * 50_000)[100_000:]
        blocks = volume.database.value("SELECT count(*) FROM blocks")
        other = (await volume.create(ROOT, b"other", FILE, 1, 1)).ino
        await volume.set_attributes(other, size=70_001)
        await volume.clone(source, other, 70_001)
        assert volume.database.value("SELECT count(*) FROM blocks") == blocks and refs_are_right(volume)
        assert volume.attributes(other).allocated == 70_001
        await put(volume, b"source", b"changed", offset=500, durable=True)
        await put(volume, b"other", b"longer", offset=70_001, durable=True)
        await volume.unlink(ROOT, b"target")
        assert refs_are_right(volume)
        await drained(session)
    async with opened_volume(storage, tmp_path / "another") as session:
        assert await content(session.volume, other) == data[:70_001] + b"longer"
        assert await content(session.volume, source) == data[:500] + b"changed" + data[507:]


async def test_what_cannot_be_cloned(tmp_path: Path, autojump_clock: object) -> None:
    async with opened_volume(MemoryStorage(), tmp_path / "home") as session:
        volume = session.volume
        source = await put(volume, b"source", b"content")
        target = await put(volume, b"target", b"content")
        for one, other, length in ((source, source, 7), (source, target, 8), (ROOT, target, 0), (source, ROOT, 0)):
            with pytest.raises(InvalidOperation):
                await volume.clone(one, other, length)


def test_the_kernels_time_never_goes_back(tmp_path: Path) -> None:
    """Neither for us nor between us and the files that the kernel stamps."""
    now, times = KernelTime(), []
    for number in range(200):
        times.append(now())
        path = tmp_path / str(number)
        path.touch()
        times.append(path.stat().st_ctime_ns)
    assert times == sorted(times)
