"""A volume without a kernel: a session composed over an in-process transfer, deterministic and thread-free.

Above: tests of `volume/`. Below: `mount.compose`, any storage, real files in a folder.
Invariant: nothing but trio's clock (a MockClock in tests), the settable wall clock and the seeded random decides what
happens; files of a home are real, so a home that is copied while it is in use is one whose process was killed.
"""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import apsw
import pytest
import trio
import trio.testing

from infinitfs.config.paths import Paths
from infinitfs.errors import InfinitfsError, ObjectExists
from infinitfs.keys.identity import Identity
from infinitfs.mount.compose import Composition, Machine
from infinitfs.mount.folders import Folders
from infinitfs.mount.request import MountRequest
from infinitfs.mount.session import Session
from infinitfs.storage.base import Storage
from infinitfs.storage.memory import MemoryStorage
from infinitfs.transfer.client import local_transfer
from infinitfs.transfer.files import Offload, inline
from infinitfs.volume.clock import Clock
from infinitfs.volume.descriptor import OpenedVolume, Parameters, create_descriptor, descriptor_key, open_descriptor
from infinitfs.volume.inodes import Inode
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.schema import PAGE_SIZE
from infinitfs.volume.signed import Form
from infinitfs.volume.volume import Volume
from tests.support.randomness import seeded

SMALL = Parameters(minimum=4096, target=8192, maximum=16384, zeros=4096, pack=64 << 10)
"""Everything that takes many blocks or packs happens within some hundred kilobytes."""

FILE = 0o100644
FOLDER = 0o040755
START = 1_700_000_000 * 10**9

ALICE = Identity.generate(seeded(b"alice"))


@dataclass
class WallClock:
    """What inodes and records are stamped with, in nanoseconds since the epoch; it stands still until it is set."""

    now: int = START

    def clock(self) -> Clock:
        return Clock(lambda: self.now, trio.current_time)


def make_volume(parameters: Parameters = SMALL) -> OpenedVolume:
    """A new volume of ALICE's, as every machine of hers opens it. Same keys each time."""
    created = "2026-01-01T00:00:00Z"
    descriptor, _ = create_descriptor("drive", ALICE, "alice", parameters, seeded(b"volume"), created=created)
    return open_descriptor(descriptor, ALICE, key=None, user_name="alice")


def folders_of(home: Path, opened: OpenedVolume) -> Folders:
    return Folders(Paths.from_environment({"INFINITFS_HOME": str(home)}), opened.volume_id.hex(), "")


@asynccontextmanager
async def opened_volume(
    storage: Storage,
    home: Path,
    opened: OpenedVolume | None = None,
    *,
    wall: WallClock | None = None,
    seed: bytes | None = None,
    offload: Offload = inline,
    take_over: bool = False,
    read_only: bool = False,
    fsync: Literal["local", "remote"] = "local",
    capacity: int = 0,
    backlog: int = 10 * 2**30,
    described: bool = True,
) -> AsyncIterator[Session]:
    """The volume on the machine whose folders are under `home`; its name is that of the folder, and so is the seed of
    its randomness where none is given. A new machine finds the storage with what stands for the volume's descriptor, as
    `volume create` leaves it, where it is `described`."""
    opened = opened or make_volume()
    folders = folders_of(home, opened)
    if described and not folders.database.exists():
        with suppress(ObjectExists):
            await storage.put(descriptor_key(opened.volume_id, 1), b"", create=True)
    async with (
        local_transfer(storage) as transfer,
        Composition(
            request=MountRequest(
                volume="drive", fsync=fsync, take_over=take_over, read_only=read_only, backlog=backlog
            ),
            user="alice",
            capacity=capacity,
            opened=opened,
            identity=ALICE,
            folders=folders,
            transfer=transfer,
            machine=Machine(
                (wall or WallClock()).clock(),
                seeded(seed or home.name.encode()),
                offload,
                host=home.name,
            ),
        ).session() as session,
    ):
        yield session


def killed(home: Path, copy: Path) -> Path:
    """`copy` becomes the home as a process killed now would leave it."""
    shutil.copytree(home, copy, copy_function=_copy)
    return copy


def _copy(source: str, target: str) -> None:
    """Without the zeros that a log has in reserve at its end: they are most of a home. The last page may end with some
    of its own."""
    data = Path(source).read_bytes()
    Path(target).write_bytes(data[: len(data.rstrip(b"\0")) + PAGE_SIZE] if source.endswith("-wal") else data)


def copy_of(storage: MemoryStorage) -> MemoryStorage:
    """What the storage holds now."""
    copy = MemoryStorage()
    copy.objects = dict(storage.objects)
    return copy


async def settle_in_vain(volume: Volume, breaks: Callable[[], bool]) -> None:
    """Have everything flushed; once `breaks`, between two steps of it, the database fails."""

    async def fail() -> None:
        while not breaks():
            await trio.lowlevel.checkpoint()
        volume.database.fail(apsw.IOError("as planned"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        with pytest.raises(InfinitfsError):
            await volume.settle()


async def drained(session: Session) -> None:
    """Everything is in the storage, and all that follows from it is done, when this returns. Needs a storage that
    answers without a delay."""
    await session.volume.drain()
    await trio.testing.wait_all_tasks_blocked()


async def checkpointed(session: Session) -> int:
    """As `drained`, with a checkpoint; returns its position. Something must be unsent, or nothing is cut."""
    session.volume.checkpointer.forced = True
    await drained(session)
    assert not session.volume.checkpointer.forced
    return session.volume.publisher.position


def positions(storage: MemoryStorage, form: Form) -> list[int]:
    """Of the objects of a form that a storage holds."""
    return sorted(p for key in storage.objects if f"/{form.folder}/" in key and (p := form.position(key)) is not None)


def packs(storage: MemoryStorage) -> set[str]:
    """The names of the packs that a storage holds."""
    return {key.rpartition("/")[2] for key in storage.objects if "/packs/" in key}


# --- what programs do ---


async def put(
    volume: Volume, name: bytes, data: bytes, *, parent: int = ROOT, offset: int = 0, durable: bool = False
) -> int:
    """Write `data` into the file `name`, made where it is missing, with an fsync where it is to be durable; returns
    its number."""
    found = volume.lookup(parent, name)
    ino = (found or await volume.create(parent, name, FILE, 1000, 1000)).ino
    volume.open(ino)
    try:
        await volume.write(ino, offset, data)
        if durable:
            await volume.fsync(ino)
    finally:
        volume.close(ino)
    return ino


async def content(volume: Volume, ino: int) -> bytes:
    volume.open(ino)
    try:
        return bytes(await volume.read(ino, 0, volume.attributes(ino).size))
    finally:
        volume.close(ino)


@dataclass(frozen=True)
class Seen:
    """What a program can find out about one name; `nodes` of a folder by name."""

    inode: Inode
    xattrs: dict[bytes, bytes]
    content: bytes
    nodes: dict[bytes, "Seen"]


async def picture(volume: Volume, ino: int = ROOT) -> Seen:
    """Everything below `ino`, as programs see it."""
    inode = volume.attributes(ino)
    is_file = inode.mode & 0o170000 == 0o100000
    xattrs = {name: volume.get_xattr(ino, name) for name in volume.list_xattrs(ino)}
    entries = list(volume.entries(ino, 0)) if inode.is_directory else []
    nodes = {name: await picture(volume, number) for _, name, number, *_ in entries}
    return Seen(inode, xattrs, await content(volume, ino) if is_file else b"", nodes)
