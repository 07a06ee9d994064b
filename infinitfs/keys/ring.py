"""The key ring of a volume: every key that its content, names and history are sealed or named with.

Role: turns the volume's secret and the master key of each epoch into one key a purpose, and seals and opens
frames with them. Above: `block/` (blocks, packs, ids), `volume/` (journal, checkpoints, database),
`volume/descriptor.py`. Below: `keys/frame.py`, `keys/identity.py`, HKDF (RFC 5869) of `pycryptodome`, keyed
BLAKE3.
Invariant: a ring never changes after its construction, so worker threads share it; no master key and no
derived key but the local database's leaves it unsealed.

Derivations, all HKDF-SHA256 with the volume id as salt and 32 bytes of output:

    of an epoch's master key      info "infinitfs 1 " + purpose    a frame key a purpose; the database's key
    of the volume's secret        info "infinitfs 1 " + name       "block id", "digest", "gear"

The secret is fixed for the life of the volume, so equal content keeps its id and its cut points through every
epoch. A new epoch brings a new master key; the one before is sealed under it (`previous`), so who has the
newest has all.
"""

import struct
from collections.abc import Mapping, Set
from enum import Enum
from typing import Self

from blake3 import blake3
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from infinitfs.errors import DamagedFrame
from infinitfs.keys import RandomBytes, system_random
from infinitfs.keys.frame import (
    SUITES,
    VOLUME_ID_SIZE,
    XAES_256_GCM_SEGMENTS,
    FrameType,
    Opened,
    open_frame,
    open_segments,
    parse_header,
    seal_frame,
)
from infinitfs.keys.identity import Identity, PublicIdentity
from infinitfs.keys.xaes import KEY_SIZE, NONCE_SIZE, Buffer, Series, Xaes

GEAR_SIZE = 2048

_INFO = b"infinitfs 1 "
_MEMBER = b"infinitfs 1 member "
_WRAPPED = struct.Struct("<32sI32s")
_EPOCH = struct.Struct("<I")


class Purpose(Enum):
    """What a key is for; the value is its HKDF info and part of the format."""

    DATA = b"data"
    METADATA = b"metadata"
    JOURNAL = b"journal"
    DATABASE = b"database"
    MASTER = b"previous master"
    """Seals the master key of the epoch before."""


def _derive(key: bytes, volume_id: bytes, name: bytes) -> bytes:
    return HKDF(key, KEY_SIZE, volume_id, SHA256, context=_INFO + name)


