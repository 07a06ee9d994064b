"""Runs: consecutive sectors of a pack, and the files that hold them.

Above: `cache`, which decides what runs there are. Below: the operating system.
Invariant: a file is whole when it has its name, `<2 hex>/<pack hex>.<first sector>.<serial>`; its length
says where the run ends. A serial is used once, so that unlinking a file late never hits a newer one.
`incoming/` holds files on their way.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from infinitfs.errors import InfinitfsError
from infinitfs.storage.base import Buffer
from infinitfs.transfer.files import local_errors, open_for_reading, remove

SECTOR = 1024 * 1024
Span = tuple[int, int]

_SECTORS_A_RUN = 16  # a run is one request, and fits one message
_INCOMING = "incoming"
_NAME = re.compile(r"([0-9a-f]{2,})\.(\d+)\.(\d+)")


@dataclass(slots=True, eq=False)
class Run:
    """The bytes `[start, start + length)` of a pack: on their way until `ready`, then in the file `path`,
    or in `data` where the disk would not take them, or not there because of `error`. `pins` count who needs
    it now; `warm` is a file that was just written, or read before, so that opening it waits for no disk."""

    pack: str
    start: int
    length: int
    path: Path | None = None
    data: bytes | None = None
    error: InfinitfsError | None = None
    pins: int = 0
    warm: bool = False
    ready: trio.Event = field(default_factory=trio.Event)

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(slots=True, frozen=True)
class Piece:
    """The bytes `[offset, offset + length)` of a run."""

    run: Run
    offset: int
    length: int


# --- arithmetic ---


def sectors_of(spans: Sequence[Span]) -> list[int]:
    """The numbers of the sectors that `spans` touch, ascending."""
    touched: set[int] = set()
    for offset, length in spans:
        if length:
            touched.update(range(offset // SECTOR, (offset + length - 1) // SECTOR + 1))
    return sorted(touched)


def adjacent(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending sector numbers as (first, count) of those that one request brings."""
    first = count = 0
    for number in numbers:
        if count and number == first + count and count < _SECTORS_A_RUN:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count


def pieces_of(runs: Sequence[Run], span: Span) -> list[Piece]:
    """Where the bytes of `span` are in `runs`, which cover it."""
    position, length = span
    end = position + length
    found = []
    while position < end:
        run = next(run for run in runs if run.start <= position < run.end)
        upto = min(end, run.end)
        found.append(Piece(run, position - run.start, upto - position))
        position = upto
    return found


# --- files ---


def incoming_path(folder: Path, serial: int) -> Path:
    return folder / _INCOMING / str(serial)


def run_path(folder: Path, pack: str, start: int, serial: int) -> Path:
    return folder / pack[:2] / f"{pack}.{start // SECTOR}.{serial}"


def move(source: Path, destination: Path) -> int:
    """Give a file its name in the cache and return its size in bytes. After an error it is in neither place.

    Raises NoSpace; LocalFileFailed, also where the file is on another filesystem.
    """
    try:
        with local_errors(destination, "written"):
            destination.parent.mkdir(mode=0o700, exist_ok=True)
            source.replace(destination)
            return destination.stat().st_size
    except InfinitfsError:
        remove([source, destination])
        raise


def scan(folder: Path) -> list[tuple[int, Run]]:
    """Make the cache's folder, or find the runs in it, each with its serial, least recently used first.

    The kernel moves a file's atime once a day at most (relatime): good enough for an order across mounts.
    """
    found: list[tuple[float, int, Run]] = []
    with local_errors(folder, "read"):
        (folder / _INCOMING).mkdir(mode=0o700, parents=True, exist_ok=True)
        remove((folder / _INCOMING).iterdir())
        for parent in folder.iterdir():
            if len(parent.name) != 2 or not parent.is_dir() or parent.is_symlink():
                continue
            with os.scandir(parent) as entries:
                for entry in entries:
                    name = _NAME.fullmatch(entry.name)
                    if name is None or name[1][:2] != parent.name or not entry.is_file(follow_symlinks=False):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    run = Run(name[1], int(name[2]) * SECTOR, status.st_size, path=Path(entry.path))
                    run.ready.set()
                    found.append((max(status.st_atime, status.st_mtime), int(name[3]), run))
    return [(serial, run) for _, serial, run in sorted(found, key=lambda each: each[:2])]


class RunGone(Exception):
    """The files of these runs are gone, unreadable or too short."""

    def __init__(self, runs: list[Run]) -> None:
        super().__init__(runs)
        self.runs = runs


def _joined(parts: list[Buffer]) -> Buffer:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_spans(spans: Sequence[Sequence[Piece]]) -> list[Buffer]:
    """The bytes of spans, each in pieces; blocking. Raises RunGone."""
    found, gone = [], []
    opened: dict[Run, int] = {}
    try:
        for span in spans:
            parts = []
            for piece in span:
                part = _read(piece, opened)
                if part is None:
                    gone.append(piece.run)
                else:
                    piece.run.warm = True
                    parts.append(part)
            if not gone:
                found.append(_joined(parts))
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    if gone:
        raise RunGone(gone)
    return found


def _read(piece: Piece, opened: dict[Run, int]) -> Buffer | None:
    """Puts the run's file among those `opened`."""
    run = piece.run
    if run.data is not None:
        return memoryview(run.data)[piece.offset : piece.offset + piece.length]
    if run.path is None:
        return None
    try:
        if run not in opened:
            opened[run] = open_for_reading(run.path)
        data = os.pread(opened[run], piece.length, piece.offset)
    except OSError:
        return None
    return data if len(data) == piece.length else None
