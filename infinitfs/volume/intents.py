"""Intents: small changes that an fsync made durable as they are, before they are cut into blocks.

Above: `writeback`, which appends one for an fsync and says what a flush contains; `volume.Volume`, which replays them
after a crash. Below: `database` (which intents count), `block.growing` (their bytes), `keys.ring`.

To make a few bytes durable as blocks takes a cut, an id, a frame, a row of three tables and a changeset for each piece
of them, and what the next fsync changes again is sent to the storage for nothing. An intent is one sealed frame of the
pieces that a file got since the last one, at the end of a file of its own, and one row. The bytes stay dirty: the flush
that was due anyway makes blocks of what they are by then. (The model is the intent log of ZFS.)

Invariants.
- A row names only a frame that is durable; a file goes only once it is durable that no row names it.
- A record of the journal is cut only when there are no rows: the storage never has a change without the content that
  was fsynced before it.
- The rows of an inode, applied in their order to what its extents say, give the bytes and times that its last fsync
  saw, or newer ones: a flush takes its rows away in the step of the database that commits what they say, a truncation
  limits them in its own, and so does nothing else: an inode with rows is dirty.
- What breaks if you await between `begin` and the look at the dirty bytes: nothing, but they may be newer than asked.
  Between the commit of a flush and `contain`: a crash would bring older bytes back over newer ones.
"""

import os
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from infinitfs.block.growing import GrowingFiles
from infinitfs.errors import DamagedFrame, LocalDiskFailed
from infinitfs.file.dirty import Bytes
from infinitfs.keys.frame import FrameType
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.transfer.files import Offload, remove
from infinitfs.volume.database import Database

_FILE = 16 * 2**20  # bytes after which another file is begun
_WHOLE = 2**63 - 1

_CONTEXT = struct.Struct("<6sQQ")
_HEAD = struct.Struct("<qqI")  # mtime and ctime in nanoseconds, _UNKNOWN without one; how many pieces
_PIECE = struct.Struct("<QI")  # offset in the file, length
_UNKNOWN = -(2**63)


class Change(NamedTuple):
    """What an intent says of a file: pieces as (offset, bytes), the later over the earlier, and the times that the
    inode's row does not have yet."""

    ino: int
    pieces: Sequence[tuple[int, Bytes]]
    mtime: int | None
    ctime: int | None


@dataclass(slots=True, eq=False)
class Intent:
    """One that is on its way to the disk. `clip`: what it says of the file from there on does not count any more;
    `void`: all of what it says is in the tables."""

    number: int
    ino: int
    clip: int = _WHOLE
    void: bool = False
    written: bool = False
    failure: Exception | None = None
    change: Change = field(init=False)

    @property
    def counts(self) -> bool:
        """Whether it is durable, and its row in the open transaction or an earlier one."""
        return self.written and self.failure is None


