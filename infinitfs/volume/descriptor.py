"""The descriptor of a volume: the signed object that says whose it is, who may open it, and how it is made.

Role: makes and opens `<volume id>/descriptor/<version>`. Above: `cli/volume`, `mount/compose.py`. Below:
`keys/`.
Invariant: nothing in it can be read or believed but by who should: the names of users and of the volume are
sealed to the members, and nothing is used before the owner's signature was verified.

The object is msgpack: {format, body, signature}; `body` is msgpack of the fields of `_Body`, signed by the
owner for the purpose "volume descriptor 1". A member is {hint, sealed}: the hint, 16 bytes of BLAKE3 of the
volume id and the member's public keys, finds the entry and says nothing to who does not know the member;
`sealed` is the ring (`KeyRing.wrap_for`), bound to volume and owner. `previous` holds the older epochs'
master keys, each sealed under the next one. `roster` is a frame under the metadata key, context "members":
the volume's name, and the names and public keys of all members, so that each can verify what another signed.

Anyone can sign a descriptor with a key of his own and seal it to a known member. So who has seen the volume
before passes `expected_owner` and compares `version`; who sees it for the first time has to trust `owner`,
unless it is the user's own key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from blake3 import blake3

from infinitfs.errors import DamagedFrame, DamagedObject, IntegrityError, NotMember, WrongKey
from infinitfs.keys import RandomBytes, system_random
from infinitfs.keys.frame import MAX_PAYLOAD, SUITES, VOLUME_ID_SIZE, FrameType
from infinitfs.keys.identity import Identity, PublicIdentity
from infinitfs.keys.ring import KeyRing, Purpose

DESCRIPTORS = "descriptor"
"""The folder of a volume's descriptors in the storage."""

_FORMAT = 1
_PURPOSE = b"volume descriptor 1"
_ROSTER = b"members"
_HINT_SIZE = 16
_SMALLEST_BLOCK = 4 << 10
_LARGEST_PACK = 1 << 30
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a volume cuts and packs, fixed at its creation; sizes in bytes.

    `cutting` is by content or at fixed offsets (then only `target` counts); a run of at least `zeros` zero
    bytes becomes a hole; a pack is sent when it has reached `pack`.
    """

    cutting: Literal["content", "fixed"] = "content"
    minimum: int = 256 << 10
    target: int = 1 << 20
    maximum: int = 4 << 20
    zeros: int = 32 << 10
    pack: int = 8 << 20

    def __post_init__(self) -> None:
        if not _SMALLEST_BLOCK <= self.minimum <= self.target <= self.maximum <= MAX_PAYLOAD:
            raise ValueError("block sizes are 4 KiB <= minimum <= target <= maximum <= 64 MiB")
        if self.zeros < 1 or not 1 <= self.pack <= _LARGEST_PACK:
            raise ValueError("zeros is at least 1 byte, pack at most 1 GiB")


@dataclass(frozen=True, slots=True)
class Member:
    """Who may open a volume, and the name that the owner knows them by."""

    name: str
    public: PublicIdentity


@dataclass(frozen=True, slots=True)
class OpenedVolume:
    """A descriptor that was verified and opened by one of its `members`, whom the owner calls `user_name`.
    `created`: RFC 3339 in UTC."""

    volume_id: bytes
    name: str
    user_name: str
    ring: KeyRing
    parameters: Parameters
    owner: PublicIdentity
    members: tuple[Member, ...]
    version: int
    created: str

    def member(self, sign: bytes) -> PublicIdentity | None:
        """The member whose public signing key is `sign`, None where nobody's."""
        return next((member.public for member in self.members if member.public.sign == sign), None)


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hint: bytes
    sealed: bytes


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    volume: Annotated[bytes, msgspec.Meta(min_length=VOLUME_ID_SIZE, max_length=VOLUME_ID_SIZE)]
    version: Annotated[int, msgspec.Meta(ge=1)]
    sign: bytes
    box: bytes
    members: list[_Entry]
    previous: dict[int, bytes]
    roster: bytes
    parameters: Parameters
    suites: list[int]
    created: str


class _Signed(msgspec.Struct, frozen=True):
    format: int
    body: bytes = b""
    signature: bytes = b""


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    sign: bytes
    box: bytes


class _Roster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    volume: str
    members: list[_Named]


def descriptor_key(volume_id: bytes, version: int) -> str:
    """The key of the object, relative to the storage's folder."""
    return f"{volume_id.hex()}/{DESCRIPTORS}/{version:016x}"


def _hint(volume_id: bytes, public: PublicIdentity) -> bytes:
    return blake3(b"infinitfs 1 member hint" + volume_id + public.sign + public.box).digest(length=_HINT_SIZE)


