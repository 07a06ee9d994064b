"""Looking at a volume: all that it shows, whether its tables are sound, and what its storage alone gives.

Above: `life`. Below: `infinitfs.mount.compose`, `model`.
"""

import stat
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from infinitfs.config.paths import Paths
from infinitfs.errors import NoSuchEntry
from infinitfs.keys.identity import Identity
from infinitfs.mount.compose import Composition, Machine
from infinitfs.mount.folders import Folders
from infinitfs.mount.request import MountRequest
from infinitfs.mount.session import Session
from infinitfs.storage.base import Storage
from infinitfs.transfer.client import TransferClient, local_transfer
from infinitfs.volume.descriptor import OpenedVolume
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.volume import Volume
from tests.support.world.model import Lost, Node, Seen


def open_volume(
    opened: OpenedVolume,
    identity: Identity,
    home: Path,
    transfer: TransferClient,
    request: MountRequest,
    machine: Machine,
) -> AbstractAsyncContextManager[Session]:
    """A session whose state and cache are under `home`."""
    paths = Paths(home / "config", home / "state", home / "cache", home / "run")
    return Composition(
        request=request,
        user="user",
        capacity=0,
        opened=opened,
        identity=identity,
        folders=Folders(paths, opened.volume_id.hex(), ""),
        transfer=transfer,
        machine=machine,
    ).session()


async def observe_storage(
    opened: OpenedVolume, identity: Identity, storage: Storage, home: Path, machine: Machine
) -> Seen:
    """What `storage` gives to the new folder `home`."""
    async with (
        local_transfer(storage, connections=8) as client,
        open_volume(opened, identity, home, client, MountRequest(volume="world", read_only=True), machine) as session,
    ):
        return await observe(session.volume)


async def observe(volume: Volume) -> Seen:
    """All that a volume shows; nothing where it has no root yet."""
    seen = Seen()
    try:
        volume.attributes(ROOT)
    except NoSuchEntry:
        return seen
    folders = [ROOT]
    _see(volume, ROOT, seen)
    while folders:
        parent = folders.pop()
        for _, name, ino, mode, *_ in list(volume.entries(parent, 0)):
            seen.tree.names[parent, name] = ino
            if ino in seen.tree.nodes:
                continue
            _see(volume, ino, seen)
            if stat.S_ISDIR(mode):
                folders.append(ino)
    for ino, node in seen.tree.nodes.items():
        if stat.S_ISREG(node.mode):
            volume.open(ino)
            seen.contents[ino] = bytes(await volume.read(ino, 0, 2**40))
            volume.close(ino)
    return seen


def _see(volume: Volume, ino: int, seen: Seen) -> None:
    inode = volume.attributes(ino)
    seen.tree.nodes[ino] = Node(
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        inode.target,
        tuple(sorted((name, volume.get_xattr(ino, name)) for name in volume.list_xattrs(ino))),
        (inode.mtime, inode.ctime) if inode.is_directory else None,
    )
    if stat.S_ISREG(inode.mode):
        seen.mtimes[ino] = inode.mtime


def check_tables(volume: Volume) -> None:
    """The database is sound, and its counts are those that a recount gives."""
    database = volume.database
    database.commit()
    problems = {
        "integrity_check": [row for row in database.rows("PRAGMA integrity_check") if row != ("ok",)],
        "refs of blocks": database.rows(
            "SELECT block, refs FROM blocks WHERE refs !="
            " (SELECT count(*) FROM extents WHERE extents.block = blocks.block)"
        ),
        "live blocks of packs": database.rows(
            "SELECT pack, live FROM packs WHERE condemned IS NULL AND live !="
            " (SELECT count(*) FROM blocks WHERE blocks.pack = packs.pack AND refs > 0)"
        ),
        "extents of nothing": database.rows(
            "SELECT ino, block FROM extents WHERE block NOT IN (SELECT block FROM blocks)"
            " OR ino NOT IN (SELECT ino FROM inodes)"
        ),
    }
    for what, found in problems.items():
        if found:
            raise Lost(f"{what}: {found[:3]}")
