"""Files that are on the disk when a call returns.

Above: whoever keeps something that must survive a power cut: records, state, staged packs, stored objects. Below: the
operating system. Blocking calls, for threads.
Invariant: a name leads to the whole of a file or to none: content is synced before its name, a name with its folder.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """The names in `folder` as they are now survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_aside(folder: Path, data: bytes) -> Path:
    """A new synced file of `data`, 0600, under a temporary name in `folder` that starts with a dot; the caller gives
    it its own and syncs the folder. Raises OSError, with nothing left behind."""
    temporary = folder / f".{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def write_whole(path: Path, data: bytes) -> None:
    """The file `path` holds `data`, durably, instead of what it held. Raises OSError."""
    write_aside(path.parent, data).replace(path)
    sync_folder(path.parent)
