"""A local disk that is full: programs get ENOSPC, nothing is damaged, and all goes on when there is room again."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounted import VOLUME, Home, needs_fuse

pytestmark = [*needs_fuse, pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a small disk")]


@pytest.fixture
def small_home(home: Home, tmp_path: Path, new_home: Callable[[str], Home]) -> Iterator[Home]:
    """The records of `home`, on a disk of 96 MiB; its storage lies elsewhere."""
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(disk)], check=True)
    try:
        small = new_home("small")
        subprocess.run(["cp", "-a", f"{home.root}/.", str(small.root)], check=True)
        yield small
        small.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_enospc_and_passes(small_home: Home, drive: Path) -> None:
    mounted = small_home.mount(drive, "--cache-size", "1MiB")
    before = os.urandom(3_000_000)
    (drive / "before").write_bytes(before)
    mounted.stored()
    filler = small_home.folder / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    with pytest.raises(OSError, match="No space left"):
        (drive / "new").write_bytes(os.urandom(100_000))
    with pytest.raises(OSError, match="No space left"):
        (drive / "folder").mkdir()
    assert (drive / "before").read_bytes() == before
    (drive / "before").rename(drive / "renamed")
    filler.unlink()
    (drive / "new").write_bytes(b"there is room again")
    mounted.unmount()
    mounted = small_home.mount(drive)
    assert (drive / "new").read_bytes() == b"there is room again"
    assert (drive / "renamed").read_bytes() == before
    assert VOLUME in Path("/proc/self/mounts").read_text()
    mounted.unmount()


def test_the_cache_leaves_a_small_disk_to_others(small_home: Home, drive: Path) -> None:
    """More is written than the disk holds, with a cache that may hold more than the disk as well."""
    mounted = small_home.mount(drive, "--fsync", "remote")
    written = {f"file-{number}": os.urandom(8 << 20) for number in range(11)}
    for name, data in written.items():
        with (drive / name).open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())
    status = mounted.status()
    assert status["cache_bytes"] <= status["cache_limit"] < 48 << 20
    for name, data in written.items():
        assert (drive / name).read_bytes() == data
    disk = os.statvfs(small_home.folder)
    assert disk.f_bavail * disk.f_frsize > 32 << 20
    mounted.unmount()
