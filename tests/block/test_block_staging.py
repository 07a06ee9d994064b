"""Staged packs on a real folder, and what a failing disk makes of them."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from infinitfs.block.index import NewFrame
from infinitfs.block.pack import Entry, index_span, open_index
from infinitfs.block.staging import Staging
from infinitfs.errors import LocalDiskFailed, NoSpace
from infinitfs.transfer.files import Threads
from tests.support.blocks import make_ring, make_staging

T = TypeVar("T")

FIRST = f"{1:032x}"
SECOND = f"{2:032x}"


def frame(number: int, length: int = 100) -> tuple[bytes, int, bytes]:
    return bytes([number]) * 32, length - 60, bytes([number]) * length


def fails(code: int) -> Callable[..., int]:
    def call(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return make_staging(tmp_path, make_ring())


async def test_frames_are_read_back_from_the_open_and_the_closed_pack(staging: Staging) -> None:
    first = await staging.append([frame(1), frame(2, 70)])
    second = await staging.append([frame(3)])
    assert [(f.pack, f.offset, f.length, f.size) for f in first + second] == [
        (FIRST, 0, 100, 40),
        (FIRST, 100, 70, 10),
        (FIRST, 170, 100, 40),
    ]
    assert staging.read(FIRST, 100, 70) == bytes([2]) * 70
    assert (staging.open_size, staging.waiting, staging.packs) == (270, 270, 1)
    assert staging.holds(FIRST) and staging.closed() == []
    (closed,) = await staging.close_packs()
    size = staging.path(FIRST).stat().st_size
    assert closed == (FIRST, size)
    assert staging.read(FIRST, 170, 100) == bytes([3]) * 100
    assert (staging.open_size, staging.waiting, staging.packs) == (0, size, 1)
    assert staging.holds(FIRST) and staging.closed() == [FIRST]


async def test_a_closed_pack_ends_with_its_index(staging: Staging) -> None:
    written = await staging.append([frame(1)]) + await staging.append([frame(2)])
    await staging.close_packs()
    data = staging.path(FIRST).read_bytes()
    start, length = index_span(data, len(data))
    entries = open_index(make_ring(), FIRST, data[start : start + length])
    assert entries == [Entry(f.id, f.offset, f.length, f.size) for f in written]
    assert start == 200


async def test_closing_without_an_open_pack_does_nothing(staging: Staging) -> None:
    assert await staging.close_packs() == []


async def test_the_next_frames_begin_a_new_pack(staging: Staging) -> None:
    await staging.append([frame(1)])
    await staging.close_packs()
    (new,) = await staging.append([frame(2)])
    assert (new.pack, new.offset) == (SECOND, 0)
    assert staging.packs == 2


async def test_a_released_pack_is_gone(staging: Staging) -> None:
    await staging.append([frame(1)])
    await staging.close_packs()
    staging.release(FIRST)
    staging.path(FIRST).unlink()
    assert not staging.holds(FIRST) and staging.waiting == 0
    with pytest.raises(FileNotFoundError):
        staging.read(FIRST, 0, 100)


async def test_files_are_private(staging: Staging) -> None:
    await staging.append([frame(1)])
    assert staging.path(FIRST).stat().st_mode & 0o777 == 0o600


async def test_the_folder_is_synced_before_a_new_pack_is_told_of(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    synced: list[tuple[str, int]] = []
    sizes = "/proc/self/fd/{}".format

    def fsync(descriptor: int) -> None:
        synced.append((str(Path(sizes(descriptor)).readlink()), len(list(tmp_path.iterdir()))))

    def fdatasync(descriptor: int) -> None:
        synced.append((str(Path(sizes(descriptor)).readlink()), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    await staging.append([frame(1)])
    await staging.append([frame(2)])
    pack = str(tmp_path / FIRST)
    assert synced == [(str(tmp_path), 1), (pack, 100), (pack, 200)]


async def test_short_writes_go_on_where_they_ended(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwritev

    def short(descriptor: int, buffers: Sequence[bytes], offset: int) -> int:
        return whole(descriptor, [b"".join(buffers)[:37]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    frames = [frame(n, 61 + n) for n in range(9)]
    await staging.append(frames)
    assert staging.path(FIRST).read_bytes() == b"".join(sealed for _, _, sealed in frames)


async def test_more_frames_than_one_call_takes(staging: Staging) -> None:
    frames = [frame(n % 256, 61) for n in range(1500)]
    written = await staging.append(frames)
    assert staging.path(FIRST).read_bytes() == b"".join(sealed for _, _, sealed in frames)
    assert written[-1].offset == 1499 * 61


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_leaves_the_pack_as_it_was(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    await staging.append([frame(1)])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails(code))
        with pytest.raises(NoSpace):
            await staging.append([frame(2)])
        with pytest.raises(NoSpace):
            await staging.close_packs()
    assert staging.path(FIRST).stat().st_size == staging.open_size == 100
    (third,) = await staging.append([frame(3)])
    assert third.offset == 100
    assert staging.read(FIRST, 0, 200) == bytes([1]) * 100 + bytes([3]) * 100
    (closed,) = await staging.close_packs()
    assert closed == (FIRST, staging.path(FIRST).stat().st_size)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "open"])
async def test_a_disk_that_is_full_from_the_start_keeps_nothing_open(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, whole: bool
) -> None:
    append = staging.append_pack if whole else staging.append
    before = open_descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails(errno.ENOSPC))
        for _ in range(3):
            with pytest.raises(NoSpace):
                await append([frame(1)])
    assert names(tmp_path) == []
    assert open_descriptors() == before
    assert (staging.packs, staging.waiting) == (0, 0)
    (stored,) = await append([frame(1)])
    assert stored.offset == 0


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
async def test_a_disk_that_failed_is_not_tried_again(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    await staging.append([frame(1)])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails(errno.EIO))
        with pytest.raises(LocalDiskFailed, match="Input/output error"):
            await staging.append([frame(2)])
    with pytest.raises(LocalDiskFailed):
        await staging.append([frame(2)])
    with pytest.raises(LocalDiskFailed):
        await staging.close_packs()
    assert staging.read(FIRST, 0, 100) == bytes([1]) * 100, "what was durable stays readable"
    assert staging.holds(FIRST) and staging.open_size == 100


async def test_a_disk_that_failed_and_then_is_full_has_failed(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    await staging.append([frame(1)])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails(errno.EIO))
        with pytest.raises(LocalDiskFailed):
            await staging.append([frame(2)])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails(errno.ENOSPC))
        with pytest.raises(NoSpace):
            await staging.append_pack([frame(2)])
    with pytest.raises(LocalDiskFailed):
        await staging.append([frame(2)])


async def test_a_folder_that_cannot_be_synced_fails_for_good(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = open_descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails(errno.EIO))
        with pytest.raises(LocalDiskFailed):
            await staging.append([frame(1)])
    with pytest.raises(LocalDiskFailed):
        await staging.append([frame(1)])
    assert names(tmp_path) == []
    assert open_descriptors() == before


async def test_a_read_that_the_disk_refuses_is_a_disk_failure(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    await staging.append([frame(1)])
    monkeypatch.setattr(os, "pread", fails(errno.EIO))
    with pytest.raises(LocalDiskFailed):
        staging.read(FIRST, 0, 100)


async def test_reading_does_not_use_the_descriptor_of_the_writer(staging: Staging) -> None:
    """It may be closed between a look and the read, and its number be another file's."""
    await staging.append([frame(1)])
    before = open_descriptors()
    staging.close()
    assert open_descriptors() == before - 1
    assert staging.read(FIRST, 0, 100) == bytes([1]) * 100


