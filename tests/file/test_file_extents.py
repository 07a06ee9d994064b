"""What is left of extents when a range is cut out of them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.file.extents import Extent, remainders


def bytes_of(extents: list[Extent]) -> dict[int, tuple[int, int]]:
    """Per byte of the file, the block and the byte of the block that it is."""
    found: dict[int, tuple[int, int]] = {}
    for extent in extents:
        assert extent.length > 0 and extent.skip >= 0
        for i in range(extent.length):
            assert extent.offset + i not in found, "extents do not overlap"
            found[extent.offset + i] = extent.block, extent.skip + i
    return found


@st.composite
def extent_lists(draw: st.DrawFn) -> list[Extent]:
    extents, offset = [], 0
    for block in range(draw(st.integers(0, 5))):
        offset += draw(st.integers(0, 4))
        length = draw(st.integers(1, 8))
        extents.append(Extent(offset, length, block, draw(st.integers(0, 5))))
        offset += length
    return extents


@settings(deadline=None, derandomize=True, max_examples=300)
@given(extent_lists(), st.integers(0, 50), st.integers(0, 50))
def test_every_byte_outside_the_range_stays_what_it_was(old: list[Extent], offset: int, length: int) -> None:
    left = remainders(old, offset, offset + length)
    outside = {at: byte for at, byte in bytes_of(old).items() if not offset <= at < offset + length}
    assert bytes_of(left) == outside
    assert left == sorted(left)


def test_a_cut_in_the_middle_leaves_both_sides() -> None:
    assert remainders([Extent(10, 20, 7, 3)], 15, 18) == [Extent(10, 5, 7, 3), Extent(18, 12, 7, 11)]


def test_what_is_covered_goes() -> None:
    assert remainders([Extent(10, 20, 7, 0), Extent(30, 5, 8, 0)], 10, 35) == []
