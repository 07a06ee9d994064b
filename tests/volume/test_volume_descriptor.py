"""The descriptor: who opens it, what is refused, and what it gives away."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitfs.errors import DamagedObject, NotMember
from infinitfs.keys.frame import FrameType
from infinitfs.keys.identity import Identity
from infinitfs.keys.ring import KeyRing, Purpose
from infinitfs.volume.descriptor import (
    Member,
    OpenedVolume,
    Parameters,
    create_descriptor,
    descriptor_key,
    open_descriptor,
    seal_descriptor,
)
from tests.support.randomness import seeded

ALICE = Identity.generate(seeded(b"alice"))
BOB = Identity.generate(seeded(b"bob"))
EVE = Identity.generate(seeded(b"eve"))
NOW = "2024-05-01T12:00:00Z"
PARAMETERS = Parameters(cutting="fixed", target=2 << 20)


def create() -> tuple[bytes, KeyRing]:
    return create_descriptor("photos", ALICE, "alice", PARAMETERS, seeded(b"volume"), created=NOW)


def open_as(data: bytes, identity: Identity, **expected: Any) -> OpenedVolume:
    return open_descriptor(data, identity, **{"key": None, "user_name": "somebody", **expected})


def resign(data: bytes, signer: Identity, **changes: object) -> bytes:
    """`data` with fields of its body changed, signed by `signer`."""
    outer = msgspec.msgpack.decode(data)
    body = msgspec.msgpack.encode({**msgspec.msgpack.decode(outer["body"]), **changes})
    return msgspec.msgpack.encode({"format": 1, "body": body, "signature": signer.sign(b"volume descriptor 1", body)})


def test_the_creator_opens_it() -> None:
    data, ring = create()
    key = descriptor_key(ring.volume_id, 1)
    opened = open_as(data, ALICE, key=key, expected_volume=ring.volume_id, expected_owner=ALICE.public)
    assert (opened.name, opened.user_name, opened.version, opened.created) == ("photos", "alice", 1, NOW)
    assert (opened.volume_id, opened.owner, opened.parameters) == (ring.volume_id, ALICE.public, PARAMETERS)
    frame = ring.seal(Purpose.DATA, FrameType.BLOCK, b"id", b"payload")
    assert bytes(opened.ring.open(Purpose.DATA, FrameType.BLOCK, b"id", frame).payload) == b"payload"
    assert opened.ring.gear() == ring.gear()


def test_object_key() -> None:
    assert descriptor_key(bytes(range(16)), 26) == ("000102030405060708090a0b0c0d0e0f/descriptor/000000000000001a")


def test_no_name_can_be_read() -> None:
    ring = KeyRing.generate(seeded(b"volume"))
    members = [Member("alice-liddell", ALICE.public), Member("bob-the-builder", BOB.public)]
    data = seal_descriptor(ring, "holiday-photos", ALICE, members, PARAMETERS, version=1, created=NOW)
    for name in (b"alice", b"liddell", b"bob", b"builder", b"holiday", b"photos"):
        assert name not in data
    for public in (BOB.public.sign, BOB.public.box):
        assert public not in data


def test_members_and_epochs() -> None:
    data, ring = create()
    old = ring.seal(Purpose.METADATA, FrameType.RECORD, b"id", b"old")
    renewed = ring.next_epoch().next_epoch()
    members = [Member("alice", ALICE.public), Member("bob", BOB.public)]
    data = seal_descriptor(renewed, "photos", ALICE, members, PARAMETERS, version=2, created=NOW)
    opened = open_as(data, BOB, key=descriptor_key(ring.volume_id, 2))
    assert (opened.name, opened.user_name, opened.version, opened.owner) == ("photos", "bob", 2, ALICE.public)
    assert opened.ring.epoch == 3
    assert bytes(opened.ring.open(Purpose.METADATA, FrameType.RECORD, b"id", old).payload) == b"old"
    assert open_as(data, ALICE).user_name == "alice"
    assert opened.members == tuple(members)
    assert opened.member(ALICE.public.sign) == ALICE.public
    assert opened.member(EVE.public.sign) is None


def test_a_stranger_is_told_so() -> None:
    data, ring = create()
    with pytest.raises(NotMember, match=f'"bob" is not a member of the volume {ring.volume_id.hex()}'):
        open_as(data, BOB, user_name="bob")


def test_every_altered_byte_is_noticed() -> None:
    data, _ = create()
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        with pytest.raises(DamagedObject):
            open_as(bytes(altered), ALICE)
    for end in range(0, len(data), 7):
        with pytest.raises(DamagedObject):
            open_as(data[:end], ALICE)


@given(st.binary(max_size=100))
def test_noise_is_no_descriptor(noise: bytes) -> None:
    with pytest.raises(DamagedObject, match='"here"'):
        open_as(noise, ALICE, key="here")


def test_a_bottomless_object_is_no_descriptor() -> None:
    with pytest.raises(DamagedObject):
        open_as(b"\x81\xa4more" + b"\x91" * 200_000, ALICE)


def test_another_signer_is_refused() -> None:
    data, _ = create()
    with pytest.raises(DamagedObject, match="signature"):
        open_as(resign(data, EVE), ALICE)


def test_an_owner_cannot_be_exchanged() -> None:
    """Who knows a member can sign a descriptor of one's own for the same volume: the expected owner tells."""
    data, ring = create()
    forged = seal_descriptor(
        KeyRing(ring.volume_id, bytes(32), {1: bytes(32)}),
        "photos",
        EVE,
        [Member("alice", ALICE.public)],
        PARAMETERS,
        version=2,
        created=NOW,
    )
    assert open_as(forged, ALICE).owner == EVE.public
    with pytest.raises(DamagedObject, match="another owner"):
        open_as(forged, ALICE, expected_owner=ALICE.public)
    # Nor can keys that the owner sealed be shown under another owner's signature.
    moved = resign(data, EVE, sign=EVE.public.sign, box=EVE.public.box)
    with pytest.raises(DamagedObject, match="does not open"):
        open_as(moved, ALICE)


