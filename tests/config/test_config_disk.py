"""Buffers of any size, written one behind the other."""

import errno
import fcntl
import mmap
import os
import random
from collections.abc import Sequence
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


# --- past the cache ---

MI = 2**20


def write_past(path: Path, buffers: Sequence[bytes], offset: int) -> None:
    """Behind `offset` bytes that are there already."""
    path.write_bytes(bytes(offset))
    descriptor = os.open(path, os.O_RDWR)
    try:
        disk.DirectWriter().write(descriptor, buffers, offset, sum(map(len, buffers)))
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def buffers_of(sizes: Sequence[int]) -> list[bytes]:
    return [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 4095, 4096, 70_000, MI, 2 * MI + 13]), max_size=6),
    st.integers(0, 2) | st.integers(4094, 4098),
)
def test_what_goes_past_the_cache_is_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], offset: int
) -> None:
    path = tmp_path_factory.mktemp("disk") / "file"
    write_past(path, buffers_of(sizes), offset)
    assert path.read_bytes() == bytes(offset) + b"".join(buffers_of(sizes))


def calls_of(monkeypatch: pytest.MonkeyPatch, *answers: int | None) -> list[tuple[int, int, bool]]:
    """Offset, length and whether it goes past the cache, of every write; `answers` to those that do: an error's number,
    or so many bytes fewer than were to be written."""
    whole = os.pwritev
    calls: list[tuple[int, int, bool]] = []
    left = list(answers)

    def pwritev(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        size = sum(map(len, buffers))
        direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        calls.append((offset, size, direct))
        answer = left.pop(0) if direct and left else None
        if answer is not None and answer < 1000:
            raise OSError(answer, os.strerror(answer))
        if answer is not None:
            return whole(descriptor, [b"".join(buffers)[:-answer]], offset)
        return whole(descriptor, buffers, offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    return calls


def test_only_whole_pages_go_past_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of(monkeypatch)
    write_past(tmp_path / "file", buffers_of([100, 3 * MI]), 10)
    direct = [(offset, size) for offset, size, past in calls if past]
    assert direct == [(4096, 2 * MI), (4096 + 2 * MI, MI - 4096)]
    assert [(offset, size) for offset, size, past in calls if not past] == [(10, 4086), (3 * MI, 110)]


def test_what_is_small_goes_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of(monkeypatch)
    write_past(tmp_path / "file", buffers_of([MI - 1]), 0)
    assert calls and not any(past for _, _, past in calls)


@pytest.mark.parametrize("answers", [(errno.EINVAL,), (None, errno.EINVAL), (5000,), (None, 4096)])
def test_a_filesystem_that_does_not_take_it_gets_the_rest_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[int | None, ...]
) -> None:
    calls = calls_of(monkeypatch, *answers)
    data = buffers_of([5 * MI + 5000, 123])
    write_past(tmp_path / "file", data, 77)
    assert (tmp_path / "file").read_bytes() == bytes(77) + b"".join(data)
    assert [past for _, _, past in calls].count(True) == len(answers), "it is not asked again"


def test_a_filesystem_that_knows_no_such_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def unwilling(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", unwilling)
    calls = calls_of(monkeypatch)
    write_past(tmp_path / "file", buffers_of([3 * MI]), 5)
    assert (tmp_path / "file").read_bytes() == bytes(5) + buffers_of([3 * MI])[0]
    assert calls and all(size <= disk.PIECE and not past for _, size, past in calls)


def test_the_kernel_is_asked_for_huge_pages_and_may_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Unwilling(mmap.mmap):
        def madvise(self, advice: int, *_: int) -> None:
            asked.append(advice)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(mmap, "mmap", Unwilling)
    write_past(tmp_path / "file", buffers_of([3 * MI]), 0)
    assert (tmp_path / "file").read_bytes() == buffers_of([3 * MI])[0]
    assert asked == [mmap.MADV_HUGEPAGE]


def test_a_disk_that_fails_is_reported_and_leaves_the_descriptor_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls_of(monkeypatch, errno.EIO)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError, match="Input/output"):
        disk.DirectWriter().write(descriptor, buffers_of([3 * MI]), 0, 3 * MI)
    assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
    os.close(descriptor)
