"""The frame: how every sealed thing looks, in packs, in the journal, in checkpoints, in staging and in the
cache.

Role: the byte format and its checks. Above: `keys/ring.py`, which chooses the key; `block/`, `volume/` and
`transfer/` read sizes. Below: `keys/xaes.py`.
Invariant: nothing of a frame is acted on before its tag was checked, but its declared size, which is bounded.

Layout, all integers little-endian:

    offset  size  field
    0       4     magic, ASCII "INFF"
    4       1     format, 1
    5       1     suite: 1 = XAES-256-GCM, 3 = the same in segments of 32 KiB, 2 = in segments of 64 KiB
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

In suites 2 and 3, for a payload of which parts are read, they are in another order: payload, zeros, length. The
plaintext is cut into segments of so many bytes, the last one shorter, and each is sealed alone, ciphertext and tag, one
after the other (`xaes.Series`): so segment i of suite 3 starts at byte 40 + i * (SEGMENT_SIZE + 16) and opens without
the others. Who reads 4 KiB here and there opens a segment for each: 32 KiB take half of what 64 do, and the whole of a
frame 2% more. Suite 2 is that of volumes made before there was suite 3; its frames are opened whole.

n = padme(4 + p), so that a size says less about the content: Padmé (Nikitin et al., "Reducing Metadata
Leakage from Encrypted Files and Communication with PURBs", PETS 2019) leaks O(log log p) bits and adds at
most 12%, 3% at 1 MiB. Another n is refused, so a payload has one length on disk.

The additional authenticated data is header (40 bytes) || volume id (16 bytes) || context, where context names
the place: the block's id, `b"<pack id>/index"` and so on. A frame that was moved, renamed or replayed
elsewhere does not open. In segments that is so for each of them: the header says how many there are, and the nonce
which one it is. The suite counts only where the volume's signed descriptor allows it. GCM does not commit to its key,
so what has an id of its own (a block) is checked against that id after all of it was opened.
"""

import struct
from collections.abc import Iterator, Set
from dataclasses import dataclass
from enum import IntEnum

from infinitfs._native import room
from infinitfs.errors import DamagedFrame
from infinitfs.keys.xaes import NONCE_SIZE, TAG_SIZE, Buffer, Series, Xaes

HEADER_SIZE = 40
MAX_PAYLOAD = 64 << 20
VOLUME_ID_SIZE = 16

SEGMENT_SIZE = 32 << 10
SEALED_SEGMENT_SIZE = SEGMENT_SIZE + TAG_SIZE

XAES_256_GCM = 1
XAES_256_GCM_LARGE_SEGMENTS = 2
XAES_256_GCM_SEGMENTS = 3
_SEGMENT_SIZES = {XAES_256_GCM_LARGE_SEGMENTS: 64 << 10, XAES_256_GCM_SEGMENTS: SEGMENT_SIZE}
SUITES = frozenset({XAES_256_GCM, *_SEGMENT_SIZES})
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
    INTENT = 7


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
        return HEADER_SIZE + self.length + TAG_SIZE * (_segments(self.length, self.segment) if self.segment else 1)

    @property
    def segment(self) -> int:
        """Bytes of a segment, 0 where it has none."""
        return _SEGMENT_SIZES.get(self.suite, 0)


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


