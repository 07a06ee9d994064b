"""The frame format: round trips, tampering, bounds and fixed bytes."""

import hashlib
import random
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.errors import DamagedFrame
from infinitfs.keys import frame as frame_module
from infinitfs.keys.frame import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    SEGMENT_SIZE,
    FrameType,
    frame_size,
    open_frame,
    open_segments,
    padme,
    parse_header,
    seal_frame,
    sealed_size,
    segment_span,
)
from infinitfs.keys.xaes import TAG_SIZE, Series, Xaes

CIPHER = Xaes(bytes(range(32)))
NONCE = bytes(range(100, 124))
VOLUME = bytes(range(200, 216))


def seal(payload: bytes, context: bytes = b"id", compressed: bool = False) -> bytes:
    return bytes(seal_frame(CIPHER, FrameType.BLOCK, 7, NONCE, VOLUME, context, payload, compressed=compressed))


@given(st.binary(max_size=3000), st.binary(max_size=64), st.sampled_from(FrameType), st.booleans())
def test_round_trip(payload: bytes, context: bytes, type: FrameType, compressed: bool) -> None:
    frame = seal_frame(CIPHER, type, 7, NONCE, VOLUME, context, payload, compressed=compressed)
    opened = open_frame(CIPHER, type, VOLUME, context, frame)
    assert (bytes(opened.payload), opened.compressed, opened.epoch) == (payload, compressed, 7)
    assert frame_size(frame[:HEADER_SIZE]) == len(frame) == sealed_size(len(payload))


def test_golden_frame() -> None:
    """These bytes are stored for years: they change only with the format's number."""
    assert seal(b"payload", compressed=True).hex() == (
        "494e464601010101070000000c000000"  # magic, format, suite, type, flags, epoch, length
        "6465666768696a6b6c6d6e6f707172737475767778797a7b"  # nonce
        "c5c5de9ccbe7ca415b52a9cf"  # ciphertext
        "93b2580d466177ec9355aa59850473fb"  # tag
    )


@pytest.mark.parametrize("payload", [b"", b"payload" * 5])
def test_every_altered_byte_is_noticed(payload: bytes) -> None:
    frame = seal(payload)
    for position in range(len(frame)):
        for bit in (1, 0x80):
            altered = bytearray(frame)
            altered[position] ^= bit
            with pytest.raises(DamagedFrame):
                open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", altered)
    for end in range(len(frame)):
        with pytest.raises(DamagedFrame):
            open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame[:end])
    with pytest.raises(DamagedFrame, match="declares"):
        open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame + b"\x00")


def test_a_frame_opens_in_its_place_only() -> None:
    frame = seal(b"payload")
    with pytest.raises(DamagedFrame, match="holds a BLOCK, not a RECORD"):
        open_frame(CIPHER, FrameType.RECORD, VOLUME, b"id", frame)
    for volume, context in ((VOLUME, b"ie"), (VOLUME, b""), (bytes(16), b"id"), (VOLUME[:-1], VOLUME[-1:])):
        with pytest.raises(DamagedFrame, match="altered, moved"):
            open_frame(CIPHER, FrameType.BLOCK, volume, context, frame)
    with pytest.raises(DamagedFrame, match="altered, moved"):
        open_frame(Xaes(bytes(32)), FrameType.BLOCK, VOLUME, b"id", frame)


def test_the_suite_must_be_known_and_allowed() -> None:
    frame = bytearray(seal(b"payload"))
    with pytest.raises(DamagedFrame, match="suite 1 is not allowed"):
        open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame, suites={2})
    frame[5] = 4
    with pytest.raises(DamagedFrame, match="suite 4 is not allowed"):
        open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame, suites={1, 2, 3, 4})
    in_segments = segmented(b"payload")
    with pytest.raises(DamagedFrame, match="suite 3 is not allowed"):
        open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", in_segments, suites={1, 2})
    with pytest.raises(DamagedFrame, match="suite 3 is not allowed"):
        open_segments(CIPHER, FrameType.BLOCK, VOLUME, b"id", in_segments[:HEADER_SIZE], suites={1})


