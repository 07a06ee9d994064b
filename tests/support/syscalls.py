"""System calls that Python's `os` does not have, and the binary form of ACLs.

Above: tests/posix. Below: the C library.
Invariant: as in `os`, a failure is an OSError with the call's errno.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
UNDEFINED = 0xFFFFFFFF

_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> int:
    result = int(getattr(_libc, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def rename(source: Path | str, target: Path | str, flags: int) -> None:
    """renameat2(2)."""
    _call("renameat2", _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags))


def link_open(descriptor: int, target: Path) -> None:
    """A name for an open file: linkat(2) with AT_SYMLINK_FOLLOW."""
    _call("linkat", _AT_FDCWD, f"/proc/self/fd/{descriptor}".encode(), _AT_FDCWD, os.fsencode(target), 0x400)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), with none of the emulation that posix_fallocate(3) has."""
    _call("fallocate", descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def getxattr_sized(path: Path, name: str, size: int) -> int:
    """getxattr(2) with a buffer of `size` bytes."""
    return _call("getxattr", os.fsencode(path), name.encode(), ctypes.create_string_buffer(size), size)


def listxattr_sized(path: Path, size: int) -> int:
    """listxattr(2) with a buffer of `size` bytes."""
    return _call("listxattr", os.fsencode(path), ctypes.create_string_buffer(size), size)


def setxattr(path: Path, name: bytes, value: bytes, flags: int = 0) -> None:
    """setxattr(2), with names that Python refuses."""
    _call("setxattr", os.fsencode(path), name, value, len(value), flags)


def acl(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """An ACL of (tag, permissions[, id]), as acl(5) and <linux/posix_acl_xattr.h> have it."""
    packed = (struct.pack("<HHI", *entry, *([UNDEFINED] if len(entry) == 2 else [])) for entry in entries)
    return struct.pack("<I", 2) + b"".join(packed)


def acl_entries(value: bytes) -> list[tuple[int, int, int]]:
    """(tag, permissions, id) of each entry."""
    return list(struct.iter_unpack("<HHI", value[4:]))


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """What is inside fails with one of these errnos."""
    with pytest.raises(OSError) as refusal:
        yield
    names = [errno.errorcode[number] for number in numbers]
    assert refusal.value.errno in numbers, f"{refusal.value} instead of {names}"


class Directory:
    """A stream of a directory: opendir(3), with telldir and seekdir."""

    def __init__(self, path: Path) -> None:
        for name in ("opendir", "readdir"):
            getattr(_libc, name).restype = ctypes.c_void_p
        _libc.telldir.restype = ctypes.c_long
        pointer = _libc.opendir(os.fsencode(path))
        if not pointer:
            raise OSError(ctypes.get_errno(), "opendir")
        self._stream = ctypes.c_void_p(pointer)

    def read(self) -> tuple[bytes, int, int] | None:
        """Name, inode number and type of the next entry; None at the end."""
        entry = _libc.readdir(self._stream)
        if not entry:
            return None
        head = ctypes.string_at(entry, 19)
        return ctypes.string_at(entry + 19), int.from_bytes(head[:8], "little"), head[18]

    def rest(self) -> list[bytes]:
        """The names from here to the end."""
        return [entry[0] for entry in iter(self.read, None)]

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        _libc.seekdir(self._stream, ctypes.c_long(place))

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        _libc.closedir(self._stream)


def flags_of(names: Iterable[str]) -> int:
    """The `os.O_` flags of these names, together."""
    value = 0
    for name in names:
        value |= int(getattr(os, f"O_{name}"))
    return value
