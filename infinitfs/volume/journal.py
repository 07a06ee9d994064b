"""The journal's record: its form, its seal, its chain.

An object `journal/<position, 16 hex digits>` is signed and sealed as `signed` states, under the journal key; its body
is a msgpack array of the fields of `Record`.

Above: `publisher` seals records, `opening` reads them. Below: `signed`. A core without I/O.
Invariant: a record names the hash of the object before it, so the history is one chain; it is signed by a member, so
who has the volume's storage but no member's key cannot add to it; it is sealed once, and every retry sends the same
bytes. A record of changes holds the changesets of whole transactions, in order.
"""

import hashlib
from enum import StrEnum

import msgspec

from infinitfs.errors import DamagedObject
from infinitfs.keys.frame import FrameType
from infinitfs.keys.identity import Identity
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.volume.signed import Form, Members

JOURNAL = Form(Purpose.JOURNAL, FrameType.RECORD, "journal")

START = bytes(32)
"""The hash before the first record."""


class Kind(StrEnum):
    CHANGES = "changes"
    CLAIM = "claim"
    RELEASE = "release"


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Who writes: `state` is random and stays with one state folder; the rest is for people. `since` is RFC 3339."""

    state: str
    user: str
    host: str
    mountpoint: str
    since: str


class Record(msgspec.Struct, frozen=True, array_like=True):
    volume: bytes
    position: int
    previous: bytes
    kind: Kind
    owner: Owner
    time: str
    changesets: list[bytes]


def object_hash(data: bytes) -> bytes:
    """What the next record calls this one: SHA-256 of the sealed object."""
    return hashlib.sha256(data).digest()


def seal_record(ring: KeyRing, identity: Identity, record: Record) -> bytes:
    return JOURNAL.seal(ring, identity, record.position, msgspec.msgpack.encode(record))


def describe_owner(ring: KeyRing, members: Members, position: int, data: bytes) -> str:
    """Who wrote a record, for a message. Raises DamagedObject by name: what does not open says nothing of owners."""
    owner = open_record(ring, members, position, data).owner
    return f"{owner.user} on {owner.host} at {owner.mountpoint}"


def open_record(ring: KeyRing, members: Members, position: int, data: bytes) -> Record:
    """The record of an object. Raises DamagedObject by name."""
    body = JOURNAL.open(ring, members, position, data)
    key = JOURNAL.key(ring.volume_id.hex(), position)
    try:
        record = msgspec.msgpack.decode(body, type=Record)
    except msgspec.MsgspecError as error:
        raise DamagedObject(key=key, reason=str(error)) from None
    if record.position != position or record.volume != ring.volume_id:
        raise DamagedObject(key=key, reason="it is the record of another place")
    return record
