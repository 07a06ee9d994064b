"""The folders of one volume on this machine, and the lock on them.

Above: `compose` and `admin`. Below: `config/`.
Invariant: who holds the lock is the only one to use the state folder, the transfer process that inherited it included.
"""

import fcntl
import os
import re
from pathlib import Path

from infinitfs.config.disk import failing, sync_folder, write_whole
from infinitfs.config.paths import Paths, make_private
from infinitfs.errors import DamagedRecord, StateLocked
from infinitfs.keys import RandomBytes

_STATE = re.compile(rb"[0-9a-f]{32}")


class Folders:
    """The folders of one volume on this machine."""

    def __init__(self, paths: Paths, volume_id: str, cache: str) -> None:
        self.state = paths.volume_state(volume_id)
        self.staging = make_private(self.state / "staging")
        self.intents = make_private(self.state / "intents")
        self.checkpoint = make_private(self.state / "checkpoint")
        self.database = self.state / "volume.db"
        self.lock = self.state / "lock"
        self.state_id = self.state / "state-id"
        self.cache = make_private(Path(cache) / volume_id) if cache else paths.volume_cache(volume_id)
        for folder in (self.state, self.state.parent, self.state.parent.parent):
            with failing(folder, "synced"):
                sync_folder(folder)  # who made it may have been killed before it did


def take_lock(folders: Folders, name: str) -> int:
    """The state folder's lock, as a descriptor that holds it until its last copy is closed.

    Raises StateLocked, LocalFileFailed.
    """
    with failing(folders.lock, "locked"):
        descriptor = os.open(folders.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise StateLocked(volume=name, pid=holder) from None
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def own_state(folders: Folders, random: RandomBytes) -> str:
    """This state folder's name among owners: random, made once, durable before a claim bears it.

    Raises LocalFileFailed, DamagedRecord.
    """
    with failing(folders.state_id, "made or read"):
        if not folders.state_id.exists():
            write_whole(folders.state_id, random(16).hex().encode())
        state = folders.state_id.read_bytes()
    if not _STATE.fullmatch(state):
        raise DamagedRecord(path=str(folders.state_id), reason="it is not 32 hex digits")
    return state.decode()
