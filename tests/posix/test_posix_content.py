"""One file, changed at random in every way a program has, against a string of bytes.

Between the changes the kernel's cache is dropped, the volume mounted again, the file closed and opened. POSIX_CONTENT
is the size in bytes: beyond 64 MiB the file is mostly holes, and only its islands are looked at.
"""

import mmap
import os
import random
from pathlib import Path

import pytest

from tests.support.mounted import needs_fuse
from tests.support.references import Drive

pytestmark = needs_fuse

SIZE = int(os.environ.get("POSIX_CONTENT", str(2**20)))
STEPS = int(os.environ.get("POSIX_CONTENT_STEPS", "200"))
PAGE = 4096


class Sparse:
    """A string of bytes, kept by page; what is not kept is zeros."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.size = 0

    def write(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), 1):
            if at == 0 or (offset + at) % PAGE == 0:
                page, start = divmod(offset + at, PAGE)
                part = data[at : at + PAGE - start]
                self.pages.setdefault(page, bytearray(PAGE))[start : start + len(part)] = part
        self.size = max(self.size, offset + len(data))

    def truncate(self, size: int) -> None:
        for page in [page for page in self.pages if page * PAGE >= size]:
            del self.pages[page]
        if size // PAGE in self.pages:
            self.pages[size // PAGE][size % PAGE :] = bytes(PAGE - size % PAGE)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        pages = range(offset // PAGE, -(-end // PAGE))
        joined = b"".join(bytes(self.pages.get(page, bytes(PAGE))) for page in pages)
        return joined[offset % PAGE :][: max(end - offset, 0)]


class Run:
    def __init__(self, drive: Drive, seed: int) -> None:
        self.drive = drive
        self.source = random.Random(seed)
        self.path: Path = drive.folder / f"content-{seed}"
        self.model = Sparse()
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT)

    def _offset(self) -> int:
        bound = max(self.model.size, 1) if self.source.random() < 0.7 else SIZE
        offset = self.source.randrange(bound)
        return offset - offset % PAGE if self.source.random() < 0.3 else offset

    def _data(self) -> bytes:
        length = min(int(2 ** self.source.uniform(0, 17)), SIZE // 4)
        return self.source.randbytes(length) if self.source.random() < 0.7 else bytes(length)

    def write(self) -> None:
        offset, data = self._offset(), self._data()
        assert os.pwrite(self.file, data, offset) == len(data)
        self.model.write(offset, data)

    def append(self) -> None:
        data = self._data()
        if self.model.size + len(data) < SIZE:
            self.model.write(self.model.size, data)
            os.lseek(self.file, 0, os.SEEK_END)
            assert os.write(self.file, data) == len(data)

    def truncate(self) -> None:
        size = self._offset() if self.source.random() < 0.8 else 0
        os.ftruncate(self.file, size)
        self.model.truncate(size)

    def map(self) -> None:
        offset, data = self._offset(), self._data()
        data = data[: max(self.model.size - offset, 0)]
        if data:
            start = offset - offset % mmap.ALLOCATIONGRANULARITY
            with mmap.mmap(self.file, offset + len(data) - start, offset=start) as mapped:
                mapped[offset - start :] = data
            self.model.write(offset, data)

    def read(self) -> None:
        offset, length = self._offset(), int(2 ** self.source.uniform(0, 18))
        assert os.pread(self.file, length, offset) == self.model.read(offset, length), (offset, length)

    def drop_cache(self) -> None:
        os.fsync(self.file)
        os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)

    def reopen(self) -> None:
        os.close(self.file)
        self.file = os.open(self.path, os.O_RDWR)

    def remount(self) -> None:
        os.close(self.file)
        self.drive.remount()
        self.file = os.open(self.path, os.O_RDWR)
        self.check()

    def check(self) -> None:
        """All of it, or the islands and what is around them."""
        assert os.fstat(self.file).st_size == self.model.size
        step = 2**20
        spans = {page * PAGE // step for page in self.model.pages}
        if self.model.size <= 2**26:
            spans = set(range(self.model.size // step + 1))
        for span in sorted(spans):
            assert os.pread(self.file, step, span * step) == self.model.read(span * step, step), span

    def go(self, steps: int) -> None:
        choices = (self.write, self.append, self.truncate, self.map, self.read, self.drop_cache, self.reopen)
        weights = (8, 4, 1, 4, 8, 1, 1)
        for number in range(steps):
            self.source.choices(choices, weights)[0]()
            if number % (steps // 3) == steps // 4:
                self.remount()
        self.drop_cache()
        self.check()
        self.remount()
        os.close(self.file)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_changes_of_one_file(drive: Drive, seed: int) -> None:
    Run(drive, seed).go(STEPS)
