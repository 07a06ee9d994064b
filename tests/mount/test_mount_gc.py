"""Space comes back: packs that nothing refers to any more leave the storage, mounted or not."""

import json
import os
import random
from pathlib import Path

from tests.support.mounted import VOLUME, Home, needs_fuse

pytestmark = needs_fuse

SIZE = 12 << 20


def packs(store: Path) -> int:
    return sum(path.stat().st_size for path in store.glob("*/packs/*/*"))


def collect(home: Home) -> tuple[int, int]:
    report = json.loads(home.run("gc", VOLUME, "--json"))
    return report["packs"], report["bytes"]


def test_gc_mounted_and_not_mounted(home: Home, drive: Path, store: Path) -> None:
    source = random.Random(1)
    mounted = home.mount(drive, "--fsync", "remote")
    contents = {name: source.randbytes(SIZE) for name in ("first", "second", "kept")}
    for name, data in contents.items():
        with (drive / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    full = packs(store)
    assert full > 3 * SIZE
    assert collect(home) == (0, 0)

    (drive / "first").unlink()
    count, freed = collect(home)
    assert count >= 1 and freed > SIZE
    assert packs(store) == full - freed
    assert (drive / "kept").read_bytes() == contents["kept"]
    (drive / "second").unlink()
    (drive / "again").write_bytes(contents["second"][: SIZE // 2])
    mounted.unmount()

    count, freed_later = collect(home)
    assert count >= 1 and freed_later > 1 << 20
    assert collect(home) == (0, 0)
    assert packs(store) <= full - freed + SIZE // 2 + 1_000_000 and packs(store) > SIZE
    mounted = home.mount(drive, "--cache-dir", str(home.folder / "empty"))
    assert (drive / "kept").read_bytes() == contents["kept"]
    assert (drive / "again").read_bytes() == contents["second"][: SIZE // 2]
    (drive / "first").write_bytes(contents["first"])  # what was freed is stored again, not referred to
    mounted.unmount()
    mounted = home.mount(drive, "--cache-dir", str(home.folder / "another"))
    assert (drive / "first").read_bytes() == contents["first"]
    mounted.unmount()


def test_gc_beside_a_mount_elsewhere_is_refused(home: Home, drive: Path, store: Path) -> None:
    """A volume that another state folder owns is not collected."""
    mounted = home.mount(drive)
    state, away = home.root / "state", home.root / "run"
    state.rename(home.root / "state-of-the-mount")
    away.rename(home.root / "run-of-the-mount")
    assert "unmount it there" in home.refused(11, "gc", VOLUME)
    for path in list(state.glob("*/mount.log")):
        path.unlink()
    for folder in (state, away):
        if folder.exists():
            folder.rename(folder.with_name(folder.name + "-of-gc"))
    (home.root / "state-of-the-mount").rename(state)
    (home.root / "run-of-the-mount").rename(away)
    mounted.unmount()
