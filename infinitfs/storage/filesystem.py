"""A storage in a local folder: one file an object.

Above: the decorators and `transfer/`. Below: the operating system, in threads.
Invariant: a file under its key is whole and, once `put` returned, on the disk with every folder above it. A
new file is written under a temporary name in `.infinitfs/`, synced, and only then renamed (or linked, where
it must not replace one). A folder goes with the last object in it; a put makes it again, also where it goes
meanwhile. The folder `.infinitfs/` is made by `prepare` alone: where it is missing the disk is not mounted, and
nothing is read from or written to the empty mountpoint in its place.
"""

import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from infinitfs.config.disk import DirectWriter, sync_folder
from infinitfs.errors import (
    AccessDenied,
    DamagedObject,
    FolderAway,
    InfinitfsError,
    NoSpace,
    ObjectExists,
    ObjectNotFound,
    StorageFailed,
    StorageRejected,
)
from infinitfs.storage.base import Buffer, ObjectInfo, Storage
from infinitfs.storage.naming import check_key, check_prefix, is_key

_TEMPORARY = ".infinitfs"
_THREADS = 16
_LEFTOVER_AGE = 24 * 3600  # seconds; a younger temporary file may belong to a live writer

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ABSENT = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP})
_LINKLESS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})
_MISFIT = frozenset({errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG})

T = TypeVar("T")
_Entries = list[ObjectInfo | str]  # objects, and folders as "" or with a slash at the end


