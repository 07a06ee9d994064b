"""The kernel against its reference, its invariants and its golden vectors."""

import hashlib
import random
import struct
import sys
import threading
from collections.abc import Callable

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infinitfs import _native
from tests.support import cut_reference
from tests.support.cut_reference import Piece, Rule

GEAR = hashlib.shake_256(b"infinitfs test gear").digest(2048)
SMALL = Rule(GEAR, minimum=64, target=256, maximum=1024, zeros=32)

checked = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


def cut(buffer: bytes | bytearray | memoryview, rule: Rule, final: bool) -> list[Piece]:
    return _native.cut(buffer, rule.gear, rule.minimum, rule.target, rule.maximum, rule.zeros, final)


# In this gear, after PLAIN bytes, the last byte alone decides: PLAIN never cuts, WEAK leaves the top 6 bits
# zero (a cut from the target on), STRONG all of them (a cut from the minimum on).
PLAIN, WEAK, STRONG = b"\1", b"\2", b"\3"
MARKERS = Rule(struct.pack("<4Q", 0, 2**63, 2**57, 0) + bytes(2016), 64, 256, 1024, 32)


def noise(size: int, seed: int = 0) -> bytes:
    """Random bytes without a zero among them."""
    return bytes(random.Random(seed).choices(range(1, 256), k=size))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    # Few distinct words cut often, one word of zeros always, one odd word hardly ever.
    gear = draw(st.sampled_from([GEAR, bytes(2048), b"\1" + bytes(2047), GEAR[:8] * 256, GEAR[:16] * 128]))
    target = draw(st.sampled_from([256, 257, 300, 512]))
    minimum = draw(st.sampled_from([64, 65, 100, 255, target]))
    maximum = draw(st.sampled_from([target, target + 1, 600, 1024]))
    zeros = draw(st.sampled_from([16, 17, 23, 32, 64, 255, 256]))
    return Rule(gear, minimum, target, max(target, maximum), zeros)


@st.composite
def buffers(draw: st.DrawFn, rule: Rule) -> bytes:
    """Noise, sparse bytes and zeros, in lengths near everything a decision depends on."""
    landmarks = st.sampled_from([1, 8, rule.zeros, rule.minimum, rule.target, rule.maximum])
    buffer = b""
    for _ in range(draw(st.integers(0, 6))):
        size = max(0, draw(landmarks) + draw(st.integers(-9, 9)))
        match draw(st.sampled_from(["noise", "zeros", "zeros", "sparse"])):
            case "noise":
                buffer += noise(size, draw(st.integers(0, 99)))
            case "zeros":
                buffer += bytes(size)
            case "sparse":
                source = random.Random(draw(st.integers(0, 99)))
                buffer += bytes(source.choices([0, 1], cum_weights=[rule.zeros, rule.zeros + 1], k=size))
    return buffer


def in_parts(buffer: bytes, sizes: list[int], step: Callable[[bytes, int, bool], list[Piece]]) -> list[Piece]:
    """The pieces of `buffer` when it arrives in parts of `sizes`, the tail carried from one to the next."""
    pieces: list[Piece] = []
    done = have = 0
    for size in sizes:
        have = min(len(buffer), have + size)
        new = step(buffer[done:have], done, False)
        done += sum(length for length, _ in new)
        pieces += new
    return pieces + step(buffer[done:], done, True)


# --- by content ---------------------------------------------------------------------------------------------


@checked
@given(st.data(), rules(), st.booleans())
def test_cuts_are_those_of_the_reference(data: st.DataObject, rule: Rule, final: bool) -> None:
    buffer = data.draw(buffers(rule))
    assert cut(buffer, rule, final) == cut_reference.cut(buffer, rule, final)


@checked
@given(st.data(), rules(), st.lists(st.integers(0, 700), max_size=12))
def test_the_pieces_do_not_depend_on_how_the_stream_arrives(data: st.DataObject, rule: Rule, sizes: list[int]) -> None:
    buffer = data.draw(buffers(rule))
    parts = in_parts(buffer, sizes, lambda part, _, final: cut(part, rule, final))
    assert parts == cut(buffer, rule, True)


