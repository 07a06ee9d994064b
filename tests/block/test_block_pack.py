"""The form of a pack's end: index frame and trailer."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.block.pack import Entry, index_span, object_key, open_index, seal_index
from infinitfs.errors import DamagedFrame
from infinitfs.keys.frame import FrameType
from infinitfs.keys.ring import Purpose
from tests.support.blocks import make_ring

PACK = "ab" * 16
GOLDEN = "5eea37cac1c02cf776003be92f2ed2352e7069eba155173b9e24b07a79105d3f"
ENTRIES = [Entry(bytes([n]) * 32, 100 * n, 100, 70 + n) for n in range(3)]
FRAMES = bytes(300)

NUMBER = st.integers(0, 2**32 - 1)
ENTRY = st.builds(Entry, st.binary(min_size=32, max_size=32), NUMBER, NUMBER, NUMBER)


def read_index(pack: bytes, name: str = PACK) -> list[Entry]:
    start, length = index_span(pack[-8:], len(pack))
    return open_index(make_ring(), name, pack[start : start + length])


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(ENTRY, max_size=20))
def test_the_index_of_a_pack_is_read_back(entries: list[Entry]) -> None:
    assert read_index(FRAMES + seal_index(make_ring(), PACK, entries)) == entries


def test_the_form_stays_as_it_is() -> None:
    """A golden vector: the bytes were written by the first version and must always be."""
    ending = seal_index(make_ring(), PACK, ENTRIES)
    assert ending[-8:] == b"IFPK" + (len(ending) - 8).to_bytes(4, "little")
    assert hashlib.sha256(ending).hexdigest() == GOLDEN
    payload = make_ring().open(Purpose.DATA, FrameType.PACK_INDEX, f"{PACK}/index".encode(), ending[:-8]).payload
    assert payload[44:88] == b"\1" * 32 + b"\x64\0\0\0" + b"\x64\0\0\0" + b"\x47\0\0\0"


@pytest.mark.parametrize("damage", [b"", b"IFPK", b"XXPK\0\0\0\0", b"IFPK\xff\xff\xff\xff"])
def test_a_damaged_trailer_is_refused(damage: bytes) -> None:
    with pytest.raises(DamagedFrame):
        index_span(damage, 300)


def test_a_trailer_that_leaves_no_room_for_its_index_is_refused() -> None:
    assert index_span(b"IFPK" + (292).to_bytes(4, "little"), 300) == (0, 292)
    with pytest.raises(DamagedFrame):
        index_span(b"IFPK" + (293).to_bytes(4, "little"), 300)


def test_any_flipped_bit_of_the_end_is_refused() -> None:
    pack = FRAMES + seal_index(make_ring(), PACK, ENTRIES)
    for at in range(len(FRAMES), len(pack)):
        damaged = bytearray(pack)
        damaged[at] ^= 1
        with pytest.raises(DamagedFrame):
            read_index(bytes(damaged))


def test_the_index_of_another_pack_is_refused() -> None:
    pack = FRAMES + seal_index(make_ring(), PACK, ENTRIES)
    with pytest.raises(DamagedFrame):
        read_index(pack, "cd" * 16)


def test_an_index_of_uneven_length_is_refused() -> None:
    ring = make_ring()
    frame = ring.seal(Purpose.DATA, FrameType.PACK_INDEX, f"{PACK}/index".encode(), bytes(45))
    with pytest.raises(DamagedFrame, match="uneven"):
        open_index(ring, PACK, bytes(frame))


def test_packs_are_spread_over_folders() -> None:
    assert object_key("01" * 16, PACK) == f"{'01' * 16}/packs/ab/{PACK}"
