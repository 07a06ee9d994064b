"""The frame: how every sealed thing looks, in packs, in the journal, in checkpoints, in staging and in the
cache.

Role: the byte format and its checks. Above: `keys/ring.py`, which chooses the key; `block/`, `volume/` and
`transfer/` read sizes. Below: `keys/xaes.py`.
Invariant: nothing of a frame is acted on before its tag was checked, but its declared size, which is bounded.

Layout, all integers little-endian:

    offset  size  field
    0       4     magic, ASCII "INFF"
    4       1     format, 1
    5       1     suite: 1 = XAES-256-GCM
    6       1     type: a FrameType
    7       1     flags: bit 0 = the payload is one zstd frame; the others are 0
    8       4     key epoch, from 1
    12      4     length n of the ciphertext, without its tag
    16      24    nonce, random
    40      n     ciphertext
    40+n    16    tag

The plaintext inside is

    0       4     length p of the payload, at most MAX_PAYLOAD
    4       p     payload
    4+p     ...   zeros

and n = padme(4 + p), so that a size says less about the content: Padmé (Nikitin et al., "Reducing Metadata
Leakage from Encrypted Files and Communication with PURBs", PETS 2019) leaks O(log log p) bits and adds at
most 12%, 3% at 1 MiB. Another n is refused, so a payload has one length on disk.

The additional authenticated data is header (40 bytes) || volume id (16 bytes) || context, where context names
the place: the block's id, `b"<pack id>/index"` and so on. A frame that was moved, renamed or replayed
elsewhere does not open. The suite counts only where the volume's signed descriptor allows it. GCM does not
commit to its key, so what has an id of its own (a block) is checked against that id after opening.
"""

import struct
from collections.abc import Set
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO

from infinitfs.errors import DamagedFrame
from infinitfs.keys.xaes import NONCE_SIZE, TAG_SIZE, Buffer, Xaes

HEADER_SIZE = 40
MAX_PAYLOAD = 64 << 20
VOLUME_ID_SIZE = 16

XAES_256_GCM = 1
SUITES = frozenset({XAES_256_GCM})
"""The suites this version can open."""

_MAGIC = b"INFF"
_FORMAT = 1
_COMPRESSED = 1
_HEADER = struct.Struct("<4sBBBBII24s")
_LENGTH = struct.Struct("<I")


class FrameType(IntEnum):
    """What a frame holds. The numbers are part of the format."""

    BLOCK = 1
    PACK_INDEX = 2
    RECORD = 3
    CHECKPOINT_GROUP = 4
    MANIFEST = 5
    DESCRIPTOR = 6


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header that passed the checks of form. Unauthenticated until the frame is opened."""

    suite: int
    type: FrameType
    compressed: bool
    epoch: int
    length: int
    nonce: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return HEADER_SIZE + self.length + TAG_SIZE


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in a frame. `payload` is a view into the opened plaintext: no copy was made."""

    payload: memoryview
    compressed: bool
    epoch: int


def padme(length: int) -> int:
    """The smallest Padmé size that holds `length` bytes (`length` >= 2)."""
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


_MAX_LENGTH = padme(_LENGTH.size + MAX_PAYLOAD)


def sealed_size(payload: int) -> int:
    """Bytes of the frame that holds a payload of `payload` bytes."""
    return HEADER_SIZE + padme(_LENGTH.size + payload) + TAG_SIZE


def parse_header(data: Buffer) -> Header:
    """The header that `data` starts with. Raises DamagedFrame where it has not the form of one."""
    if len(data) < HEADER_SIZE:
        raise DamagedFrame(reason="it ends within its header")
    magic, form, suite, kind, flags, epoch, length, nonce = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise DamagedFrame(reason="it does not start as a frame does")
    if form != _FORMAT:
        raise DamagedFrame(reason=f"its format {form} is unknown to this version")
    if flags & ~_COMPRESSED:
        raise DamagedFrame(reason=f"its flags {flags:#x} are unknown to this version")
    if not _LENGTH.size <= length <= _MAX_LENGTH:
        raise DamagedFrame(reason=f"it declares {length} bytes")
    try:
        known = FrameType(kind)
    except ValueError:
        raise DamagedFrame(reason=f"its type {kind} is unknown to this version") from None
    return Header(suite, known, bool(flags & _COMPRESSED), epoch, length, nonce)


def frame_size(header: Buffer) -> int:
    """Bytes of the whole frame whose first HEADER_SIZE bytes (or more) are `header`; at most 64 MiB and
    padding.

    Raises DamagedFrame. Nothing is authenticated yet: the number is good for fetching, not for believing.
    """
    return parse_header(header).size


def seal_frame(
    cipher: Xaes,
    type: FrameType,
    epoch: int,
    nonce: bytes,
    volume_id: bytes,
    context: bytes,
    payload: Buffer,
    *,
    compressed: bool = False,
) -> bytes:
    """The frame of `payload` (at most MAX_PAYLOAD bytes) under `cipher`, the key of `epoch`.

    `nonce`: 24 random bytes, never used twice under one key. `volume_id`: 16 bytes. `context`: the object's
    id.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload has at most {MAX_PAYLOAD} bytes, not {len(payload)}")
    if len(volume_id) != VOLUME_ID_SIZE or len(nonce) != NONCE_SIZE:
        raise ValueError("a volume id has 16 bytes and a nonce 24")
    used = _LENGTH.size + len(payload)
    length = padme(used)
    flags = _COMPRESSED if compressed else 0
    header = _HEADER.pack(_MAGIC, _FORMAT, XAES_256_GCM, type, flags, epoch, length, nonce)
    parts = (_LENGTH.pack(len(payload)), payload, bytes(length - used))
    # Sealed in place: a BytesIO hands out its buffer as bytes without a copy of it.
    frame = BytesIO()
    frame.seek(HEADER_SIZE + length + TAG_SIZE - 1)
    frame.write(b"\x00")
    with frame.getbuffer() as view:
        view[:HEADER_SIZE] = header
        cipher.seal_into(nonce, parts, header + volume_id + context, view[HEADER_SIZE:])
    return frame.getvalue()


def open_frame(
    cipher: Xaes,
    type: FrameType,
    volume_id: bytes,
    context: bytes,
    frame: Buffer,
    *,
    suites: Set[int] = SUITES,
) -> Opened:
    """What `seal_frame` sealed for the same type, volume and context; `frame` is exactly one frame.

    `suites` are those that the volume's descriptor allows. Raises DamagedFrame.
    """
    header = parse_header(frame)
    if header.suite not in suites or header.suite not in SUITES:
        raise DamagedFrame(reason=f"its suite {header.suite} is not allowed in this volume")
    if header.type is not type:
        raise DamagedFrame(reason=f"it holds a {header.type.name}, not a {type.name}")
    if len(frame) != header.size:
        raise DamagedFrame(reason=f"it has {len(frame)} bytes and declares {header.size}")
    view = memoryview(frame)
    aad = bytes(view[:HEADER_SIZE]) + volume_id + context
    plaintext = memoryview(cipher.open(header.nonce, view[HEADER_SIZE:], aad))
    (payload,) = _LENGTH.unpack_from(plaintext)
    used = _LENGTH.size + payload
    if payload > MAX_PAYLOAD or padme(used) != header.length:
        raise DamagedFrame(reason="its padding is not the one of its payload")
    return Opened(plaintext[_LENGTH.size : used], header.compressed, header.epoch)