class KeyRing:
    """The keys of the volume `volume_id` (16 bytes): its `secret` (32 bytes) and the 32-byte master of every
    epoch.

    `masters` maps epochs, numbered without a gap, to keys; the highest one is current. `suites` are those
    that the volume's descriptor allows.
    """

    def __init__(
        self,
        volume_id: bytes,
        secret: bytes,
        masters: Mapping[int, bytes],
        *,
        suites: Set[int] = SUITES,
        random: RandomBytes = system_random,
    ) -> None:
        if len(volume_id) != VOLUME_ID_SIZE or any(len(key) != KEY_SIZE for key in (secret, *masters.values())):
            raise ValueError("a volume id has 16 bytes, its secret and its master keys have 32")
        self.volume_id = volume_id
        self.epoch = max(masters)
        """The current epoch, which new frames are sealed in."""
        if sorted(masters) != list(range(min(masters), self.epoch + 1)) or min(masters) < 1:
            raise ValueError("epochs are numbered from 1 or later, without a gap")
        self._secret = secret
        self._masters = dict(masters)
        self._suites = frozenset(suites)
        self._random = random
        # All of them now, so that nothing is written to the ring later and threads need no lock.
        self._ciphers: dict[tuple[int, Purpose], Xaes] = {
            (epoch, purpose): Xaes(_derive(master, volume_id, purpose.value))
            for epoch, master in masters.items()
            for purpose in Purpose
            if purpose is not Purpose.DATABASE
        }
        self._block_key = _derive(secret, volume_id, b"block id")
        self._digest_key = _derive(secret, volume_id, b"digest")

    @classmethod
    def generate(cls, random: RandomBytes = system_random) -> Self:
        """The ring of a new volume: its id, its secret and the master key of epoch 1."""
        return cls(random(VOLUME_ID_SIZE), random(KEY_SIZE), {1: random(KEY_SIZE)}, random=random)

    def next_epoch(self) -> Self:
        """This ring and a new current epoch."""
        masters = {**self._masters, self.epoch + 1: self._random(KEY_SIZE)}
        return type(self)(self.volume_id, self._secret, masters, suites=self._suites, random=self._random)

    def seal(
        self,
        purpose: Purpose,
        type: FrameType,
        context: bytes,
        payload: Buffer,
        *,
        compressed: bool = False,
        segmented: bool = False,
    ) -> bytearray:
        """One frame of `payload` in the current epoch, for the object that `context` names; `segmented` so that parts
        of it open, where the volume allows that."""
        return seal_frame(
            self._ciphers[self.epoch, purpose],
            type,
            self.epoch,
            self._random(NONCE_SIZE),
            self.volume_id,
            context,
            payload,
            compressed=compressed,
            segmented=segmented and XAES_256_GCM_SEGMENTS in self._suites,
        )

    def open(self, purpose: Purpose, type: FrameType, context: bytes, frame: Buffer) -> Opened:
        """What `seal` sealed in any epoch of this ring for the same purpose, type and context. Raises
        DamagedFrame."""
        cipher = self._cipher(purpose, frame)
        return open_frame(cipher, type, self.volume_id, context, frame, suites=self._suites)

    def open_segments(self, purpose: Purpose, type: FrameType, context: bytes, header: Buffer) -> Series:
        """What opens the segments of a frame that `seal` sealed segmented: see `frame.open_segments`. Raises
        DamagedFrame."""
        cipher = self._cipher(purpose, header)
        return open_segments(cipher, type, self.volume_id, context, header, suites=self._suites)

    def _cipher(self, purpose: Purpose, header: Buffer) -> Xaes:
        epoch = parse_header(header).epoch
        cipher = self._ciphers.get((epoch, purpose))
        if cipher is None:
            raise DamagedFrame(reason=f"its key epoch {epoch} is not one of this volume's")
        return cipher

    def block_id(self, data: Buffer) -> bytes:
        """The id of a block, 32 bytes: BLAKE3 of its plaintext under a key of this volume."""
        return blake3(data, key=self._block_key).digest()

    def digest(self, data: Buffer) -> bytes:
        """What tells whether a checkpoint group changed, 32 bytes: as `block_id`, under a key of its own."""
        return blake3(data, key=self._digest_key).digest()

    def gear(self) -> bytes:
        """The table that content-defined cutting uses, 2048 bytes: 256 little-endian u64, BLAKE3's output as
        XOF."""
        key = _derive(self._secret, self.volume_id, b"gear")
        return blake3(b"", key=key).digest(length=GEAR_SIZE)

    def database_key(self, epoch: int | None = None) -> bytes:
        """The 32-byte key of the local database made in `epoch` (None: the current one)."""
        master = self._masters[self.epoch if epoch is None else epoch]
        return _derive(master, self.volume_id, Purpose.DATABASE.value)

    def previous(self) -> dict[int, bytes]:
        """The master key of every epoch but the current one, each a frame under the epoch that follows it."""
        sealed = {}
        for epoch in sorted(self._masters)[:-1]:
            frame = seal_frame(
                self._ciphers[epoch + 1, Purpose.MASTER],
                FrameType.DESCRIPTOR,
                epoch + 1,
                self._random(NONCE_SIZE),
                self.volume_id,
                _EPOCH.pack(epoch),
                self._masters[epoch],
            )
            sealed[epoch] = bytes(frame)
        return sealed

    def wrap_for(self, public: PublicIdentity, context: bytes = b"") -> bytes:
        """The secret and the current master key, sealed so that only `public` can `unwrap` them.

        `context` is authenticated, not sealed: the descriptor passes its owner's public keys.
        """
        plaintext = _WRAPPED.pack(self._secret, self.epoch, self._masters[self.epoch])
        return public.wrap(_MEMBER + self.volume_id + context, plaintext)

    @classmethod
    def unwrap(
        cls,
        identity: Identity,
        volume_id: bytes,
        sealed: bytes,
        previous: Mapping[int, bytes],
        context: bytes = b"",
        *,
        suites: Set[int] = SUITES,
        random: RandomBytes = system_random,
    ) -> Self:
        """The ring of `wrap_for`; `previous` as the ring of that moment gave it.

        Raises WrongKey where `sealed` is not for `identity`, DamagedFrame where anything was altered.
        """
        plaintext = identity.unwrap(_MEMBER + volume_id + context, sealed)
        if len(plaintext) != _WRAPPED.size:
            raise DamagedFrame(reason="a wrapped key has the wrong size")
        secret, epoch, master = _WRAPPED.unpack(plaintext)
        if epoch <= len(previous):
            raise DamagedFrame(reason="there are keys of more epochs than there were")
        masters = {epoch: master}
        for older in range(epoch - 1, epoch - 1 - len(previous), -1):
            if older not in previous:
                raise DamagedFrame(reason=f"the key of epoch {older} is missing")
            opened = open_frame(
                Xaes(_derive(masters[older + 1], volume_id, Purpose.MASTER.value)),
                FrameType.DESCRIPTOR,
                volume_id,
                _EPOCH.pack(older),
                previous[older],
                suites=suites,
            )
            if len(opened.payload) != KEY_SIZE:
                raise DamagedFrame(reason=f"the key of epoch {older} is too short")
            masters[older] = bytes(opened.payload)
        return cls(volume_id, secret, masters, suites=suites, random=random)
