"""What changes cost in the storage: stored bytes and objects, before and after.

With MOUNT_TESTS=long the sizes are those of the promises; else smaller ones, with bounds in proportion.
"""

import filecmp
import os
import random
import shutil
from pathlib import Path

from tests.support.mounted import Home, needs_fuse
from tests.support.trees import copy_tree, make_tree

pytestmark = needs_fuse

MIB = 1 << 20


def stored_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def objects(store: Path) -> int:
    return sum(path.is_file() for path in store.rglob("*"))


def write_random(path: Path, size: int, seed: int) -> None:
    source = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(source.randbytes(MIB))


def sync(path: Path, store: Path) -> int:
    """Send a file, of a mount with `--fsync remote`; the bytes stored."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return stored_bytes(store)


def test_a_second_copy_costs_next_to_nothing(home: Home, drive: Path, store: Path, tmp_path: Path, long: bool) -> None:
    tree = tmp_path / "tree"
    make_tree(tree, 2000 if long else 200)
    if long:
        copy_tree(Path("/usr/lib/python3.11"), tree)
    sizes = [stored_bytes(store)]
    for copy in ("first", "second"):
        mounted = home.mount(drive)
        copy_tree(tree, drive / copy)
        mounted.unmount()
        sizes.append(stored_bytes(store))
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    print(f"first copy {first:,} bytes, second copy {second:,} ({second / first:.2%})")
    assert second < first * 0.02


def test_an_insertion_at_the_front_costs_little(
    home: Home, drive: Path, store: Path, tmp_path: Path, long: bool
) -> None:
    """A new version written as an editor does it: beside the old one and renamed over it; or with `cp` over it."""
    size = 256 * MIB if long else 24 * MIB
    mounted = home.mount(drive, "--fsync", "remote")
    write_random(drive / "file", size, 1)
    before = sync(drive / "file", store)
    for seed, editor in enumerate(("rename", "overwrite"), 2):
        with (drive / "file").open("rb") as old, (tmp_path / "new").open("wb") as new:
            new.write(random.Random(seed).randbytes(1024))
            shutil.copyfileobj(old, new, MIB)
        if editor == "rename":
            shutil.copy(tmp_path / "new", drive / ".file.new")
            (drive / ".file.new").rename(drive / "file")
        else:
            shutil.copy(tmp_path / "new", drive / "file")
        after = sync(drive / "file", store)
        print(f"1 KiB in front of {size:,} bytes ({editor}): {after - before:,} bytes added")
        assert after - before < 8 * MIB
        assert filecmp.cmp(tmp_path / "new", drive / "file", shallow=False)
        before = after
    mounted.unmount()


def test_random_overwrites_cost_what_they_write(home: Home, drive: Path, store: Path, long: bool) -> None:
    size, count = (1024 * MIB, 1000) if long else (64 * MIB, 100)
    mounted = home.mount(drive, "--fsync", "remote")
    write_random(drive / "file", size, 1)
    before = sync(drive / "file", store)
    source = random.Random(3)
    written = {}
    with (drive / "file").open("r+b") as file:
        for _ in range(count):
            place = source.randrange(size // 4096) * 4096
            written[place] = source.randbytes(4096)
            file.seek(place)
            file.write(written[place])
    added = sync(drive / "file", store) - before
    print(f"{count} x 4 KiB in a file of {size:,} bytes: {added:,} bytes added")
    assert added < 32 * MIB * count // 1000
    mounted.unmount()
    mounted = home.mount(drive)
    with (drive / "file").open("rb") as file:
        for place, data in written.items():
            assert os.pread(file.fileno(), 4096, place) == data
    mounted.unmount()


def test_small_files_share_objects(home: Home, drive: Path, store: Path, long: bool) -> None:
    count = 10_000 if long else 1000
    before = objects(store)
    data = random.Random(4).randbytes(4096 * count)
    mounted = home.mount(drive)
    for number in range(count):
        (drive / f"small-{number:05d}").write_bytes(data[4096 * number : 4096 * (number + 1)])
    mounted.unmount()
    added = objects(store) - before
    print(f"{count} files of 4 KiB: {added} objects added")
    assert added < (100 if long else 20), "a record and a pack every few seconds, not one a file"
