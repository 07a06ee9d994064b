"""Buffers of any size, written one behind the other."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.config import disk

SIZES = st.lists(st.integers(0, 9) | st.integers(disk.PIECE - 9, disk.PIECE + 9), max_size=4)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.booleans(), st.integers(0, 100))
def test_buffers_lie_one_behind_the_other(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], syncing: bool, offset: int
) -> None:
    path = tmp_path_factory.mktemp("disk") / "file"
    buffers = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        disk.write_at(descriptor, buffers, offset, syncing=syncing)
        os.fdatasync(descriptor)
        assert os.pread(descriptor, sum(sizes) + 1, offset) == b"".join(buffers)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("syncing", [False, True])
def test_what_a_sync_follows_begins_by_the_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncing: bool
) -> None:
    begun: list[tuple[int, int]] = []

    def unwilling(_: int, offset: int, length: int, advice: int) -> None:
        begun.append((offset, length))
        raise OSError

    monkeypatch.setattr(os, "posix_fadvise", unwilling)
    with (tmp_path / "file").open("wb", buffering=0) as file:
        disk.write_at(file.fileno(), [bytes(2 * disk.PIECE + 100)], 10, syncing=syncing)
        assert file.seek(0, os.SEEK_END) == 10 + 2 * disk.PIECE + 100, "whatever becomes of the advice"
    pieces = [(10, disk.PIECE), (10 + disk.PIECE, disk.PIECE)]
    assert begun == (pieces if syncing else []), "and what is smaller waits for the sync"
