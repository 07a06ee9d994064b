"""Signed and sealed objects: what a journal record and a checkpoint's manifest have in common.

    object  = one frame, its context the object's place in the volume, e.g. "journal/<16 hex digits>"
    payload = zstd of msgpack [body, signer's public key, signature over place and body]

Above: `journal`, `checkpoint`. Below: `keys`. A core without I/O.
Invariant: a body is returned only when the frame opened at its own place and a member signed it for that place.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import zstandard

from infinitfs.errors import DamagedFrame, DamagedObject, IntegrityError
from infinitfs.keys.frame import FrameType
from infinitfs.keys.identity import Identity, PublicIdentity
from infinitfs.keys.ring import KeyRing, Purpose

Members = Callable[[bytes], PublicIdentity | None]
"""The member whose public signing key this is, None where nobody's."""


class Form(NamedTuple):
    """One kind of object: which key seals it, as what, and in which folder of the volume it lies."""

    purpose: Purpose
    type: FrameType
    folder: str

    def key(self, volume: str, position: int) -> str:
        """The object's key; `volume` in hex. Keys sort as positions do."""
        return f"{volume}/{self._place(position)}"

    def position(self, key: str) -> int | None:
        """The position of a key, None where the key is not of this form."""
        name = key.rpartition("/")[2]
        return int(name, 16) if _NAME.fullmatch(name) else None

    def _place(self, position: int) -> str:
        return f"{self.folder}/{position:016x}"

    def seal(self, ring: KeyRing, identity: Identity, position: int, body: bytes) -> bytes:
        place = self._place(position).encode()
        envelope = _Envelope(body, identity.public.sign, identity.sign(place, body))
        payload = zstandard.ZstdCompressor(level=3).compress(msgspec.msgpack.encode(envelope))
        return bytes(ring.seal(self.purpose, self.type, place, payload, compressed=True))

    def open(self, ring: KeyRing, members: Members, position: int, data: bytes) -> bytes:
        """The body. Raises DamagedObject by name."""
        key, place = self.key(ring.volume_id.hex(), position), self._place(position).encode()
        try:
            opened = ring.open(self.purpose, self.type, place, data)
            envelope = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(opened.payload), type=_Envelope)
            signer = members(envelope.signer)
            if signer is None:
                raise DamagedFrame(reason="it is signed by someone who is not a member")
            signer.verify(place, envelope.body, envelope.signature)
        except DamagedFrame as error:
            raise DamagedObject(key=key, reason=error.fields["reason"]) from None
        except (IntegrityError, msgspec.MsgspecError, zstandard.ZstdError) as error:
            raise DamagedObject(key=key, reason=str(error)) from None
        return envelope.body


_NAME = re.compile("[0-9a-f]{16}")


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    body: bytes
    signer: bytes
    signature: bytes