async def test_what_the_kernel_has_in_memory_is_read_at_once(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    for number in range(1, 10):
        await staging.append([frame(number)])
    for number in range(1, 10):
        staging.read(FIRST, 100 * (number - 1), 100)
        assert staging.read_now(FIRST, 100 * (number - 1), 100) == bytes([number]) * 100
    assert staging.read_now(FIRST, 850, 100) is None, "beyond its end"
    assert staging.read_now(SECOND, 0, 1) is None, "there is none"
    assert open_descriptors() == before + 2
    await staging.close_packs()
    assert staging.read_now(FIRST, 100, 100) == bytes([2]) * 100
    monkeypatch.setattr(os, "preadv", fails(errno.EAGAIN))
    assert staging.read_now(FIRST, 100, 100) is None, "the kernel would have to wait for the disk"
    monkeypatch.undo()
    staging.release(FIRST)
    assert staging.read_now(FIRST, 100, 100) is None
    await staging.append([frame(10)])
    assert staging.read_now(SECOND, 0, 100) == bytes([10]) * 100
    staging.close()
    assert open_descriptors() == before


# --- after a crash ---


def entries(*numbers: int) -> list[Entry]:
    return [Entry(bytes([n]) * 32, 100 * place, 100, 40) for place, n in enumerate(numbers)]


async def crashed(folder: Path, *packs: tuple[int, ...], close_last: bool = False) -> None:
    """Packs of these frames, all but the last closed, and a process that is no more."""
    staging = make_staging(folder, make_ring())
    for pack in packs:
        await staging.close_packs()
        await staging.append([frame(number) for number in pack])
    if close_last:
        await staging.close_packs()
    staging.close()


async def test_what_was_staged_is_found_again(tmp_path: Path) -> None:
    await crashed(tmp_path, (1, 2), (3,))
    size = (tmp_path / FIRST).stat().st_size
    staging = make_staging(tmp_path, make_ring())
    assert staging.recover({FIRST: (size, []), SECOND: (0, entries(3))}) == [SECOND]
    assert staging.closed() == [FIRST] and staging.waiting == size
    assert staging.read(FIRST, 100, 100) == bytes([2]) * 100
    assert staging.read_now(FIRST, 100, 100) is None, "to open it may wait for the disk"


async def test_an_open_pack_is_cut_behind_its_last_known_frame_and_goes_on(tmp_path: Path) -> None:
    await crashed(tmp_path, (1, 2, 3))
    with (tmp_path / FIRST).open("ab") as file:
        file.write(b"torn")
    staging = make_staging(tmp_path, make_ring())
    (name,) = staging.recover({FIRST: (0, entries(1, 2))})
    staging.reopen(name, entries(1, 2))
    assert staging.path(FIRST).stat().st_size == staging.open_size == 200
    (stored,) = await staging.append([frame(9)])
    assert (stored.pack, stored.offset) == (FIRST, 200)
    await staging.close_packs()
    data = staging.path(FIRST).read_bytes()
    start, length = index_span(data, len(data))
    assert open_index(make_ring(), FIRST, data[start : start + length]) == entries(1, 2, 9)


async def test_a_pack_whose_end_was_never_known_is_cut_too(tmp_path: Path) -> None:
    """Killed between the writing of the index and the transaction that says so."""
    await crashed(tmp_path, (1,), close_last=True)
    staging = make_staging(tmp_path, make_ring())
    (name,) = staging.recover({FIRST: (0, entries(1))})
    staging.reopen(name, entries(1))
    (closed,) = await staging.close_packs()
    assert closed == (FIRST, staging.path(FIRST).stat().st_size)


async def test_a_full_pack_is_ended_with_its_last_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staging: Staging
) -> None:
    await staging.append([frame(1)])
    before = open_descriptors()
    await staging.append([frame(2), frame(3)], full=True)
    assert open_descriptors() == before - 1
    written = (tmp_path / FIRST).read_bytes()
    assert (staging.open_size, staging.waiting, staging.packs) == (0, len(written), 1)
    assert staging.holds(FIRST) and staging.closed() == []
    monkeypatch.setattr(os, "fdatasync", fails(errno.EIO))
    assert staging.close_full(FIRST) == len(written), "nothing is left to be written"
    assert staging.closed() == [FIRST]
    start, length = index_span(written, len(written))
    assert open_index(make_ring(), FIRST, written[start : start + length]) == entries(1, 2, 3)