@pytest.mark.parametrize(
    ("offset", "data", "reason"),
    [
        (0, b"INFG", "does not start"),
        (4, b"\x02", "format 2"),
        (6, b"\x00", "type 0"),
        (6, b"\x08", "type 8"),
        (7, b"\x02", "flags 0x2"),
        (12, struct.pack("<I", 3), "declares 3 bytes"),
        (12, struct.pack("<I", padme(MAX_PAYLOAD + 4) + 1), "declares"),
        (12, b"\xff" * 4, "declares 4294967295 bytes"),
    ],
)
def test_the_header_is_checked_before_anything_is_fetched(offset: int, data: bytes, reason: str) -> None:
    header = bytearray(seal(b"payload")[:HEADER_SIZE])
    header[offset : offset + len(data)] = data
    with pytest.raises(DamagedFrame, match=reason):
        frame_size(header)


@given(st.binary(max_size=80))
def test_noise_is_no_frame(noise: bytes) -> None:
    with pytest.raises(DamagedFrame):
        open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", noise)


def test_the_largest_declared_size_is_bounded() -> None:
    header = bytearray(seal(b"")[:HEADER_SIZE])
    header[12:16] = struct.pack("<I", padme(MAX_PAYLOAD + 4))
    assert frame_size(header) <= HEADER_SIZE + TAG_SIZE + MAX_PAYLOAD * 1.12
    with pytest.raises(ValueError, match="at most"):
        seal_frame(CIPHER, FrameType.BLOCK, 1, NONCE, VOLUME, b"", bytes(MAX_PAYLOAD + 1))


def test_padding_is_the_one_of_the_payload() -> None:
    """A well authenticated frame with another padding or length is refused too."""
    for plaintext in (struct.pack("<I", 1) + bytes(40), struct.pack("<I", 100), b"\xff" * 8):
        header = seal(b"")[:12] + struct.pack("<I", len(plaintext)) + NONCE
        frame = header + CIPHER.seal(NONCE, plaintext, header + VOLUME + b"id")
        with pytest.raises(DamagedFrame, match="padding"):
            open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame)


def test_padding_is_zeros() -> None:
    frame = seal(b"x" * 1000)
    header = parse_header(frame)
    plaintext = CIPHER.open(NONCE, frame[HEADER_SIZE:], frame[:HEADER_SIZE] + VOLUME + b"id")
    assert header.length == len(plaintext) == 1024
    assert plaintext == struct.pack("<I", 1000) + b"x" * 1000 + bytes(20)


def test_padme_as_published() -> None:
    """Sizes by hand from the definition: E = floor(log2 L), S = floor(log2 E) + 1, E - S bits are zero."""
    assert [padme(length) for length in (4, 8, 9, 16, 17, 100, 1004)] == [4, 8, 10, 16, 18, 104, 1024]
    assert padme((1 << 20) + 4) == (1 << 20) + (1 << 15)


@given(st.integers(min_value=2, max_value=1 << 27))
def test_padme_holds_its_bounds(length: int) -> None:
    padded = padme(length)
    assert length <= padded <= length * 1.12
    assert padme(padded) == padded


# --- frames in segments ---

LENGTHS = st.integers(0, 300_000) | st.builds(
    lambda segments, more: max(segments * SEGMENT_SIZE + more, 0), st.integers(0, 4), st.integers(-20, 20)
)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("size", [0, 1, 100, 65_000, SEGMENT_SIZE - 4, SEGMENT_SIZE, SEGMENT_SIZE + 1, 300_000])
def test_nothing_that_memory_held_before_gets_into_a_frame(
    monkeypatch: pytest.MonkeyPatch, size: int, segments: bool
) -> None:
    frames = []
    for before in (b"\xaa", b"\x55"):
        monkeypatch.setattr(frame_module, "room", lambda size, before=before: bytearray(before * size))
        frames.append(seal_frame(CIPHER, FrameType.BLOCK, 7, NONCE, VOLUME, b"id", noise(size), segmented=segments))
    assert frames[0] == frames[1]