@checked
@given(st.data(), rules(), st.booleans())
def test_pieces_cover_the_buffer_and_carry_its_fingerprints(data: st.DataObject, rule: Rule, final: bool) -> None:
    buffer = data.draw(buffers(rule))
    start = 0
    for length, fingerprint in cut(buffer, rule, final):
        piece = buffer[start : start + length]
        assert 0 < len(piece) == length <= rule.maximum
        if fingerprint is None:
            assert not any(piece)
            assert length >= rule.zeros
        else:
            assert fingerprint == xxhash.xxh3_128_digest(piece)
            assert bytes(rule.zeros) not in piece
        start += length
    tail = len(buffer) - start
    assert tail == 0 if final else tail < rule.maximum + rule.zeros


def test_every_split_of_a_stream_into_two_gives_the_same_pieces() -> None:
    buffer = noise(700) + bytes(31) + noise(200, 1) + bytes(1060) + noise(90, 2) + bytes(32) + noise(300, 3)
    whole = cut(buffer, SMALL, True)
    for size in range(len(buffer) + 1):
        assert in_parts(buffer, [size], lambda part, _, final: cut(part, SMALL, final)) == whole


def test_large_pieces_are_those_of_the_reference() -> None:
    source = random.Random(5)
    buffer = source.randbytes(150_000) + bytes(20_000) + source.randbytes(50_000)
    rule = Rule(GEAR, minimum=2048, target=8192, maximum=32768, zeros=4096)
    assert cut(buffer, rule, True) == cut_reference.cut(buffer, rule, True)


def test_an_insertion_moves_few_cuts() -> None:
    source = random.Random(6)
    before, inserted, after = source.randbytes(100_000), source.randbytes(50), source.randbytes(300_000)
    rule = Rule(GEAR, minimum=1024, target=4096, maximum=16384, zeros=64)
    old = cut(before + after, rule, True)
    new = cut(before + inserted + after, rule, True)
    assert len(old) > 50
    assert len(set(new) - set(old)) <= 5


def test_another_gear_cuts_elsewhere() -> None:
    buffer = noise(50_000)
    other = Rule(hashlib.shake_256(b"another gear").digest(2048), 64, 256, 1024, 32)
    assert not set(cut(buffer, SMALL, True)[:-1]) & set(cut(buffer, other, True))


@pytest.mark.parametrize(
    ("size", "lengths"),
    [(0, []), (1, [1]), (31, [31]), (32, [32]), (1024, [1024]), (1025, [1024, 1]), (2100, [1024, 1024, 52])],
)
def test_zeros_are_pieces_of_at_most_the_maximum(size: int, lengths: list[int]) -> None:
    pieces = cut(bytes(size), SMALL, True)
    assert [length for length, _ in pieces] == lengths
    assert all((fingerprint is None) == (length >= 32) for length, fingerprint in pieces)


def test_a_zero_run_is_a_piece_from_the_smallest_size_on() -> None:
    never = Rule(GEAR[:8] * 256, 256, 256, 1024, 32)
    assert [length for length, _ in cut(noise(50) + bytes(31) + noise(50), never, True)] == [131]
    pieces = cut(noise(50) + bytes(32) + noise(50), never, True)
    assert [(length, fingerprint is None) for length, fingerprint in pieces] == [
        (50, False),
        (32, True),
        (50, False),
    ]


@pytest.mark.parametrize(
    ("marker", "length", "cuts"),
    [
        (STRONG, 63, False),
        (STRONG, 64, True),
        (STRONG, 255, True),
        (WEAK, 64, False),
        (WEAK, 255, False),
        (WEAK, 256, True),
    ],
)
def test_masks_change_at_the_minimum_and_at_the_target(marker: bytes, length: int, cuts: bool) -> None:
    buffer = PLAIN * (length - 1) + marker + PLAIN
    assert cut(buffer, MARKERS, True)[0][0] == (length if cuts else length + 1)


def test_the_hash_covers_64_bytes() -> None:
    # Only the first byte has a word, and it is 1: 63 shifts later it is the top bit, 64 later it is gone.
    gear = struct.pack("<3Q", 0, 1, 0) + bytes(2024)
    assert cut(b"\1" + b"\2" * 99, Rule(gear, 64, 256, 1024, 32), True)[0][0] == 65


