"""The plug is pulled, on a real ext4: what was acknowledged is there after the next mount.

State, cache and storage lie on a disk of their own, a file behind a loop device. ext4's own shutdown (the ioctl that
xfstests crash a filesystem with) drops whatever was not synced and answers every call with EIO from then on: first a
disk that fails under the mount, then, mounted again, what a power cut leaves. `POWER_ROUNDS` sets how often (3).
"""

import errno
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infinitfs.errors import LocalDiskFailed
from tests.support.crash_writer import check
from tests.support.mounted import STORAGE, Home, needs_fuse, wait_until

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32): linux/ext4.h
_NO_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_ROOT = Path(__file__).resolve().parents[2]
_ROUNDS = int(os.environ.get("POWER_ROUNDS", "3"))
_NOISE = r"Input/output error|disk I/O error|read-only|Read-only|Traceback|Error"


class Disk:
    """An ext4 of 4 GiB at `folder`; the file behind it has only what was written."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self.folder = image, folder
        image.touch()
        os.truncate(image, 4 << 30)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        folder.mkdir()
        self.attach()

    def attach(self) -> None:
        done = subprocess.run(["mount", "-o", "loop", str(self._image), str(self.folder)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no disk can be made here: {done.stderr.decode().strip()}")

    def fail(self) -> None:
        """From now on nothing is written and every call fails; what was not synced is lost."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _NO_LOG_FLUSH.to_bytes(4, sys.byteorder))
        finally:
            os.close(descriptor)

    def detach(self) -> None:
        """Returns when the kernel has let go of it: a namespace that another test made may have it for a while, and
        what is still in its memory must not be written over what comes next."""

        def is_gone() -> bool:
            subprocess.run(["umount", str(self.folder)], capture_output=True)
            listed = subprocess.run(["losetup", "-j", str(self._image)], capture_output=True, check=True)
            return not listed.stdout and not self.folder.is_mount()

        wait_until(is_gone, "letting go of the disk")


@contextmanager
def attached(image: Path, folder: Path) -> Iterator[Disk]:
    disk = Disk(image, folder)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


pytestmark = [
    *needs_fuse,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mkfs.ext4") is None, reason="only root makes a disk"),
]


def test_whatever_was_acknowledged_survives_a_failing_disk_and_a_power_cut(
    template: Path, drive: Path, tmp_path: Path, new_home: Callable[[str], Home]
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    chance, acknowledged, cuts = random.Random(_ROUNDS), 0, list[float]()
    with attached(tmp_path / "image", tmp_path / "disk") as disk:
        home = new_home("disk/machine")
        home.expect(_NOISE)
        shutil.copytree(template / "home" / "config", home.root / "config")
        shutil.copytree(template / "store", disk.folder / "store")
        record = home.root / "config" / "storages" / f"{STORAGE}.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"path": str(disk.folder / "store")}))
        os.sync()
        for turn in range(_ROUNDS):
            mounted = home.mount(drive)
            for earlier in range(turn):
                outcome = check(drive / f"round{earlier}", notes / str(earlier), earlier, cuts[earlier])
                assert not outcome.problems, f"after cut {turn}, round {earlier}: {outcome.problems}"
            folder = drive / f"round{turn}"
            folder.mkdir()
            command = [sys.executable, "-m", "tests.support.crash_writer", str(folder), str(notes / str(turn))]
            writer = subprocess.Popen([*command, str(turn)], cwd=_ROOT, stderr=subprocess.DEVNULL)
            wait_until((notes / str(turn)).exists, "the first note")
            time.sleep(chance.uniform(0.2, 2.5))
            # In a real power cut nobody is told anything afterwards; a disk that is failing may say yes once more.
            cuts.append(time.monotonic())
            disk.fail()
            with pytest.raises(OSError, match="Input/output error"):
                (disk.folder / "probe").write_bytes(b"the disk takes nothing any more")
            writer.wait(60)
            assert not mounted.over, "a failing disk does not end the mount"
            with pytest.raises(OSError) as refused:
                (drive / "more").write_bytes(b"more")
                descriptor = os.open(drive, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            assert refused.value.errno in (errno.EIO, errno.EROFS)
            mounted.kill()
            mounted.clear()
            disk.detach()
            disk.attach()
        mounted = home.mount(drive)
        for turn in range(_ROUNDS):
            outcome = check(drive / f"round{turn}", notes / str(turn), turn, cuts[turn])
            assert not outcome.problems, f"round {turn}: {outcome.problems}"
            acknowledged += outcome.acknowledged
        mounted.unmount()
        home.close()
    print(f"{_ROUNDS} power cuts, {acknowledged} acknowledged operations")
    assert acknowledged > _ROUNDS


def test_a_mount_whose_disk_has_failed_says_so_until_its_end(home: Home, drive: Path, tmp_path: Path) -> None:
    """What it keeps on this machine is on that disk, its storage and what commands find it by are not."""
    with attached(tmp_path / "image", home.root / "state") as disk:
        mounted = home.mount(drive)
        (drive / "before").write_bytes(b"stored")
        mounted.stored()
        disk.fail()
        (drive / "after").write_bytes(b"in the kernel's memory")
        wait_until(lambda: mounted.status()["state"] == "read-only", "what the disk answered")
        assert "failed" in mounted.status()["trouble"]
        sentence = home.refused(LocalDiskFailed.exit_code, "unmount", str(drive))
        assert "failed" in sentence, "and not that the mount was silent"
        mounted.wait()