def segmented(payload: bytes, context: bytes = b"id", compressed: bool = False, nonce: bytes = NONCE) -> bytes:
    frame = seal_frame(
        CIPHER, FrameType.BLOCK, 7, nonce, VOLUME, context, payload, compressed=compressed, segmented=True
    )
    return bytes(frame)


def sealed_segment(frame: bytes, number: int) -> bytes:
    offset, length = segment_span(len(frame), number)
    return frame[offset : offset + length]


def open_one(frame: bytes, number: int, sealed: bytes, context: bytes = b"id") -> bytes:
    header = frame[:HEADER_SIZE]
    opened = bytearray(max(len(sealed) - TAG_SIZE, 0))
    open_segments(CIPHER, FrameType.BLOCK, VOLUME, context, header).open_into(number, sealed, opened)
    return bytes(opened)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(LENGTHS, st.booleans())
def test_round_trip_in_segments(size: int, compressed: bool) -> None:
    payload = noise(size)
    frame = segmented(payload, compressed=compressed)
    opened = open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame)
    assert (bytes(opened.payload), opened.compressed, opened.epoch) == (payload, compressed, 7)
    assert frame_size(frame[:HEADER_SIZE]) == len(frame) == sealed_size(size, segmented=True)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(LENGTHS)
def test_each_segment_opens_alone(size: int) -> None:
    payload = noise(size)
    frame = segmented(payload)
    parts = [open_one(frame, n, sealed_segment(frame, n)) for n in range(-(-padme(size + 4) // SEGMENT_SIZE))]
    zeros = bytes(padme(size + 4) - size - 4)
    assert b"".join(parts) == payload + zeros + struct.pack("<I", size)
    assert {len(part) for part in parts[:-1]} <= {SEGMENT_SIZE}


def test_golden_frame_in_segments() -> None:
    """Of a whole segment and a short one; they change only with the suite's number."""
    frame = segmented(b"p" * SEGMENT_SIZE)
    assert frame[:16].hex() == "494e4646010301000700000000880000"
    assert sealed_segment(frame, 0)[:16].hex() == "b2b5aeeccbf6c35d4443bdbf7e14d070"
    assert hashlib.sha256(frame).hexdigest() == "357833f439aeabee9b07b4f1d71edb3f4fa2df126d92c6d9c92d2847be87aaf7"


LARGE = 64 << 10


def in_large_segments(payload: bytes) -> bytes:
    """A frame of suite 2, by hand."""
    length = padme(len(payload) + 4)
    plaintext = payload + bytes(length - len(payload) - 4) + struct.pack("<I", len(payload))
    header = struct.pack("<4sBBBBII", b"INFF", 1, 2, FrameType.BLOCK, 0, 7, length) + NONCE
    key, start = AESGCM(CIPHER.message_key(NONCE)), int.from_bytes(NONCE[12:], "big")
    segments = (
        key.encrypt((start ^ n).to_bytes(12, "big"), plaintext[n * LARGE :][:LARGE], header + VOLUME + b"id")
        for n in range(-(-length // LARGE))
    )
    return header + b"".join(segments)


def test_frames_of_earlier_versions_open() -> None:
    frame = in_large_segments(b"p" * LARGE)
    assert hashlib.sha256(frame).hexdigest() == "c087c9512a0d4a8b153829f68e75fb428fe1eee1a3075064a2a1ba65b4762c95"
    for size in (0, 1, LARGE - 4, LARGE - 3, LARGE, 3 * LARGE - 1, 10 * LARGE + 77):
        frame = in_large_segments(noise(size))
        assert frame_size(frame[:HEADER_SIZE]) == len(frame)
        assert bytes(open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame).payload) == noise(size)
        with pytest.raises(DamagedFrame, match="in part"):
            open_segments(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame[:HEADER_SIZE])
    for position in (5, 20, HEADER_SIZE, HEADER_SIZE + LARGE, HEADER_SIZE + LARGE + TAG_SIZE, len(frame) - 1):
        altered = bytearray(frame)
        altered[position] ^= 1
        with pytest.raises(DamagedFrame):
            open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", altered)
    with pytest.raises(DamagedFrame):
        open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame[: HEADER_SIZE + 10 * (LARGE + TAG_SIZE)])


def test_a_segment_is_a_message_of_gcm() -> None:
    """By hand, of the specifications that `Series` cites."""
    frame = segmented(noise(SEGMENT_SIZE + 5))
    key = CIPHER.message_key(NONCE)
    for number, plaintext in ((0, noise(SEGMENT_SIZE + 5)[:SEGMENT_SIZE]), (1, None)):
        nonce = NONCE[12:-1] + bytes([NONCE[-1] ^ number])
        opened = AESGCM(key).decrypt(nonce, sealed_segment(frame, number), frame[:HEADER_SIZE] + VOLUME + b"id")
        assert plaintext is None or opened == plaintext


def test_every_altered_part_of_segments_is_noticed() -> None:
    frame = segmented(noise(SEGMENT_SIZE + 5))
    second, _ = segment_span(len(frame), 1)
    for position in (*range(HEADER_SIZE), HEADER_SIZE, second - 17, second - 16, *range(second - 1, len(frame), 97)):
        altered = bytearray(frame)
        altered[position] ^= 1
        with pytest.raises(DamagedFrame):
            open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", altered)
        touched = [0, 1] if position < HEADER_SIZE else [0] if position < second else [1]
        for number in (0, 1):
            if number in touched:
                with pytest.raises(DamagedFrame):
                    open_one(bytes(altered), number, sealed_segment(bytes(altered), number))
            else:
                open_one(bytes(altered), number, sealed_segment(bytes(altered), number))
    for end in (second - 1, second, len(frame) - 1):
        with pytest.raises(DamagedFrame):
            open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", frame[:end])


def test_a_segment_opens_in_its_place_only() -> None:
    payload = bytes(3 * SEGMENT_SIZE)
    frame, other = segmented(payload), segmented(payload, nonce=NONCE[::-1])
    for number, sealed, context in (
        (1, sealed_segment(frame, 0), b"id"),
        (0, sealed_segment(other, 0), b"id"),
        (0, sealed_segment(frame, 0), b"ie"),
    ):
        with pytest.raises(DamagedFrame, match="altered, moved"):
            open_one(frame, number, sealed, context)
    for number, sealed in ((0, sealed_segment(frame, 0)[:-1]), (0, b""), (9, b""), (9, bytes(16))):
        with pytest.raises(DamagedFrame):
            open_one(frame, number, sealed)
    first, second = segment_span(len(frame), 0), segment_span(len(frame), 1)
    swapped = bytearray(frame)
    swapped[slice(first[0], sum(first))] = sealed_segment(frame, 1)
    swapped[slice(second[0], sum(second))] = sealed_segment(frame, 0)
    with pytest.raises(DamagedFrame, match="altered, moved"):
        open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", swapped)


def test_what_is_not_in_segments_does_not_open_in_part() -> None:
    for frame in (seal(bytes(100_000)), segmented(bytes(100_000), compressed=True)):
        with pytest.raises(DamagedFrame, match="in part"):
            open_one(frame, 0, sealed_segment(frame, 0))
    with pytest.raises(DamagedFrame, match="holds a BLOCK"):
        open_segments(CIPHER, FrameType.RECORD, VOLUME, b"id", segmented(b"x")[:HEADER_SIZE])


def test_padding_of_segments_is_the_one_of_the_payload() -> None:
    for plaintext in (bytes(40) + struct.pack("<I", 1), struct.pack("<I", 100), b"\xff" * 8):
        header = segmented(b"")[:12] + struct.pack("<I", len(plaintext)) + NONCE
        sealed = memoryview(bytearray(len(plaintext) + TAG_SIZE))
        Series(CIPHER, NONCE, header + VOLUME + b"id").seal_into(0, plaintext, sealed)
        with pytest.raises(DamagedFrame, match="padding"):
            open_frame(CIPHER, FrameType.BLOCK, VOLUME, b"id", header + sealed)
