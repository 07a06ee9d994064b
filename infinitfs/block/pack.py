"""The form of a pack: frames one after the other, a sealed index of them, a trailer.

    frame ... frame   index frame   trailer
    trailer = magic "IFPK", u32 length of the index frame            (little-endian)
    index   = per frame: 32-byte block id, u32 offset, u32 length of the frame, u32 plain size

Above: `block.staging` writes packs, recovery tools read their index. Below: `keys.ring` seals the index with the data
key under the context `<pack>/index`.
Invariant: the index names every frame a volume refers to, so the block index can be rebuilt from packs alone; the
trailer is only a hint where the index frame starts, and the frame authenticates itself. A core without I/O.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from infinitfs.errors import DamagedFrame
from infinitfs.keys.frame import FrameType
from infinitfs.keys.ring import KeyRing, Purpose

TRAILER = struct.Struct("<4sI")
MAGIC = b"IFPK"
_ENTRY = struct.Struct("<32sIII")


class Entry(NamedTuple):
    """A frame in a pack: `[offset, offset + length)` of the object holds the block `id` of `size` plain bytes."""

    id: bytes
    offset: int
    length: int
    size: int


def object_key(volume: str, pack: str) -> str:
    """The object that holds a pack; `volume` and `pack` in hex."""
    return f"{volume}/packs/{pack[:2]}/{pack}"


def seal_index(ring: KeyRing, pack: str, entries: Sequence[Entry]) -> bytes:
    """Index frame and trailer: what ends a pack."""
    payload = b"".join(_ENTRY.pack(*entry) for entry in entries)
    frame = ring.seal(Purpose.DATA, FrameType.PACK_INDEX, f"{pack}/index".encode(), payload)
    return bytes(frame + TRAILER.pack(MAGIC, len(frame)))


def index_span(trailer: bytes, pack_size: int) -> tuple[int, int]:
    """Offset and length of the index frame, from a pack's last bytes. Raises DamagedFrame."""
    magic, length = TRAILER.unpack(trailer[-TRAILER.size :]) if len(trailer) >= TRAILER.size else (b"", 0)
    if magic != MAGIC or length > pack_size - TRAILER.size:
        raise DamagedFrame(reason="no pack trailer")
    return pack_size - TRAILER.size - length, length


def open_index(ring: KeyRing, pack: str, frame: bytes) -> list[Entry]:
    """The entries of an index frame. Raises DamagedFrame."""
    payload = ring.open(Purpose.DATA, FrameType.PACK_INDEX, f"{pack}/index".encode(), frame).payload
    if len(payload) % _ENTRY.size:
        raise DamagedFrame(reason="a pack index of uneven length")
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(payload)]
