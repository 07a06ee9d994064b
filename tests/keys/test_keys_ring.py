"""The key ring: derivations, epochs, wrapping, and the values that must never change."""

import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from infinitfs.errors import DamagedFrame, WrongKey
from infinitfs.keys.frame import HEADER_SIZE, SEGMENT_SIZE, FrameType, open_frame, segment_span
from infinitfs.keys.identity import Identity
from infinitfs.keys.ring import GEAR_SIZE, KeyRing, Purpose
from infinitfs.keys.xaes import TAG_SIZE, Xaes
from tests.support.randomness import seeded

VOLUME = bytes(range(16))
SECRET = bytes(range(32))
MASTER = bytes(range(50, 82))


def fixed_ring() -> KeyRing:
    return KeyRing(VOLUME, SECRET, {1: MASTER}, random=seeded(b"ring"))


def second_hkdf(key: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 of RFC 5869 for one block of output, from HMAC alone."""
    extracted = hmac.digest(VOLUME, key, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


@given(st.binary(max_size=500), st.sampled_from([p for p in Purpose if p is not Purpose.DATABASE]))
def test_round_trip(payload: bytes, purpose: Purpose) -> None:
    ring = fixed_ring()
    frame = ring.seal(purpose, FrameType.BLOCK, b"id", payload, compressed=True)
    opened = ring.open(purpose, FrameType.BLOCK, b"id", frame)
    assert (bytes(opened.payload), opened.compressed, opened.epoch) == (payload, True, 1)
    cipher = Xaes(second_hkdf(MASTER, b"infinitfs 1 " + purpose.value))
    assert bytes(open_frame(cipher, FrameType.BLOCK, VOLUME, b"id", frame).payload) == payload


def test_derived_keys_equal_the_second_implementation() -> None:
    ring = fixed_ring()
    assert ring.database_key() == second_hkdf(MASTER, b"infinitfs 1 database")
    key = second_hkdf(SECRET, b"infinitfs 1 block id")
    assert ring.block_id(b"content") == blake3(b"content", key=key).digest()
    key = second_hkdf(SECRET, b"infinitfs 1 digest")
    assert ring.digest(b"content") == blake3(b"content", key=key).digest()
    key = second_hkdf(SECRET, b"infinitfs 1 gear")
    assert ring.gear() == blake3(b"", key=key).digest(length=GEAR_SIZE)


def test_golden_values() -> None:
    """A change of one of these loses every volume's deduplication, database or content."""
    ring = fixed_ring()
    assert ring.block_id(b"content").hex() == "3b9e8504b62ef5b23c7642b4853a2bb307683d375fc0165c5fe04c764f660e51"
    assert ring.digest(b"content").hex() == "80a5be9671bb0e1eadf4e62eec74de2ab98c19736ea1e400c4125e9ff6b752a7"
    assert hashlib.sha256(ring.gear()).hexdigest() == "f3929d6ec2e3128e246c62af8c7fe6b8dab100d842b69aa01f949de8119b07e7"
    assert ring.database_key().hex() == "d06d727f5dd5521b81665be828e6dc95b58314e13be8fbab8e3314983e789734"
    frame = ring.seal(Purpose.DATA, FrameType.BLOCK, b"id", b"payload")
    assert hashlib.sha256(frame).hexdigest() == "fdf674855c03fd17408a38e9a005b40421e945dcdc362d61d107bdb3a2165e19"


def test_purposes_do_not_open_each_other() -> None:
    ring = fixed_ring()
    frame = ring.seal(Purpose.DATA, FrameType.RECORD, b"id", b"payload")
    for purpose in (Purpose.METADATA, Purpose.JOURNAL, Purpose.MASTER, Purpose.DATABASE):
        with pytest.raises(DamagedFrame):
            ring.open(purpose, FrameType.RECORD, b"id", frame)


def test_other_volumes_share_nothing() -> None:
    ring, other = fixed_ring(), KeyRing(bytes(16), SECRET, {1: MASTER})
    frame = ring.seal(Purpose.DATA, FrameType.BLOCK, b"id", b"payload")
    with pytest.raises(DamagedFrame):
        other.open(Purpose.DATA, FrameType.BLOCK, b"id", frame)
    assert ring.block_id(b"x") != other.block_id(b"x")
    assert ring.gear() != other.gear()
    assert ring.database_key() != other.database_key()
    assert ring.block_id(b"x") != ring.digest(b"x")


def test_epochs() -> None:
    first = fixed_ring()
    old = first.seal(Purpose.DATA, FrameType.BLOCK, b"id", b"old")
    second = first.next_epoch()
    new = second.seal(Purpose.DATA, FrameType.BLOCK, b"id", b"new")
    assert (first.epoch, second.epoch) == (1, 2)
    assert bytes(second.open(Purpose.DATA, FrameType.BLOCK, b"id", old).payload) == b"old"
    assert second.open(Purpose.DATA, FrameType.BLOCK, b"id", new).epoch == 2
    with pytest.raises(DamagedFrame, match="epoch 2"):
        first.open(Purpose.DATA, FrameType.BLOCK, b"id", new)
    assert second.block_id(b"x") == first.block_id(b"x")
    assert second.gear() == first.gear()
    assert second.database_key(1) == first.database_key() != second.database_key()


def test_a_suite_that_the_volume_does_not_allow_is_refused() -> None:
    ring = KeyRing(VOLUME, SECRET, {1: MASTER}, suites={2})
    frame = fixed_ring().seal(Purpose.DATA, FrameType.BLOCK, b"id", b"payload")
    with pytest.raises(DamagedFrame, match="suite 1 is not allowed"):
        ring.open(Purpose.DATA, FrameType.BLOCK, b"id", frame)


def test_segments_only_where_the_volume_allows_them() -> None:
    ring = fixed_ring()
    frame = ring.seal(Purpose.DATA, FrameType.BLOCK, b"id", bytes(100_000), segmented=True)
    assert frame[5] == 3 and bytes(ring.open(Purpose.DATA, FrameType.BLOCK, b"id", frame).payload) == bytes(100_000)
    span = segment_span(len(frame), 1)
    header, sealed = frame[:HEADER_SIZE], frame[span[0] : sum(span)]
    opened = bytearray(len(sealed) - TAG_SIZE)
    ring.next_epoch().open_segments(Purpose.DATA, FrameType.BLOCK, b"id", header).open_into(1, sealed, opened)
    assert bytes(opened) == bytes(SEGMENT_SIZE)
    with pytest.raises(DamagedFrame):
        ring.open_segments(Purpose.METADATA, FrameType.BLOCK, b"id", header).open_into(1, sealed, opened)
    older = KeyRing(VOLUME, SECRET, {1: MASTER}, suites={1, 2})
    assert older.seal(Purpose.DATA, FrameType.BLOCK, b"id", bytes(100_000), segmented=True)[5] == 1
    with pytest.raises(DamagedFrame, match="suite 3 is not allowed"):
        older.open(Purpose.DATA, FrameType.BLOCK, b"id", frame)


def test_nonces_are_fresh() -> None:
    ring = KeyRing.generate()
    frames = {bytes(ring.seal(Purpose.DATA, FrameType.BLOCK, b"id", b"same")) for _ in range(20)}
    assert len({frame[16:40] for frame in frames}) == 20


def test_malformed_rings_are_refused() -> None:
    for volume, secret, masters in (
        (VOLUME[:-1], SECRET, {1: MASTER}),
        (VOLUME, SECRET[:-1], {1: MASTER}),
        (VOLUME, SECRET, {1: MASTER + b"x"}),
        (VOLUME, SECRET, {}),
        (VOLUME, SECRET, {0: MASTER}),
        (VOLUME, SECRET, {1: MASTER, 3: MASTER}),
    ):
        with pytest.raises(ValueError):
            KeyRing(volume, secret, masters)


def test_wrap_gives_a_member_every_epoch() -> None:
    member = Identity.generate(seeded(b"member"))
    ring = fixed_ring().next_epoch().next_epoch()
    old = fixed_ring().seal(Purpose.DATA, FrameType.BLOCK, b"id", b"old")
    sealed = ring.wrap_for(member.public, b"owner")
    unwrapped = KeyRing.unwrap(member, VOLUME, sealed, ring.previous(), b"owner")
    assert (unwrapped.epoch, unwrapped.volume_id) == (3, VOLUME)
    assert bytes(unwrapped.open(Purpose.DATA, FrameType.BLOCK, b"id", old).payload) == b"old"
    assert unwrapped.gear() == ring.gear()
    for epoch in (1, 2, 3):
        assert unwrapped.database_key(epoch) == ring.database_key(epoch)


def test_wrapped_keys_open_for_their_member_volume_and_context_only() -> None:
    member, other = Identity.generate(seeded(b"member")), Identity.generate(seeded(b"other"))
    sealed = fixed_ring().wrap_for(member.public, b"owner")
    for identity, volume, context in (
        (other, VOLUME, b"owner"),
        (member, bytes(16), b"owner"),
        (member, VOLUME, b"other"),
    ):
        with pytest.raises(WrongKey):
            KeyRing.unwrap(identity, volume, sealed, {}, context)


def test_previous_keys_cannot_be_exchanged() -> None:
    member = Identity.generate(seeded(b"member"))
    ring = fixed_ring().next_epoch().next_epoch()
    sealed, previous = ring.wrap_for(member.public), ring.previous()
    for wrong in (
        {1: previous[1]},
        {1: previous[2], 2: previous[1]},
        {1: previous[1], 2: previous[2][:-1] + bytes([previous[2][-1] ^ 1])},
        {0: previous[1], 1: previous[1], 2: previous[2]},
    ):
        with pytest.raises(DamagedFrame):
            KeyRing.unwrap(member, VOLUME, sealed, wrong)


def test_a_wrapped_key_of_the_wrong_size_is_refused() -> None:
    member = Identity.generate(seeded(b"member"))
    sealed = member.public.wrap(b"infinitfs 1 member " + VOLUME, b"short")
    with pytest.raises(DamagedFrame, match="wrong size"):
        KeyRing.unwrap(member, VOLUME, sealed, {})


def test_threads_share_a_ring() -> None:
    ring = KeyRing.generate().next_epoch()

    def many(worker: int) -> bool:
        payload = bytes([worker]) * 5000
        frames = [ring.seal(Purpose.DATA, FrameType.BLOCK, b"id", payload) for _ in range(50)]
        return all(bytes(ring.open(Purpose.DATA, FrameType.BLOCK, b"id", frame).payload) == payload for frame in frames)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))