def create_descriptor(
    name: str,
    identity: Identity,
    user_name: str,
    parameters: Parameters,
    random: RandomBytes = system_random,
    *,
    created: str,
) -> tuple[bytes, KeyRing]:
    """The descriptor, version 1, of a new volume whose owner and only member is `identity`, and its key ring.

    `created`: now, RFC 3339 in UTC.
    """
    ring = KeyRing.generate(random)
    members = [Member(user_name, identity.public)]
    return seal_descriptor(ring, name, identity, members, parameters, version=1, created=created), ring


def seal_descriptor(
    ring: KeyRing,
    name: str,
    owner: Identity,
    members: Sequence[Member],
    parameters: Parameters,
    *,
    version: int,
    created: str,
) -> bytes:
    """The descriptor `version` (from 1) of the volume of `ring`, for exactly `members`, signed by `owner`."""
    public = owner.public
    entries = [
        _Entry(_hint(ring.volume_id, member.public), ring.wrap_for(member.public, public.sign + public.box))
        for member in members
    ]
    named = [_Named(member.name, member.public.sign, member.public.box) for member in members]
    roster = msgspec.msgpack.encode(_Roster(name, named))
    body = msgspec.msgpack.encode(
        _Body(
            volume=ring.volume_id,
            version=version,
            sign=public.sign,
            box=public.box,
            members=entries,
            previous=ring.previous(),
            roster=bytes(ring.seal(Purpose.METADATA, FrameType.DESCRIPTOR, _ROSTER, roster)),
            parameters=parameters,
            suites=sorted(SUITES),
            created=created,
        )
    )
    return msgspec.msgpack.encode(_Signed(_FORMAT, body, owner.sign(_PURPOSE, body)))


def open_descriptor(
    data: bytes,
    identity: Identity,
    *,
    key: str | None,
    user_name: str,
    expected_volume: bytes | None = None,
    expected_owner: PublicIdentity | None = None,
    random: RandomBytes = system_random,
) -> OpenedVolume:
    """The volume that `data` describes, opened by its member `identity`, whom messages call `user_name`.

    `key` is that of the object, which has to be the one of its volume and version; None for a copy kept
    elsewhere. Raises NotMember; DamagedObject where it was altered, moved, made by another version of
    infinitfs, or is not of `expected_volume` or `expected_owner`.
    """
    shown = "descriptor" if key is None else key

    def damaged(reason: str) -> DamagedObject:
        return DamagedObject(key=shown, reason=reason)

    try:
        signed = msgspec.msgpack.decode(data, type=_Signed)
        if signed.format != _FORMAT:
            raise damaged(f"its format {signed.format} is unknown to this version")
        body = msgspec.msgpack.decode(signed.body, type=_Body)
    except _UNDECODABLE as error:
        raise damaged(str(error)) from None
    owner = PublicIdentity(body.sign, body.box)
    try:
        owner.verify(_PURPOSE, signed.body, signed.signature)
    except IntegrityError:
        raise damaged("its signature is not its owner's") from None
    if expected_volume is not None and body.volume != expected_volume:
        raise damaged(f"it is of the volume {body.volume.hex()}")
    if expected_owner is not None and owner != expected_owner:
        raise damaged(f"it is signed by another owner, {owner.fingerprint}")
    if key is not None and key != descriptor_key(body.volume, body.version):
        raise damaged(f"it is version {body.version} of the volume {body.volume.hex()}")
    if not SUITES.intersection(body.suites):
        raise damaged("it allows no cipher suite that this version knows")
    hint = _hint(body.volume, identity.public)
    sealed = next((entry.sealed for entry in body.members if entry.hint == hint), None)
    if sealed is None:
        raise NotMember(user=user_name, volume=body.volume.hex())
    try:
        ring = KeyRing.unwrap(
            identity,
            body.volume,
            sealed,
            body.previous,
            owner.sign + owner.box,
            suites=frozenset(body.suites),
            random=random,
        )
        opened = ring.open(Purpose.METADATA, FrameType.DESCRIPTOR, _ROSTER, body.roster)
        roster = msgspec.msgpack.decode(opened.payload, type=_Roster)
    except (WrongKey, DamagedFrame, *_UNDECODABLE) as error:
        raise damaged(str(error).rstrip(".")) from None
    members = tuple(Member(one.name, PublicIdentity(one.sign, one.box)) for one in roster.members)
    own = next((member.name for member in members if member.public == identity.public), None)
    if own is None:
        raise damaged("its list of members lacks one of them")
    return OpenedVolume(
        volume_id=body.volume,
        name=roster.volume,
        user_name=own,
        ring=ring,
        parameters=body.parameters,
        owner=owner,
        members=members,
        version=body.version,
        created=body.created,
    )