class Intents:
    """Those of one volume, in `folder`."""

    def __init__(self, folder: Path, ring: KeyRing, database: Database, offload: Offload) -> None:
        self._files = GrowingFiles(folder)
        self._ring = ring
        self._database = database
        self._offload = offload
        self._lock = trio.Lock()
        self._waiting: list[Intent] = []
        self._coming: defaultdict[int, list[Intent]] = defaultdict(list)
        self._rows: Counter[int] = Counter()  # by inode
        self._frames: Counter[int] = Counter()  # by file: those that a row names, or will
        self._descriptor = -1
        self._file = 0
        self._size = 0
        self.last = 0
        """The number of the intent begun last."""

    def load(self) -> None:
        """Read what there is; blocking. Files that no row names are removed."""
        rows = self._database.rows("SELECT intent, ino, file FROM intents")
        self.last = max((row[0] for row in rows), default=0)
        self._rows = Counter(row[1] for row in rows)
        self._frames = Counter(row[2] for row in rows)
        with self._files.errors():
            paths = list(self._files.folder.iterdir())
        named = {str(file) for file in self._frames}
        remove(path for path in paths if path.name not in named)
        self._file = max([0, *self._frames, *(int(path.name) for path in paths if path.name.isdecimal())])

    def holds(self, ino: int) -> bool:
        """Whether what memory has of this inode is durable in part, and must be flushed as a whole."""
        return ino in self._rows or ino in self._coming

    def coming(self, ino: int) -> list[Intent]:
        """Those of this inode that are on their way to the disk."""
        return list(self._coming.get(ino, ()))

    # --- an fsync ---

    def begin(self, ino: int) -> Intent:
        """An intent that will say what is dirty of `ino` from now on. `end` is to follow."""
        self.last += 1
        intent = Intent(self.last, ino)
        self._coming[ino].append(intent)
        return intent

    async def append(self, intent: Intent, change: Change) -> None:
        """Make `change` durable; who waits together shares a sync. A row of it is in the open transaction on return,
        and so are those of all that were appended before. A cancelled caller waits for the disk.

        Raises NoSpace, LocalDiskFailed.
        """
        intent.change = change
        self._waiting.append(intent)
        with trio.CancelScope(shield=True):
            async with self._lock:
                if not intent.written:
                    batch, self._waiting = self._waiting, []
                    await self._write(batch)
        if intent.failure is not None:
            raise intent.failure

    def end(self, intent: Intent) -> None:
        """It is durable, or has failed."""
        coming = self._coming[intent.ino]
        coming.remove(intent)
        if not coming:
            del self._coming[intent.ino]

    async def _write(self, batch: list[Intent]) -> None:
        """Never raises: each of the batch has its `failure`."""
        for intent in batch:
            intent.written = True
        try:
            places = await self._offload(partial(self._extend, [intent.change for intent in batch]))
            self._database.begin()
            for intent, place in zip(batch, places, strict=True):
                self._enter(intent, place)
        except Exception as error:
            for intent in batch:
                intent.failure = error

    def _enter(self, intent: Intent, place: tuple[int, int, int]) -> None:
        self._frames[place[0]] += not intent.void
        if not intent.void:
            row = intent.number, intent.ino, *place, intent.clip
            self._database.change("INSERT INTO intents VALUES (?, ?, ?, ?, ?, ?)", row)
            self._rows[intent.ino] += 1

    def _extend(self, changes: Sequence[Change]) -> list[tuple[int, int, int]]:
        """Frames at the end of the newest file, and where they lie in it; in a thread."""
        if self._descriptor < 0 or self._size >= _FILE:
            self.close()
            self._descriptor = self._files.create(str(self._file + 1))
            self._file, self._size = self._file + 1, 0
        places, frames, end = [], [], self._size
        for change in changes:
            frame = self._ring.seal(
                Purpose.METADATA, FrameType.INTENT, _context(self._file, end), b"".join(_encoded(change))
            )
            places.append((self._file, end, len(frame)))
            frames.append(frame)
            end += len(frame)
        self._files.extend(self._descriptor, self._size, frames)
        self._size = end
        return places

    # --- what becomes of it ---

    def contain(self, ino: int, number: int) -> None:
        """The tables say what the intents of `ino` up to `number` say, or what came after it; a part of the step that
        makes it so."""
        for intent in self._coming.get(ino, ()):
            intent.void = intent.void or intent.number <= number
        if ino not in self._rows:
            return
        self._database.begin()
        gone = self._database.rows("DELETE FROM intents WHERE ino = ? AND intent <= ? RETURNING file", (ino, number))
        self._frames.subtract(file for (file,) in gone)
        self._rows[ino] -= len(gone)
        if not self._rows[ino]:
            del self._rows[ino]

    def clip(self, ino: int, size: int) -> None:
        """The file is `size` bytes now: what intents say of it beyond does not count any more."""
        for intent in self._coming.get(ino, ()):
            intent.clip = min(intent.clip, size)
        if ino in self._rows:
            self._database.begin()
            self._database.change("UPDATE intents SET clip = min(clip, ?) WHERE ino = ?", (size, ino))

    def finished(self) -> list[int]:
        """Files that no row names, and none will, as the next frame begins another one: once that is durable, they may
        be removed."""
        if self._lock.locked():  # one may get a frame just now
            return []
        files = [file for file, frames in self._frames.items() if not frames]
        if self._file in files:
            self._size = _FILE  # a row that came and went meanwhile would be durable before its end is
        return files

    async def remove(self, files: Sequence[int]) -> None:
        """Remove what was `finished`."""
        async with self._lock:
            if self._file in files:
                self.close()
            for file in files:
                del self._frames[file]
            await self._offload(partial(remove, [self._path(file) for file in files]))

    def close(self) -> None:
        """Release the open file; what it holds is durable already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # --- after a crash ---

    async def replay(self, apply: Callable[[Change], None]) -> None:
        """What the tables do not say yet, in order, one at a time: many may be of the same bytes.

        Raises LocalDiskFailed where some of it is gone or damaged.
        """
        for row in self._database.rows("SELECT ino, file, offset, length, clip FROM intents ORDER BY intent"):
            apply(await self._offload(partial(self._read, *row)))

    def _read(self, ino: int, file: int, offset: int, length: int, clip: int) -> Change:
        try:
            frame = self._files.read(str(file), offset, length)
            opened = self._ring.open(Purpose.METADATA, FrameType.INTENT, _context(file, offset), frame)
        except FileNotFoundError:
            raise LocalDiskFailed(path=str(self._path(file)), reason="what was synced is missing") from None
        except DamagedFrame as error:
            raise LocalDiskFailed(path=str(self._path(file)), reason=f"what was synced is damaged: {error}") from None
        return _decoded(ino, opened.payload, clip)

    def _path(self, file: int) -> Path:
        return self._files.folder / str(file)


def _context(file: int, offset: int) -> bytes:
    return _CONTEXT.pack(b"intent", file, offset)


def _encoded(change: Change) -> Iterator[Bytes]:
    times = (_UNKNOWN if time is None else time for time in (change.mtime, change.ctime))
    yield _HEAD.pack(*times, len(change.pieces))
    yield b"".join(_PIECE.pack(offset, len(data)) for offset, data in change.pieces)
    yield from (data for _, data in change.pieces)


def _decoded(ino: int, payload: memoryview, clip: int) -> Change:
    mtime, ctime, count = _HEAD.unpack_from(payload)
    position = _HEAD.size + count * _PIECE.size
    pieces = []
    for offset, length in _PIECE.iter_unpack(payload[_HEAD.size : position]):
        if offset < clip:
            pieces.append((offset, payload[position : position + min(length, clip - offset)]))
        position += length
    return Change(ino, pieces, None if mtime == _UNKNOWN else mtime, None if ctime == _UNKNOWN else ctime)
