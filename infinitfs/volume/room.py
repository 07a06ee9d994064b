"""How much more may be written: the storage's capacity, the backlog's limit, the local disk.

Above: `writeback` asks before bytes are taken, `volume.Volume` before a name is made. Below: `blocks` and
`block.staging`, whose totals it compares.
Invariant: what was taken always finds room: a limit refuses new bytes, it never stops a flush of old ones. So the
disk is full for programs while it still has RESERVE bytes for the endings of staged packs and for the database.
"""

import os
from pathlib import Path

from infinitfs.block.staging import Staging
from infinitfs.errors import NoSpace
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.database import Database

RESERVE = 16 * 2**20


class Room:
    """`folder` is that of the local state; `capacity` of the storage in bytes, 0 for none; `backlog`: the most that may
    wait for it on this machine."""

    def __init__(
        self, *, folder: Path, blocks: Blocks, staging: Staging, database: Database, capacity: int, backlog: int
    ) -> None:
        self._folder = folder
        self._blocks = blocks
        self._staging = staging
        self._database = database
        self._capacity = capacity
        self._backlog = backlog

    def check(self, more: int) -> None:
        """Raise NoSpace where `more` bytes, those in memory included, have no place to go."""
        if self._capacity and self._blocks.stored + self._staging.open_size + more > self._capacity:
            raise NoSpace(what="the storage", remedy="delete something, or raise the storage's capacity")
        if self._staging.waiting + self._database.outbox_bytes + more > self._backlog:
            raise NoSpace(
                what="this machine for what waits for the storage",
                remedy="wait until the storage has taken some of it, or mount with a larger --backlog",
            )
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < more + RESERVE:
            raise NoSpace(what=f"the local disk ({self._folder})", remedy="free some, or mount with a smaller cache")