async def test_nothing_goes_into_a_full_pack(staging: Staging) -> None:
    await staging.append([frame(1)], full=True)
    (stored,) = await staging.append([frame(2)])
    assert (stored.pack, stored.offset) == (SECOND, 0)
    assert await staging.close_packs() == [(name, staging.path(name).stat().st_size) for name in (FIRST, SECOND)], (
        "also the full one, which nobody has closed"
    )
    assert staging.closed() == [FIRST, SECOND]


async def test_whole_packs_are_written_beside_one_another(tmp_path: Path) -> None:
    """And beside one that begins: each has its own frames, whatever comes to its end first."""
    running = 0

    async def slow(call: Callable[[], T]) -> T:
        nonlocal running
        running += 1
        while running < 4:
            await trio.lowlevel.checkpoint()
        return call()

    staging = make_staging(tmp_path, make_ring(), slow)
    found: dict[int, NewFrame] = {}

    async def append(number: int) -> None:
        append = staging.append_pack if number < 4 else staging.append
        (found[number],) = await append([frame(number)])

    async with trio.open_nursery() as nursery:
        for number in range(1, 5):
            nursery.start_soon(append, number)
    assert len({stored.pack for stored in found.values()}) == 4
    for number, stored in found.items():
        assert staging.read(stored.pack, stored.offset, stored.length) == bytes([number]) * 100
    assert staging.open_size == 100 and staging.packs == 4