def test_another_volume_or_version_is_refused() -> None:
    data, ring = create()
    with pytest.raises(DamagedObject, match="it is of the volume"):
        open_as(data, ALICE, expected_volume=bytes(16))
    for key in (descriptor_key(ring.volume_id, 2), descriptor_key(bytes(16), 1)):
        with pytest.raises(DamagedObject, match="it is version 1 of the volume"):
            open_as(data, ALICE, key=key)


def test_another_format_is_refused() -> None:
    later = msgspec.msgpack.encode({"format": 2, "what": "ever"})
    with pytest.raises(DamagedObject, match="format 2 is unknown"):
        open_as(later, ALICE)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"suites": [200]}, "no cipher suite"),
        ({"suites": []}, "no cipher suite"),
        ({"volume": bytes(15)}, "volume"),
        ({"version": 0}, "version"),
        ({"more": 1}, "more"),
        ({"previous": {1: b"x"}}, "more epochs"),
        ({"members": [{"hint": b"x", "sealed": b"y", "name": "z"}]}, "name"),
        ({"parameters": {"cutting": "other"}}, "cutting"),
        ({"parameters": {"minimum": 1}}, "block sizes"),
        ({"parameters": {"maximum": 1 << 40}}, "block sizes"),
        ({"parameters": {"pack": 1 << 40}}, "pack"),
        ({"parameters": {"zeros": 0}}, "zeros"),
    ],
)
def test_a_malformed_body_is_refused_though_signed(changes: dict[str, object], reason: str) -> None:
    data, _ = create()
    with pytest.raises(DamagedObject, match=reason):
        open_as(resign(data, ALICE, **changes), ALICE)