def prepare(folder: Path) -> None:
    """Make `folder` a storage: it and what it needs inside, if not there yet. Blocking. Raises OSError."""
    temporary = folder / _TEMPORARY
    made = [path for path in (temporary, *temporary.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary.mkdir(mode=0o700, exist_ok=True)
    for path in made:
        sync_folder(path.parent)


def explain(error: OSError, storage: str, action: str) -> InfinitfsError:
    """The error of the tree for `error`, met while about to `action` (an infinitive)."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return NoSpace(what=storage, remedy="make room there, or move the storage to a larger disk")
    if error.errno in _DENIED:
        return AccessDenied(storage=storage, action=action, reason=reason)
    if error.errno in _MISFIT:
        return StorageRejected(storage=storage, action=action, reason=reason)
    return StorageFailed(storage=storage, action=action, reason=reason)


class FilesystemStorage(Storage):
    """The storage in `folder`, which `prepare` made once. A key cannot also be the folder of another key."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._temporary = folder / _TEMPORARY
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._durable: set[Path] = {folder}
        self._naming = threading.Lock()  # no folder goes between its making and the first name in it
        self._writer = DirectWriter()  # what is stored is read from the cache for as long as that has it
        self._cleaned = False

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_key(key)

        def read() -> bytes:
            descriptor = os.open(self._folder / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0):
                size = os.fstat(descriptor).st_size
                end = size if length is None else start + length
                if max(start, end) > size:
                    raise DamagedObject(key=key, reason=f"it ends at byte {size}")
                data = os.pread(descriptor, end - start, start)
                while len(data) < end - start:  # past 2 GiB a read is short
                    more = os.pread(descriptor, end - start - len(data), start + len(data))
                    if not more:
                        raise DamagedObject(key=key, reason=f"it ends at byte {start + len(data)}")
                    data += more
                return data

        return await self._run("read", key, read)

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        check_key(key)

        def name(temporary: Path, target: Path) -> None:
            with self._naming:
                self._make_folder(target.parent)
                if create:
                    _link(temporary, target, key, self.name)
                else:
                    temporary.replace(target)

        def write() -> None:
            if not self._cleaned:
                self._clean()
            temporary = self._temporary / secrets.token_hex(16)
            target = self._folder / key
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb", buffering=0):
                    self._writer.write(descriptor, [data], 0, len(data))
                    os.fsync(descriptor)
                try:
                    name(temporary, target)
                except FileNotFoundError:  # another process took a folder away
                    self._check_present()
                    self._durable = {self._folder}
                    name(temporary, target)
                sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

        await self._run("write", key, write)

    async def size(self, key: str) -> int:
        check_key(key)

        def measure() -> int:
            status = (self._folder / key).lstat()
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return status.st_size

        return await self._run("read", key, measure)

    async def delete(self, key: str) -> None:
        check_key(key)

        def remove() -> None:
            target = self._folder / key
            try:
                target.unlink()
            except (FileNotFoundError, NotADirectoryError):
                self._check_present()
            except OSError:
                if target.is_dir():  # a folder of keys is no object
                    return
                raise
            else:
                self._remove_empty(target.parent)

        await self._run("delete", key, remove)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        check_prefix(prefix)
        top = prefix.rpartition("/")[0]
        pending: _Entries = [f"{top}/" if top else ""]
        while pending:
            entry = pending.pop()
            if isinstance(entry, ObjectInfo):
                yield entry
                continue
            inside = await self._run("list", entry, partial(self._scan, entry, prefix))
            inside.sort(key=lambda e: e if isinstance(e, str) else e.key, reverse=True)
            pending += inside

    def _scan(self, folder: str, prefix: str) -> _Entries:
        """What is right in `folder`, as far as it, or a key below it, may start with `prefix`."""
        found: _Entries = []
        try:
            with os.scandir(self._folder / folder) as entries:
                for entry in entries:
                    key = folder + entry.name
                    if not is_key(key):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        key += "/"
                        if key.startswith(prefix) or prefix.startswith(key):
                            found.append(key)
                    elif key.startswith(prefix) and entry.is_file(follow_symlinks=False):
                        with suppress(FileNotFoundError):  # deleted meanwhile
                            found.append(ObjectInfo(key, entry.stat(follow_symlinks=False).st_size))
        except (FileNotFoundError, NotADirectoryError):
            found = []
        if not found:
            self._check_present()
        return found

    async def _run(self, action: str, key: str, function: Callable[[], T]) -> T:
        """Run `function` in a thread; what it raises becomes an error of the tree."""

        def guarded() -> T:
            try:
                return function()
            except OSError as error:
                raise self._explain(error, action, key) from error

        return await trio.to_thread.run_sync(guarded, limiter=self._limiter)

    def _explain(self, error: OSError, action: str, key: str) -> InfinitfsError:
        try:
            self._check_present()
        except FolderAway as away:
            return away
        if action == "read" and error.errno in _ABSENT:
            return ObjectNotFound(key=key, storage=self.name)
        return explain(error, self.name, f'{action} "{key}"')

    def _check_present(self) -> None:
        try:
            self._temporary.stat()
        except (FileNotFoundError, NotADirectoryError):
            reason = f"there is no {_TEMPORARY} in it: its disk is not mounted, or it is no storage"
            raise FolderAway(storage=self.name, reason=reason) from None
        except OSError as error:
            if error.errno not in _DENIED:
                raise FolderAway(storage=self.name, reason=error.strerror or str(error)) from error

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and those above it, durably; also those another writer made and did not sync yet."""
        if folder in self._durable:
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
        self._durable.add(folder)

    def _remove_empty(self, folder: Path) -> None:
        """Remove `folder` and those above it while there is nothing in them, durably; that of the storage stays."""
        while folder != self._folder:
            try:
                with self._naming:
                    folder.rmdir()
                    self._durable.discard(folder)
            except FileNotFoundError:  # another was faster
                pass
            except OSError:  # not empty
                with suppress(FileNotFoundError):
                    return sync_folder(folder)
            folder = folder.parent
        return sync_folder(folder)

    def _clean(self) -> None:
        """Remove what writers that died left behind."""
        oldest = time.time() - _LEFTOVER_AGE
        with os.scandir(self._temporary) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < oldest:
                        Path(entry.path).unlink()
        self._cleaned = True


def _link(temporary: Path, target: Path, key: str, storage: str) -> None:
    """Give the temporary file its name, unless there is one of that name."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        # Over NFS the answer to a link that was made can get lost, and a retry fails: the count tells.
        if temporary.stat().st_nlink != 2:
            raise ObjectExists(key=key, storage=storage) from None
    except OSError as error:
        if error.errno not in _LINKLESS:
            raise
        reason = "its filesystem has no hard links"
        raise StorageRejected(storage=storage, action=f'create "{key}"', reason=reason) from error
