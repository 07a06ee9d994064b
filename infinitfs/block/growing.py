"""Files that only grow, in one folder, each of them durable up to where it was extended.

Above: `staging` (frames on their way to the storage), `volume.intents` (bytes on their way to becoming frames). Below:
`config.disk`. Blocking calls, for threads.
Invariant: what `extend` was given is durable once it returns, and so is the name of a file from its creation on. A disk
that failed to write or sync is never tried again into success: from then on every change raises LocalDiskFailed, until
the next mount. Several files may be extended at once: that one finds the disk full is no failure for the others.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from infinitfs.config.disk import Buffer, DirectWriter, sync_folder
from infinitfs.errors import InfinitfsError, LocalDiskFailed, NoSpace
from infinitfs.transfer.files import remove

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class GrowingFiles:
    """The files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = DirectWriter()
        self._failed = False

    def create(self, name: str) -> int:
        """A new file; returns its descriptor, for `extend`. Raises NoSpace, LocalDiskFailed."""
        path = self.folder / name
        with self.errors():
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                sync_folder(self.folder)
            except OSError as error:
                self._failed = self._failed or error.errno not in _FULL
                os.close(descriptor)
                remove([path])
                raise
        return descriptor

    def extend(self, descriptor: int, size: int, buffers: Sequence[Buffer]) -> None:
        """Write and sync behind the `size` bytes that the file has; where that fails for want of space it is as it was
        before. Raises NoSpace, LocalDiskFailed."""
        if self._failed:
            raise LocalDiskFailed(path=str(self.folder), reason="it failed before")
        with self.errors():
            try:
                self._writer.write(descriptor, buffers, size, sum(map(len, buffers)))
                os.fdatasync(descriptor)
            except OSError as error:
                if error.errno not in _FULL or not _is_cut(descriptor, size):
                    self._failed = True
                raise

    def read(self, name: str, offset: int, length: int) -> bytes:
        """The bytes `[offset, offset + length)` of a file, fewer where it ends before.

        Through a descriptor of its own: the writer's may be closed, and its number given again, at any moment. Raises
        FileNotFoundError, LocalDiskFailed.
        """
        try:
            with (self.folder / name).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), length, offset)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.failure(error) from error

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """OSErrors inside leave as NoSpace or LocalDiskFailed."""
        try:
            yield
        except OSError as error:
            raise self.failure(error) from error

    def failure(self, error: OSError) -> InfinitfsError:
        if error.errno in _FULL:
            return NoSpace(what=str(self.folder), remedy="free space on this machine's disk")
        return LocalDiskFailed(path=str(self.folder), reason=os.strerror(error.errno or 0))


def _is_cut(descriptor: int, size: int) -> bool:
    """Whether a file could be cut to the length that it had."""
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        return False
    return True