@pytest.mark.parametrize(
    ("buffer", "lengths"),
    [
        (PLAIN * 1023, []),
        (PLAIN * 1024, [1024]),
        (PLAIN * 1024 + bytes(31), [1024]),
        (PLAIN * 1023 + bytes(31), []),
        (PLAIN * 1023 + bytes(31) + PLAIN, [1024]),
        (PLAIN * 1023 + bytes(32), [1023]),
        (PLAIN * 99 + STRONG + bytes(31), [100]),
        (PLAIN * 99 + STRONG, [100]),
        (PLAIN * 99 + bytes(31), []),
        (PLAIN * 99 + bytes(32), [99]),
        (bytes(31), []),
        (bytes(1023), []),
        (bytes(1024), [1024]),
        (bytes(1024 + 31), [1024]),
        (bytes(32) + PLAIN, [32]),
    ],
)
def test_a_piece_is_finished_as_soon_as_nothing_can_change_it(buffer: bytes, lengths: list[int]) -> None:
    assert [length for length, _ in cut(buffer, MARKERS, False)] == lengths


@pytest.mark.parametrize("size", range(9))
def test_any_alignment_of_the_buffer(size: int) -> None:
    buffer = noise(900) + bytes(100) + noise(900, 1)
    shifted = memoryview(bytes(size) + buffer)[size:]
    assert cut(shifted, SMALL, True) == cut(buffer, SMALL, True)


# --- fixed --------------------------------------------------------------------------------------------------


@checked
@given(st.data(), st.integers(1, 300), st.booleans())
def test_fixed_cuts_are_those_of_the_reference(data: st.DataObject, size: int, final: bool) -> None:
    first = data.draw(st.integers(1, size))
    buffer = data.draw(buffers(SMALL))
    pieces = _native.cut_fixed(buffer, size, first, final)
    assert pieces == cut_reference.cut_fixed(buffer, size, first, final)


@checked
@given(st.data(), st.integers(1, 300), st.lists(st.integers(0, 700), max_size=12))
def test_fixed_pieces_do_not_depend_on_how_the_stream_arrives(data: st.DataObject, size: int, sizes: list[int]) -> None:
    first = data.draw(st.integers(1, size))
    buffer = data.draw(buffers(SMALL))

    def step(part: bytes, offset: int, final: bool) -> list[Piece]:
        return _native.cut_fixed(part, size, size if offset else first, final)

    assert in_parts(buffer, sizes, step) == _native.cut_fixed(buffer, size, first, True)


# --- golden vectors: a change here makes existing volumes store everything again ----------------------------

GOLDEN_BUFFER = hashlib.shake_256(b"infinitfs golden buffer").digest(3000) + bytes(1500) + b"end" + bytes(40)
GOLDEN_CUT = [
    (287, "af83e06670d404940b6126978c77ad7b"),
    (284, "73b98176fcb275072fb016d3b9fa9c68"),
    (295, "f1671fd7da5612276df0ffaf8893759e"),
    (284, "c9a153bc1af95a877efea891c277d29d"),
    (257, "b8561a3d9f7cc2cbe2ba2618363d843e"),
    (456, "d558f02c01424dbd577c0822d3c124ce"),
    (260, "4ff7e0fe07ff984a8b7db03a8c03d90a"),
    (277, "1db1bc83eebf1962b56a62503d6c1101"),
    (290, "d069f30851b34e5a0fb9f003fcdfdfdf"),
    (293, "c127a4a4a3d310d2cdf6a8222baad8cc"),
    (17, "a94b39e3e211257a14c9cbdb9cc4188a"),
    (1024, None),
    (476, None),
    (3, "154c38bb88c2de91f66d8cc5d275f416"),
    (40, None),
]
GOLDEN_CUT_FIXED = [
    (300, "fd66de06ebf39c88e5752ce3add03631"),
    (1000, "fb2deedb690bb4c5b2f6331068dc5c9e"),
    (1000, "676433775ee82d9ea04b5f08de83ad64"),
    (1000, "ab0401aab130b3e141408d4ee9f7e23e"),
    (1000, None),
    (243, "707845e8fc9be42cd47509385b6ae67c"),
]


def in_hex(pieces: list[Piece]) -> list[tuple[int, str | None]]:
    return [(length, None if fingerprint is None else fingerprint.hex()) for length, fingerprint in pieces]


def test_golden_cut() -> None:
    assert in_hex(cut(GOLDEN_BUFFER, SMALL, True)) == GOLDEN_CUT