async def test_a_disk_that_is_full_for_one_pack_has_not_failed_for_another(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is written while the first takes back what it had begun."""
    cut = os.ftruncate

    def meanwhile(descriptor: int, length: int) -> None:
        trio.from_thread.run(staging.append_pack, [frame(2)], trio_token=token)
        cut(descriptor, length)

    token = trio.lowlevel.current_trio_token()
    threaded = Threads(2)
    staging = make_staging(staging.path(FIRST).parent, make_ring(), threaded)
    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", meanwhile)
        patched.setattr(os, "fdatasync", full_once())
        with pytest.raises(NoSpace):
            await staging.append_pack([frame(1)])
    assert await staging.close_packs() == [(SECOND, staging.path(SECOND).stat().st_size)]


def full_once() -> Callable[[int], None]:
    answers = [errno.ENOSPC]

    def fdatasync(descriptor: int) -> None:
        if answers:
            raise OSError(answers.pop(), "full")

    return fdatasync


async def test_unknown_files_are_removed(tmp_path: Path) -> None:
    await crashed(tmp_path, (1,), (2,))
    (tmp_path / "folder").mkdir()
    staging = make_staging(tmp_path, make_ring())
    assert staging.recover({SECOND: (0, entries(2))}) == [SECOND]
    assert names(tmp_path) == [SECOND, "folder"]


@pytest.mark.parametrize("known", [(0, entries(1, 2)), (250, [])])
@pytest.mark.parametrize("there", [None, 0, 199])
async def test_a_known_pack_that_is_missing_or_short_is_a_disk_failure(
    tmp_path: Path, known: tuple[int, list[Entry]], there: int | None
) -> None:
    if there is not None:
        (tmp_path / FIRST).write_bytes(bytes(there))
    staging = make_staging(tmp_path, make_ring())
    with pytest.raises(LocalDiskFailed, match=FIRST):
        staging.recover({FIRST: known})


async def test_a_missing_pack_that_was_just_begun_is_a_disk_failure_too(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskFailed):
        make_staging(tmp_path, make_ring()).recover({FIRST: (0, [])})


async def test_reopening_on_a_disk_that_fails_is_a_disk_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crashed(tmp_path, (1,))
    staging = make_staging(tmp_path, make_ring())
    monkeypatch.setattr(os, "ftruncate", fails(errno.EIO))
    with pytest.raises(LocalDiskFailed):
        staging.reopen(FIRST, entries(1))
    staging.close()