def _segments(length: int, size: int) -> int:
    return -(-length // size)


def sealed_size(payload: int, *, segmented: bool = False) -> int:
    """Bytes of the frame that holds a payload of `payload` bytes."""
    length = padme(_LENGTH.size + payload)
    return HEADER_SIZE + length + TAG_SIZE * (_segments(length, SEGMENT_SIZE) if segmented else 1)


def segment_span(size: int, number: int) -> tuple[int, int]:
    """Offset and length of a sealed segment in a segmented frame of `size` bytes."""
    offset = HEADER_SIZE + number * SEALED_SEGMENT_SIZE
    return offset, min(SEALED_SEGMENT_SIZE, size - offset)


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
    segmented: bool = False,
) -> bytearray:
    """The frame of `payload` (at most MAX_PAYLOAD bytes) under `cipher`, the key of `epoch`.

    `nonce`: 24 random bytes, never used twice under one key. `volume_id`: 16 bytes. `context`: the object's
    id.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload has at most {MAX_PAYLOAD} bytes, not {len(payload)}")
    if len(volume_id) != VOLUME_ID_SIZE or len(nonce) != NONCE_SIZE:
        raise ValueError("a volume id has 16 bytes and a nonce 24")
    length = padme(_LENGTH.size + len(payload))
    suite = XAES_256_GCM_SEGMENTS if segmented else XAES_256_GCM
    flags = _COMPRESSED if compressed else 0
    header = _HEADER.pack(_MAGIC, _FORMAT, suite, type, flags, epoch, length, nonce)
    aad = header + volume_id + context
    frame = room(sealed_size(len(payload), segmented=segmented))  # of which every byte gets written
    view = memoryview(frame)
    view[:HEADER_SIZE] = header
    if segmented:
        series = Series(cipher, nonce, aad)
        for number, segment in enumerate(_cut(payload, length)):
            offset, size = segment_span(len(view), number)
            series.seal_into(number, segment, view[offset : offset + size])
    else:
        zeros = bytes(length - _LENGTH.size - len(payload))
        cipher.seal_into(nonce, (_LENGTH.pack(len(payload)), payload, zeros), aad, view[HEADER_SIZE:])
    return frame


def _cut(payload: Buffer, length: int) -> Iterator[Buffer]:
    """The plaintext of suite 3 in segments; those that are payload alone without a copy."""
    whole = len(payload) - len(payload) % SEGMENT_SIZE
    view = memoryview(payload)
    for start in range(0, whole, SEGMENT_SIZE):
        yield view[start : start + SEGMENT_SIZE]
    zeros = bytes(length - _LENGTH.size - len(payload))
    rest = bytes(view[whole:]) + zeros + _LENGTH.pack(len(payload))
    for start in range(0, len(rest), SEGMENT_SIZE):
        yield rest[start : start + SEGMENT_SIZE]


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
    header = _checked(type, frame, suites)
    if len(frame) != header.size:
        raise DamagedFrame(reason=f"it has {len(frame)} bytes and declares {header.size}")
    view = memoryview(frame)
    aad = bytes(view[:HEADER_SIZE]) + volume_id + context
    if header.segment:
        plaintext = memoryview(room(header.length))
        series = Series(cipher, header.nonce, aad)
        sealed = header.segment + TAG_SIZE
        for number in range(_segments(header.length, header.segment)):
            segment = view[HEADER_SIZE + number * sealed :][:sealed]
            series.open_into(number, segment, plaintext[number * header.segment :][: len(segment) - TAG_SIZE])
        start, (payload,) = 0, _LENGTH.unpack_from(plaintext, header.length - _LENGTH.size)
    else:
        plaintext = memoryview(cipher.open(header.nonce, view[HEADER_SIZE:], aad))
        start, (payload,) = _LENGTH.size, _LENGTH.unpack_from(plaintext)
    if payload > MAX_PAYLOAD or padme(_LENGTH.size + payload) != header.length:
        raise DamagedFrame(reason="its padding is not the one of its payload")
    return Opened(plaintext[start : start + payload], header.compressed, header.epoch)


def open_segments(
    cipher: Xaes,
    type: FrameType,
    volume_id: bytes,
    context: bytes,
    header: Buffer,
    *,
    suites: Set[int] = SUITES,
) -> Series:
    """What opens a frame of suite 3 in part, any segment in any order, by the frame's first HEADER_SIZE bytes; the
    other arguments are those of `open_frame`. A sealed segment has the bytes that `segment_span` names; what is no
    payload in the last ones is not cut off.

    Raises DamagedFrame, also for other frames.
    """
    known = _checked(type, header, suites)
    if known.segment != SEGMENT_SIZE or known.compressed:
        raise DamagedFrame(reason="it does not open in part")
    return Series(cipher, known.nonce, bytes(header) + volume_id + context)


def _checked(type: FrameType, frame: Buffer, suites: Set[int]) -> Header:
    header = parse_header(frame)
    if header.suite not in suites or header.suite not in SUITES:
        raise DamagedFrame(reason=f"its suite {header.suite} is not allowed in this volume")
    if header.type is not type:
        raise DamagedFrame(reason=f"it holds a {header.type.name}, not a {type.name}")
    return header
