"""Parts that are copied one behind the other."""

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitfs._native import gather


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(0, 5))
def test_parts_lie_one_behind_the_other(parts: list[bytes], more: int) -> None:
    whole = b"".join(parts)
    out = bytearray(b"-" * (len(whole) + more))
    kinds = (bytes, bytearray, memoryview)
    assert gather(out, [kinds[number % 3](part) for number, part in enumerate(parts)]) == len(whole)
    assert out == whole + b"-" * more


def test_into_mapped_memory() -> None:
    with mmap.mmap(-1, 4096) as room:
        assert gather(room, (b"one", memoryview(b"-two-")[1:4])) == 6
        assert room[:7] == b"onetwo\0"


def test_what_does_not_fit_is_not_copied_in_part() -> None:
    out = bytearray(b"-----")
    with pytest.raises(ValueError, match="do not fit into 5 bytes"):
        gather(out, [b"abc", b"def"])
    assert out == b"-----"


@pytest.mark.parametrize(
    ("out", "parts"), [(b"12345", [b"a"]), (bytearray(5), [b"a", 7]), (bytearray(5), 7), (bytearray(5), [b"a", "b"])]
)
def test_only_buffers_are_taken(out: object, parts: object) -> None:
    with pytest.raises((TypeError, BufferError)):
        gather(out, parts)  # type: ignore[arg-type]


def test_buffers_are_let_go_of() -> None:
    out, part = bytearray(3), bytearray(b"abc")
    gather(out, [part])
    with pytest.raises(TypeError):
        gather(out, [part, None])  # type: ignore[list-item]
    out.append(1)
    part.append(1)
    assert out == b"abc\1"
