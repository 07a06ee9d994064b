"""What tests of checkpoints look at and break.

Above: tests of `volume/`. Below: `tests.support.volumes`, the forms of `volume.checkpoint`.
Invariant: everything here is about the one volume OPENED.
"""

import random

from infinitfs.mount.session import Session
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume.checkpoint import CHECKPOINTS, Manifest, open_manifest
from infinitfs.volume.namespace import ROOT
from tests.support.volumes import FILE, make_volume, packs, positions

OPENED = make_volume()
VOLUME = OPENED.volume_id.hex()


async def fill(session: Session, count: int, tag: bytes = b"first") -> None:
    """Names that do not compress away: a group of them is a frame of tens of kilobytes."""
    source = random.Random(tag)
    for number in range(count):
        name = tag + b" %d " % number + source.randbytes(100).replace(b"/", b"_").replace(b"\0", b"_")
        await session.volume.create(ROOT, name, FILE, 0, 0)


def manifest_at(storage: MemoryStorage, position: int) -> Manifest:
    data = storage.objects[CHECKPOINTS.key(VOLUME, position)]
    return open_manifest(OPENED.ring, OPENED.member, position, data)


def nobodys(storage: MemoryStorage, session: Session) -> set[str]:
    """The packs in the storage that neither a manifest nor the session's tables name."""
    named = {bytes(name).hex() for (name,) in session.volume.database.rows("SELECT name FROM packs")}
    for position in positions(storage, CHECKPOINTS):
        named |= packs_of(manifest_at(storage, position))
    return packs(storage) - named


def packs_of(manifest: Manifest) -> set[str]:
    return {group.pack for group in manifest.groups}


def pack_object(pack: str) -> str:
    return f"{VOLUME}/packs/{pack[:2]}/{pack}"


def flip(storage: MemoryStorage, key: str, at: int = -100) -> None:
    data = bytearray(storage.objects[key])
    data[at] ^= 1
    storage.objects[key] = bytes(data)
