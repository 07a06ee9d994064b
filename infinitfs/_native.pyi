"""Cut points, zero runs and fingerprints of a stream of bytes, at memory speed; room for bytes, and copies.

Role: below `block/`, which decides sizes and keys, `keys/` and `config/`; what a cut is, `native/cut.h` defines.
Invariant: pieces are consecutive from offset 0, and a piece depends only on the bytes from its own start on.

With `final` false the unfinished piece at the end, the tail, is not returned: present it again at the start
of the next buffer. However a stream is split into buffers, the pieces are those of one call over the whole
with `final`.

A piece is `(length, fingerprint)`: bytes, and the XXH3-128 of its content in canonical order (16 bytes, as
`xxhash.xxh3_128_digest`), or None for a run of zeros. XXH3 has no key: different fingerprints mean different
content, the same one is only a hint, and a fingerprint of plaintext stays in memory.

The GIL is dropped during a whole scan or copy. A C-contiguous buffer of any type is accepted (else BufferError); do
not write to it meanwhile.
"""

from collections.abc import Sequence
from typing import TypeAlias

from typing_extensions import Buffer

_Piece: TypeAlias = tuple[int, bytes | None]

def cut(buffer: Buffer, gear: Buffer, minimum: int, target: int, maximum: int, zeros: int, final: bool) -> list[_Piece]:
    """Cut by content, with the keyed gear hash and normalised chunking of FastCDC (USENIX ATC 2016).

    `gear`: 2048 secret bytes, 256 little-endian 64-bit words. All sizes in bytes: `minimum`, `target` and
    `maximum` of a data piece; a run of at least `zeros` zero bytes is a piece of its own (at most `maximum`
    long), so a data piece may be shorter than `minimum` before one and at the end. The tail is shorter than
    `maximum + zeros`.

    Raises ValueError for another length of gear, and unless 64 <= minimum <= target <= maximum <= 2**30,
    target >= 256 and 16 <= zeros <= maximum.
    """

def cut_fixed(buffer: Buffer, size: int, first: int, final: bool) -> list[_Piece]:
    """Cut after `first` bytes (the distance to the next multiple of `size`), then every `size` bytes.

    A piece is None where all its bytes are zero. The tail is shorter than `size`.

    Raises ValueError unless 1 <= first <= size.
    """

def room(size: int, /) -> bytearray:
    """`size` bytes to be overwritten: what is in them is undefined. (With cleared ones, reading a large file from a
    mount took 7% longer.) Raises ValueError where `size` is negative."""

def gather(out: Buffer, parts: Sequence[Buffer], /) -> int:
    """Copy the parts to the beginning of `out`, one behind the other; returns how many bytes these are. (`bytes.join`
    keeps the GIL where a part is no `bytes`, and an assignment to a slice always does: others wait for milliseconds.)

    Raises ValueError where they do not fit, with nothing copied; BufferError, TypeError for what is no writable, or no,
    buffer.
    """
