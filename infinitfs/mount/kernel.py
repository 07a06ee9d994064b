"""What the kernel is asked to allow a mount beyond its defaults, where the user may ask.

Above: `daemon`, once the folder answers. Below: /sys (Linux, Documentation/ABI/testing/sysfs-class-bdi and
Documentation/filesystems/fuse.rst).
Invariant: nothing depends on it. Only root may change these settings; without them a mount is slower, not different.
"""

import re
from contextlib import suppress
from pathlib import Path

READ_AHEAD = 2048  # KiB; the default of 128 makes a request of every 128 KiB, and a request costs what 100 KiB do
_DIRTY_SHARE = 20  # percent of the machine's dirty pages that may be ours, instead of 1
_BACKGROUND = 64  # requests for read-ahead and write-back at a time, instead of 12


def device_of(directory: str, mountinfo: str) -> str | None:
    """The device "major:minor" of what is mounted at `directory`, of the text of /proc/self/mountinfo (proc(5)); by
    reading it, since a stat would ask the mount itself."""
    found = None
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if unescaped(fields[4]) == directory:
            found = fields[2]  # the last one is on top
    return found


def unescaped(path: str) -> str:
    """A path as mountinfo writes it: blanks and backslashes are octal there."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)


def allow_more(directory: str, *, sys: Path = Path("/sys"), mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
    """Larger read-ahead, more requests at a time, more dirty pages for the mount at `directory`."""
    device = device_of(directory, mountinfo.read_text(errors="surrogateescape"))
    if device is None:
        return
    device_folder = sys / "class" / "bdi" / device
    connection = sys / "fs" / "fuse" / "connections" / device.partition(":")[2]
    for path, value in (
        (device_folder / "read_ahead_kb", READ_AHEAD),
        (device_folder / "max_ratio", _DIRTY_SHARE),
        (connection / "max_background", _BACKGROUND),
        (connection / "congestion_threshold", _BACKGROUND * 3 // 4),
    ):
        with suppress(OSError):
            path.write_text(str(value))
