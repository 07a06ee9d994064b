"""What extents become when ranges of the file are replaced."""

from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.file.extents import Edit, Extent, edited


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


@st.composite
def edit_lists(draw: st.DrawFn) -> list[Edit]:
    edits, end = [], 0
    for number in range(draw(st.integers(0, 4))):
        start = end + draw(st.integers(0, 12))
        extents = [
            Extent(start + extent.offset, extent.length, 100 * (number + 1) + extent.block, extent.skip)
            for extent in draw(extent_lists())
        ]
        end = max([start + 1, *(extent.end for extent in extents)]) + draw(st.integers(0, 6))
        edits.append(Edit(start, end, tuple(extents)))
    return edits


@settings(deadline=None, derandomize=True, max_examples=500)
@given(extent_lists(), edit_lists())
def test_every_byte_is_that_of_its_edit_or_what_it_was(old: list[Extent], edits: list[Edit]) -> None:
    wanted = bytes_of(old)
    for edit in edits:
        wanted = {at: byte for at, byte in wanted.items() if not edit.offset <= at < edit.end}
        wanted |= bytes_of([*edit.extents])
    new = edited(old, edits)
    assert bytes_of(new) == wanted
    assert new == sorted(new)


def test_a_cut_in_the_middle_leaves_both_sides() -> None:
    assert edited([Extent(10, 20, 7, 3)], [Edit(15, 18, ())]) == [Extent(10, 5, 7, 3), Extent(18, 12, 7, 11)]


def test_what_is_covered_goes() -> None:
    assert edited([Extent(10, 20, 7, 0), Extent(30, 5, 8, 0)], [Edit(10, 35, ())]) == []
