"""A storage that lost or changed bytes: refused by name, never wrong bytes, and everything else goes on."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounted import STORAGE, VOLUME, Home, Mounted, needs_fuse

pytestmark = needs_fuse

SIZE = 3 << 20


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def packs(store: Path) -> set[Path]:
    return set(store.glob("*/packs/*/*"))


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def damage_in(path: Path, content: bytes) -> int:
    """In how many places a file cannot be read; where it can it must be as in `content`."""
    bad = offset = 0
    with path.open("rb", buffering=0) as file:
        while offset < len(content):
            try:
                data = os.pread(file.fileno(), 65536, offset)  # less, where an error is behind it
                assert data and data == content[offset : offset + len(data)], f"{path.name} at {offset}"
                offset += len(data)
            except OSError as error:
                assert error.errno == errno.EIO, path.name
                bad += 1
                offset += 512 * 1024
    return bad


def remount_without_cache(home: Home, mounted: Mounted) -> Mounted:
    mounted.unmount()
    shutil.rmtree(home.root / "cache")
    return home.mount(mounted.directory)


@pytest.fixture
def second(home: Home, new_home: Callable[[str], Home], tmp_path: Path, store: Path) -> Home:
    """Another machine with the same user and storage, and no volume yet."""
    made = new_home("second")
    for kind in ("users", "storages"):
        shutil.copytree(home.root / "config" / kind, made.root / "config" / kind)
    return made


def test_damaged_packs_give_errors_and_the_rest_works(home: Home, drive: Path, store: Path) -> None:
    mounted = home.mount(drive, "--fsync", "remote")
    contents: dict[str, bytes] = {}
    stored_in: dict[str, Path] = {}
    for name in ("flipped", "truncated", "swapped", "exchanged", "lost", "untouched"):
        before = packs(store)
        contents[name] = os.urandom(SIZE)
        write_synced(drive / name, contents[name])
        (stored_in[name],) = packs(store) - before
    mounted = remount_without_cache(home, mounted)

    flip(stored_in["flipped"], SIZE // 2)
    os.truncate(stored_in["truncated"], SIZE // 2)
    kept = stored_in["swapped"].read_bytes()
    stored_in["swapped"].write_bytes(stored_in["exchanged"].read_bytes())
    stored_in["exchanged"].write_bytes(kept)
    stored_in["lost"].unlink()

    assert (drive / "untouched").read_bytes() == contents["untouched"]
    for name in ("flipped", "truncated", "swapped", "exchanged", "lost"):
        key = stored_in[name].relative_to(store)
        home.expect(str(key))
        assert damage_in(drive / name, contents[name]), f"{name} was not noticed"
        assert str(key) in home.log, f"the log does not name the object of {name}"
    (drive / "new").write_bytes(b"still writable")
    (drive / "flipped").write_bytes(b"whole again")
    assert (drive / "untouched").read_bytes() == contents["untouched"]
    mounted = remount_without_cache(home, mounted)
    assert (drive / "new").read_bytes() == b"still writable"
    assert (drive / "flipped").read_bytes() == b"whole again"
    mounted.unmount()


def test_a_damaged_cache_is_fetched_anew(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)
    data = os.urandom(SIZE)
    (drive / "file").write_bytes(data)
    mounted.unmount()
    cached = [path for path in (home.root / "cache").rglob("*") if path.is_file()]
    for path in cached:
        flip(path, path.stat().st_size // 2)
    assert cached
    mounted = home.mount(drive)
    assert (drive / "file").read_bytes() == data
    mounted.unmount()


def test_a_damaged_descriptor_is_refused_by_name(home: Home, drive: Path, store: Path, second: Home) -> None:
    mounted = home.mount(drive)
    (descriptor,) = store.glob("*/descriptor/*")
    flip(descriptor, descriptor.stat().st_size // 2)
    assert str(descriptor.relative_to(store)) in second.refused(15, "volume", "fetch", "--storage", STORAGE)
    assert second.run("volume", "list") == ""
    (drive / "file").write_text("a mount that runs goes on")
    mounted.unmount()
    home.mount(drive).unmount()


def test_a_damaged_record_is_refused_by_name(home: Home, drive: Path, store: Path, second: Home) -> None:
    mounted = home.mount(drive, "--fsync", "remote")
    for number in range(3):
        write_synced(drive / f"file-{number}", b"content")
    records = sorted(store.glob("*/journal/*"))
    kept = records[2].read_bytes()
    flip(records[2], len(kept) // 2)
    (drive / "another").write_text("a mount that runs goes on")
    mounted.unmount()
    second.run("volume", "fetch", "--storage", STORAGE)
    second.expect(records[2].name)
    for _ in range(2):
        assert str(records[2].relative_to(store)) in second.refused(15, "mount", VOLUME, str(drive))
    assert not drive.is_mount()
    records[2].write_bytes(kept)
    mounted = second.mount(drive)
    assert (drive / "another").read_text() == "a mount that runs goes on"
    mounted.unmount()


def test_a_damaged_checkpoint_gives_way_to_an_older_one(
    home: Home, drive: Path, store: Path, second: Home, new_home: Callable[[str], Home], tmp_path: Path
) -> None:
    """Attributes that do not compress are what fills a journal fast."""
    mounted = home.mount(drive, "--fsync", "remote")
    attributes: dict[str, bytes] = {}

    def checkpoints() -> list[Path]:
        return sorted(store.glob("*/checkpoints/*"))

    for due in (1, 2):
        while len(checkpoints()) < due:
            assert len(attributes) < 400, "no checkpoint was made"
            for _ in range(40):
                path = drive / f"file-{len(attributes)}"
                path.touch()
                attributes[path.name] = os.urandom(60_000)
                os.setxattr(path, "user.noise", attributes[path.name])
            write_synced(path, b"content")
    mounted.unmount()
    older, newest = checkpoints()
    flip(newest, newest.stat().st_size // 2)
    third = new_home("third")
    shutil.copytree(second.root, third.root)
    for machine in (second, third):
        machine.run("volume", "fetch", "--storage", STORAGE)
        machine.expect("checkpoints/")

    mounted = second.mount(drive)
    assert str(newest.relative_to(store)) in second.log
    assert sorted(path.name for path in drive.iterdir()) == sorted(attributes)
    for name, value in attributes.items():
        assert os.getxattr(drive / name, "user.noise") == value
    flip(older, older.stat().st_size // 2)
    (drive / "another").write_text("a mount that runs goes on")
    mounted.unmount()
    assert str(newest.relative_to(store)) in third.refused(15, "mount", VOLUME, str(drive))
    second.mount(drive).unmount()