def test_the_roster_is_the_one_of_this_volume_and_its_members() -> None:
    data, ring = create()
    sealed = seal_descriptor(ring, "photos", ALICE, [Member("bob", BOB.public)], PARAMETERS, version=2, created=NOW)
    other = msgspec.msgpack.decode(msgspec.msgpack.decode(sealed)["body"])["roster"]
    with pytest.raises(DamagedObject, match="lacks one of them"):
        open_as(resign(data, ALICE, roster=other), ALICE)
    elsewhere = ring.seal(Purpose.METADATA, FrameType.DESCRIPTOR, b"elsewhere", b"")
    with pytest.raises(DamagedObject, match="does not open"):
        open_as(resign(data, ALICE, roster=elsewhere), ALICE)


def test_the_suites_are_those_of_the_descriptor() -> None:
    data, _ = create()
    opened = open_as(resign(data, ALICE, suites=[1, 200]), ALICE)
    frame = opened.ring.seal(Purpose.DATA, FrameType.BLOCK, b"id", b"payload")
    assert bytes(opened.ring.open(Purpose.DATA, FrameType.BLOCK, b"id", frame).payload) == b"payload"


def test_default_parameters_are_the_documented_ones() -> None:
    assert msgspec.to_builtins(Parameters()) == {
        "cutting": "content",
        "minimum": 262144,
        "target": 1048576,
        "maximum": 4194304,
        "zeros": 32768,
        "pack": 8388608,
    }


GOLDEN = (
    "83a6666f726d617401a4626f6479c5024a8aa6766f6c756d65c4104bc3dcd8a161cf7d44cd9874d53481f5a776657273696f"
    "6e01a47369676ec42049c7395382de3d56293661fb4f7c7cc9891101c1e7ca95d55c5437371ae37717a3626f78c4205301c5"
    "15c2542ba4e9daa26a6a4f8360cb9d0c5ccb11a3e663e83702ced42278a76d656d626572739182a468696e74c410f6c9cab5"
    "9865fabce1e00afecb947a8aa67365616c6564c4745b85ae3fb5f073fd7a356f726e5e3eab6bef9d0420e246dce7f89bd04f"
    "81db633c2d59c0ee6f7ac688a6f7ae1bdd51fbf05fe085e8a0a18cf96a75bb3b16ba41f7426a2300a47493b749a2ff7134b3"
    "e86bd9175354df48638669fa8222fbc832f371992527c0dd26931320e6651160cf851653a5a870726576696f757380a6726f"
    "73746572c4b0494e46460101060001000000780000007ef38c5c78529e55db40fc3b99c64689593edc553b5dea314af4a042"
    "53c85f8a33669045b488b753791e2432e771d8bf52586d2c966e4b9a1eabfe427f42c214c7f0850b0486a6e2a1d497a5a445"
    "9bad974caa7deb558579be9ba42223384e8e86e6e1030e43939b7de91a2de775dfffa5b6d9ed3f39a736d8d2c41e2ded7d18"
    "b8a8c8d92733f5a4dc46436d72e8c6e44202e9c0dcab947edfb0ec5d4ebdcfb7aa706172616d657465727386a76375747469"
    "6e67a56669786564a76d696e696d756dce00040000a6746172676574ce00200000a76d6178696d756dce00400000a57a6572"
    "6f73cd8000a47061636bce00800000a67375697465739101a763726561746564b4323032342d30352d30315431323a30303a"
    "30305aa97369676e6174757265c4407798a87aad03ba2413f27995123a4955c515dd54b709d0f1f6f30b8b1306d51f904479"
    "d02ce5a79a40c1982de1e917e626f400789da0b73fd111838bfb105c0e"
)
"""A descriptor as version 1 wrote it; sealing draws from the system, so only its opening is fixed."""


def test_golden_descriptor() -> None:
    opened = open_as(bytes.fromhex(GOLDEN), ALICE, expected_owner=ALICE.public)
    assert (opened.name, opened.user_name, opened.version) == ("photos", "alice", 1)
    assert opened.ring.database_key() == create()[1].database_key()
    assert opened.parameters == PARAMETERS