def test_golden_cut_at_real_size() -> None:
    # In the sizes of a volume; the fingerprints are pinned by one digest.
    buffer = hashlib.shake_256(b"infinitfs golden volume").digest(8 << 20)
    pieces = cut(buffer, Rule(GEAR, 256 << 10, 1 << 20, 4 << 20, 4096), True)
    assert [length for length, _ in pieces] == [
        1596993,
        1271092,
        1314189,
        530052,
        1232547,
        457777,
        1385499,
        600459,
    ]
    assert (
        hashlib.sha256(repr(in_hex(pieces)).encode()).hexdigest()
        == "638ae7a8efefce37d39727b7de5c0388ff891257b4b6c8caa9470ad7ede36413"
    )


def test_golden_cut_fixed() -> None:
    assert in_hex(_native.cut_fixed(GOLDEN_BUFFER, 1000, 300, True)) == GOLDEN_CUT_FIXED


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        (63, 256, 1024, 32),
        (64, 255, 1024, 32),
        (257, 256, 1024, 32),
        (64, 256, 255, 32),
        (64, 256, 2**30 + 1, 32),
        (64, 256, 1024, 15),
        (64, 256, 1024, 1025),
        (64, 256, 1024, 0),
        (-64, 256, 1024, 32),
        (64, 256, -1024, 32),
        (64, 256, 1024, -32),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        _native.cut(b"data", GEAR, *sizes, True)


@pytest.mark.parametrize("sizes", [(64, 256, 256, 16), (256, 256, 256, 256), (2**30, 2**30, 2**30, 2**30)])
def test_the_limits_themselves_are_accepted(sizes: tuple[int, int, int, int]) -> None:
    assert _native.cut(b"data", GEAR, *sizes, True) == [(4, xxhash.xxh3_128_digest(b"data"))]


@pytest.mark.parametrize("size", [0, 2047, 2049])
def test_a_gear_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        cut(b"data", Rule(bytes(size), 64, 256, 1024, 32), True)


@pytest.mark.parametrize(("size", "first"), [(0, 0), (10, 0), (10, 11), (-1, -1), (10, -1)])
def test_fixed_sizes_that_do_not_fit_are_refused(size: int, first: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        _native.cut_fixed(b"data", size, first, True)


def test_any_contiguous_buffer_is_accepted_and_let_go() -> None:
    buffer = noise(2000)
    mutable = bytearray(buffer)
    expected = cut(buffer, SMALL, True), _native.cut_fixed(buffer, 700, 700, True)
    for same in (mutable, memoryview(buffer), memoryview(buffer).cast("I")):
        assert (cut(same, SMALL, True), _native.cut_fixed(same, 700, 700, True)) == expected
    mutable.clear()  # a buffer still held would raise BufferError


def test_other_buffers_are_refused() -> None:
    with pytest.raises(BufferError):
        cut(memoryview(bytes(100))[::2], SMALL, True)
    with pytest.raises(TypeError):
        _native.cut_fixed("text", 10, 10, True)  # type: ignore[arg-type]


# --- threads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda buffer: _native.cut(buffer, GEAR, 256 << 10, 1 << 20, 4 << 20, 4096, True),
        lambda buffer: _native.cut_fixed(buffer, 1 << 20, 1 << 20, True),
    ],
    ids=["cut", "cut_fixed"],
)
def test_another_thread_runs_during_a_call(call: Callable[[bytes], object]) -> None:
    # With this switch interval the interpreter takes the GIL from nobody: once `gate` is open the other
    # thread can run only where this one drops the GIL by itself, and between the calls nothing here does.
    buffer = bytes(16 << 20)
    gate = threading.Lock()
    ran: list[bool] = []

    def wait_and_run() -> None:
        with gate:
            ran.append(True)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        gate.acquire()
        thread = threading.Thread(target=wait_and_run)
        thread.start()
        gate.release()
        ran_before = bool(ran)
        calls = 0
        while not ran and calls < 5000:
            call(buffer)
            calls += 1
        ran_meanwhile = bool(ran)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert not ran_before
    assert ran_meanwhile


def test_room_is_as_large_as_it_was_asked_for() -> None:
    for size in (0, 1, 5_000_000):
        room = _native.room(size)
        assert type(room) is bytearray and len(room) == size
        room[:] = bytes(size)
        assert room == bytes(size)
    for wrong in (-1, 1 << 70):
        with pytest.raises((ValueError, OverflowError)):
            _native.room(wrong)
    with pytest.raises(TypeError):
        _native.room("1")  # type: ignore[arg-type]
