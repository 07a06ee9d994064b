"""Sizes as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitfs.config.sizes import format_size, parse_size
from infinitfs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1KB", 1000),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("512MiB", 512 << 20),
        ("2TB", 2_000_000_000_000),
        ("2tib", 2 << 40),
        ("1.5 GB", 1_500_000_000),
        (" 3 GiB ", 3 << 30),
        ("0.1KiB", 102),
        ("9EB", 9_000_000_000_000_000_000),
    ],
)
def test_parse(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "TB", "-1", "1.", ".5GB", "1e3", "2T", "2 TB x", "1,5GB", "0x10", "1_000", "١KB", "inf", "10EB"],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (9994, "9.99 KB"),
        (9996, "10.0 KB"),
        (99960, "100 KB"),
        (999499, "999 KB"),
        (999500, "1.00 MB"),
        (1_540_000_000, "1.54 GB"),
        (2_000_000_000_000, "2.00 TB"),
    ],
)
def test_format(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(min_value=0, max_value=9 * 10**18))
def test_what_is_written_is_read(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= size * 0.006
