"""What the kernel says is mounted where: /proc/self/mountinfo (proc(5)).

Above: `mountpoint`, `kernel`, `cli/doctor.py`. Below: text.
Invariant: no folder is looked into, so a mount that hangs or is dead is found as any other.
"""

import re
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")


class Mount(NamedTuple):
    """`device` is "major:minor", `type` as in `fuse.infinitfs`."""

    directory: str
    device: str
    type: str
    source: str


def mounts(path: Path = MOUNTINFO) -> list[Mount]:
    """All that this process can reach, in the order in which they were mounted."""
    found = []
    for line in path.read_text(errors="surrogateescape").splitlines():
        place, _, filesystem = line.partition(" - ")
        _, _, device, _, directory, *_ = place.split(" ")
        kind, source, *_ = filesystem.split(" ")
        found.append(Mount(_unescaped(directory), device, kind, _unescaped(source)))
    return found


def on_top(directory: str, path: Path = MOUNTINFO) -> Mount | None:
    """What is to be seen at `directory`, of several mounts the last one; None where nothing is mounted."""
    return next((mount for mount in reversed(mounts(path)) if mount.directory == directory), None)


def _unescaped(text: str) -> str:
    """Blanks and backslashes are octal there."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
