"""How much more may be written: the storage's capacity, the backlog's limit, the local disk.

Above: `writeback` asks before bytes are taken, `volume.Volume` before a name is made. Below: `blocks` and
`block.staging`, whose totals it compares; `transfer.cache`, which gives way where the disk is low.
Invariant: what was taken always finds room: a limit refuses new bytes, it never stops a flush of old ones. So the
disk is full for programs while it still has RESERVE bytes for the endings of staged packs and for the database, and
the storage while it still has room for the most that the taken bytes can become when they are sealed, and for the most
that the journal and the checkpoints can take; so its capacity is never exceeded, not even for a moment.
"""

import os
from collections.abc import Callable
from pathlib import Path

from infinitfs.block.staging import Staging
from infinitfs.errors import NoSpace
from infinitfs.transfer.cache import PackCache
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.checkpoint import most_stored
from infinitfs.volume.database import Database

RESERVE = 16 * 2**20
_SHARE = 20  # of a disk one part in so many is left free by the cache ...
_LEFT_FREE = (4 * RESERVE, 2**30)  # ... within these bounds: enough for writers to find the cache shrunk in time
_PLENTY = 64 * 2**20  # bytes of disk beside what is to come to it, with which ...
_LOOKS = 16  # writes, of at most 1 MiB each, need no other look
_FRAME = 40 + 4 + 16 + 44  # bytes around a block: the frame's, and its entry in the pack's index
_PADDING = 8  # a frame's padding is at most an eighth of it (Padmé: 12% for the smallest)
_PAGE = 4096  # the least that the kernel writes inside of a file
_ENDING = 256  # bytes around a pack's index


def most_sealed(plain: int, files: int) -> int:
    """The most bytes that `plain` bytes of so many files become in packs."""
    size = plain + _FRAME * (plain // _PAGE + files)
    return size + size // _PADDING


def spare(disk: os.statvfs_result) -> int:
    """Bytes by which a cache may still grow on a disk; below 0 those by which it has to shrink."""
    least, most = _LEFT_FREE
    return _free(disk) - max(least, min(disk.f_blocks * disk.f_frsize // _SHARE, most))


def _free(disk: os.statvfs_result) -> int:
    return disk.f_bavail * disk.f_frsize


class Room:
    """`folder` is that of the local state, `disk` tells how full its disk is; `capacity` of the storage in bytes, 0 for
    none; `backlog`: the most that may wait for it on this machine."""

    def __init__(
        self,
        *,
        folder: Path,
        blocks: Blocks,
        staging: Staging,
        database: Database,
        cache: PackCache,
        capacity: int,
        backlog: int,
        disk: Callable[[Path], os.statvfs_result],
    ) -> None:
        self._folder = folder
        self._blocks = blocks
        self._staging = staging
        self._database = database
        self._cache = cache
        self._capacity = capacity
        self._backlog = backlog
        self._disk = disk
        self._looks = 0

    @property
    def stored(self) -> int:
        """Bytes of packs, those on their way included."""
        frames = self._staging.open_frames
        ending = most_sealed(0, frames) + _ENDING if frames else 0
        return self._blocks.stored + self._staging.open_size + ending

    def left(self) -> int:
        """Sealed bytes that the storage's capacity, if it has one, still has room for."""
        metadata = most_stored(self._database.size) + self._database.outbox_bytes
        return max(0, self._capacity - self.stored - metadata)

    def check(self, more: int, files: int = 1) -> None:
        """Raise NoSpace where `more` bytes of so many files, those in memory included, have no place to go."""
        if self._capacity and most_sealed(more, files) + _ENDING > self.left():
            raise NoSpace(what="the storage", remedy="delete something, or raise the storage's capacity")
        if self._staging.waiting + self._database.outbox_bytes + more > self._backlog:
            raise NoSpace(
                what="this machine for what waits for the storage",
                remedy="wait until the storage has taken some of it, or mount with a larger --backlog",
            )
        if self._looks:
            self._looks -= 1
        else:
            self._check_disk(more)

    def look_again(self) -> None:
        """The next one is to look at the disk."""
        self._looks = 0

    def _check_disk(self, more: int) -> None:
        disk = self._disk(self._folder)
        if spare(disk) < more:
            self._cache.look_at_disk()
        if _free(disk) < more + RESERVE:
            raise NoSpace(what=f"the local disk ({self._folder})", remedy="free some")
        if _free(disk) >= more + RESERVE + _PLENTY:
            self._looks = _LOOKS - 1
