"""Records and what signs and seals them: the round trip, and everything that is refused by name."""

import hashlib
import random

import msgspec
import pytest
import zstandard

from infinitfs.errors import DamagedObject
from infinitfs.keys.frame import FrameType
from infinitfs.keys.identity import Identity, PublicIdentity
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.volume.journal import (
    JOURNAL,
    START,
    Kind,
    Owner,
    Record,
    describe_owner,
    object_hash,
    open_record,
    seal_record,
)
from infinitfs.volume.signed import Form
from tests.support.randomness import seeded

RING = KeyRing.generate(seeded(b"ring"))
ALICE = Identity.generate(seeded(b"alice"))
EVE = Identity.generate(seeded(b"eve"))
OWNER = Owner(
    state="5a" * 16, user="alice", host="laptop", mountpoint="/home/alice/drive", since="2026-01-01T00:00:00Z"
)
POSITION = 42
KEY = JOURNAL.key(RING.volume_id.hex(), POSITION)


def members(sign: bytes) -> PublicIdentity | None:
    return ALICE.public if sign == ALICE.public.sign else None


def make_record(**changes: object) -> Record:
    record = Record(
        volume=RING.volume_id,
        position=POSITION,
        previous=b"\x01" * 32,
        kind=Kind.CHANGES,
        owner=OWNER,
        time="2026-01-01T00:00:05Z",
        changesets=[b"one" * 50, b"", random.Random(1).randbytes(100)],
    )
    return msgspec.structs.replace(record, **changes)


def refused(data: bytes, position: int = POSITION, ring: KeyRing = RING) -> str:
    """Why; the object is called by its name."""
    with pytest.raises(DamagedObject) as caught:
        open_record(ring, members, position, data)
    assert caught.value.fields["key"] == JOURNAL.key(ring.volume_id.hex(), position)
    return caught.value.fields["reason"]


@pytest.mark.parametrize("kind", Kind)
def test_a_record_comes_back_as_it_was(kind: Kind) -> None:
    record = make_record(kind=kind)
    assert open_record(RING, members, POSITION, seal_record(RING, ALICE, record)) == record


def test_every_flipped_byte_is_refused_by_name() -> None:
    data = seal_record(RING, ALICE, make_record())
    for at in range(len(data)):
        refused(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])


def test_a_record_cut_short_or_continued_is_refused() -> None:
    data = seal_record(RING, ALICE, make_record())
    for length in (0, 1, 39, 40, len(data) - 1):
        refused(data[:length])
    refused(data + b"\0")


def test_a_record_under_another_number_is_refused() -> None:
    data = seal_record(RING, ALICE, make_record())
    refused(data, POSITION + 1)
    refused(data, POSITION - 1)


def test_a_record_of_another_volume_is_refused() -> None:
    data = seal_record(RING, ALICE, make_record())
    refused(data, ring=KeyRing.generate(seeded(b"other")))


def test_who_has_the_keys_but_is_no_member_cannot_write_a_record() -> None:
    assert "not a member" in refused(seal_record(RING, EVE, make_record()))


def test_a_signature_counts_for_its_own_place_only() -> None:
    """A member's signature lifted from another record or another kind of object, sealed anew by someone else."""
    body = msgspec.msgpack.encode(make_record())
    place = f"journal/{POSITION:016x}".encode()
    for signed in (b"journal/%016x" % (POSITION + 1), b"checkpoints/%016x" % POSITION):
        envelope = msgspec.msgpack.encode([body, ALICE.public.sign, ALICE.sign(signed, body)])
        payload = zstandard.ZstdCompressor().compress(envelope)
        sealed = RING.seal(Purpose.JOURNAL, FrameType.RECORD, place, payload, compressed=True)
        refused(bytes(sealed))


def test_a_frame_of_another_purpose_or_type_is_refused() -> None:
    body = msgspec.msgpack.encode(make_record())
    refused(Form(Purpose.METADATA, FrameType.RECORD, "journal").seal(RING, ALICE, POSITION, body))
    refused(Form(Purpose.JOURNAL, FrameType.MANIFEST, "journal").seal(RING, ALICE, POSITION, body))
    refused(Form(Purpose.JOURNAL, FrameType.RECORD, "checkpoints").seal(RING, ALICE, POSITION, body))


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", msgspec.msgpack.encode([1, 2, 3]), msgspec.msgpack.encode({"volume": 1})],
    ids=["empty", "no msgpack", "another array", "a map"],
)
def test_a_member_s_record_of_another_form_is_refused(body: bytes) -> None:
    refused(JOURNAL.seal(RING, ALICE, POSITION, body))


@pytest.mark.parametrize("payload", [b"", b"no zstd", zstandard.compress(b"no envelope"), zstandard.compress(b"\x93")])
def test_a_frame_that_holds_no_envelope_is_refused(payload: bytes) -> None:
    place = f"journal/{POSITION:016x}".encode()
    refused(bytes(RING.seal(Purpose.JOURNAL, FrameType.RECORD, place, payload, compressed=True)))


def test_a_record_that_names_another_place_than_its_own_is_refused() -> None:
    for record in (make_record(position=POSITION + 1), make_record(volume=bytes(16))):
        body = msgspec.msgpack.encode(record)
        assert "another place" in refused(JOURNAL.seal(RING, ALICE, POSITION, body))


def test_nothing_of_a_record_can_be_read_without_the_key() -> None:
    data = seal_record(RING, ALICE, make_record(changesets=[b"a-file-name.txt" * 3]))
    for secret in (b"a-file-name", b"alice", b"laptop", b"drive", b"2026", RING.volume_id, ALICE.public.sign):
        assert secret not in data


def test_the_chain_is_of_sealed_objects_from_a_fixed_start() -> None:
    data = seal_record(RING, ALICE, make_record())
    again = seal_record(RING, ALICE, make_record())
    assert not any(START)
    assert object_hash(data) == hashlib.sha256(data).digest()
    assert object_hash(data) != object_hash(again), "sealing draws a nonce: only the same bytes are the same record"


def test_who_wrote_a_record_for_a_message() -> None:
    data = seal_record(RING, ALICE, make_record())
    assert describe_owner(RING, members, POSITION, data) == "alice on laptop at /home/alice/drive"
    with pytest.raises(DamagedObject, match="journal/"):
        describe_owner(RING, members, POSITION + 1, data)


def test_keys_sort_as_positions_do_and_lead_back_to_them() -> None:
    positions = [0, 1, 9, 10, 255, 256, 2**32, 2**63]
    keys = [JOURNAL.key("00" * 16, position) for position in positions]
    assert keys == sorted(keys)
    assert [JOURNAL.position(key) for key in keys] == positions


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1",
        "+000000000000001",
        "0x00000000000001",
        "0000_0000_0000_1",
        " 00000000000001 ",
        "000000000000000G",
        "A" * 16,
    ],
)
def test_a_name_that_no_position_has_is_not_one(name: str) -> None:
    assert JOURNAL.position(f"{'00' * 16}/journal/{name}") is None
