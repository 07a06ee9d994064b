"""What the kernel is asked to allow a mount beyond its defaults, where the user may ask.

Above: `serving`, once the folder answers. Below: /sys (Linux, Documentation/ABI/testing/sysfs-class-bdi and
Documentation/filesystems/fuse.rst).
Invariant: nothing depends on it. Only root may change these settings; without them a mount is slower, not different.
"""

from contextlib import suppress
from pathlib import Path

from infinitfs.mount.mountinfo import MOUNTINFO, on_top

READ_AHEAD = 2048  # KiB; the default of 128 makes a request of every 128 KiB, and a request costs what 100 KiB do
_DIRTY_SHARE = 20  # percent of the machine's dirty pages that may be ours, instead of 1
DIRTY = 64 * 2**20
"""Bytes, instead of that share, since Linux 6.2: so many from the beginning, and no more. Else the kernel holds a first
writer up until it has seen how fast we are: large files came to 613 instead of 570 MB/s. It begins to send them once
half of it is dirty: with twice as much it began later, and they took 3% longer."""
_BACKGROUND = 64  # requests for read-ahead and write-back at a time, instead of 12


def allow_more(directory: str, *, sys: Path = Path("/sys"), mountinfo: Path = MOUNTINFO) -> None:
    """Larger read-ahead, more requests at a time, more dirty pages for the mount at `directory`."""
    mount = on_top(directory, mountinfo)
    if mount is None:
        return
    device_folder = sys / "class" / "bdi" / mount.device
    connection = sys / "fs" / "fuse" / "connections" / mount.device.partition(":")[2]
    for path, value in (
        (device_folder / "read_ahead_kb", READ_AHEAD),
        (device_folder / "max_ratio", _DIRTY_SHARE),
        (device_folder / "max_bytes", DIRTY),
        (device_folder / "min_bytes", DIRTY),
        (connection / "max_background", _BACKGROUND),
        (connection / "congestion_threshold", _BACKGROUND * 3 // 4),
    ):
        with suppress(OSError):
            path.write_text(str(value))
