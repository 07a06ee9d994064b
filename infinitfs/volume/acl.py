"""POSIX ACLs: what they say of a mode, what a mode says of them, what a directory passes on.

Above: `namespace`, which keeps them as attributes. Below: nothing; bytes in, bytes out. The kernel checks permissions
and that an ACL is a valid one.
Invariant: a mode and an access ACL never disagree, because the entries that a mode speaks of (owner, mask, others) are
taken from the mode whenever an ACL is shown: a kept one says something new only of named users and groups, and of the
owning group.

The form is that of <linux/posix_acl_xattr.h>: a version, then (tag, permissions, id) in the order of the tags; the
rules are those of acl(5) and POSIX.1e draft 17, 23.1.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from infinitfs.errors import InvalidOperation

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20
_MINIMAL = {_USER_OBJ, _GROUP_OBJ, _OTHER}
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")


class _Entry(NamedTuple):
    tag: int
    permissions: int
    id: int


def mode_of(acl: bytes, mode: int) -> int:
    """`mode` with the permissions that an access ACL asks for. Raises InvalidOperation."""
    entries = _parse(acl)
    permissions = {entry.tag: entry.permissions for entry in entries}
    for shift, tag in _places(entries).items():
        mode = mode & ~(7 << shift) | permissions[tag] << shift
    return mode


def says_more(acl: bytes) -> bool:
    """Whether an ACL says anything that a mode cannot."""
    return any(entry.tag not in _MINIMAL for entry in _parse(acl))


def shown(acl: bytes, mode: int) -> bytes:
    """A kept access ACL as it is with `mode`."""
    entries = _parse(acl)
    shifts = {tag: shift for shift, tag in _places(entries).items()}
    return _pack(
        entry._replace(permissions=mode >> shifts[entry.tag] & 7) if entry.tag in shifts else entry for entry in entries
    )


def inherited(default: bytes, mode: int) -> int:
    """`mode` of something new in a directory with this default ACL: what both permit."""
    return mode & (mode_of(default, mode) | ~0o777)


def _places(entries: list[_Entry]) -> dict[int, int]:
    """Which entry each three bits of a mode, by their shift, stand for."""
    group = _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ
    return {6: _USER_OBJ, 3: group, 0: _OTHER}


def _parse(acl: bytes) -> list[_Entry]:
    head, body = acl[: len(_VERSION)], acl[len(_VERSION) :]
    if head != _VERSION or len(body) % _ENTRY.size:
        raise InvalidOperation(path="the ACL")
    entries = [_Entry(*fields) for fields in _ENTRY.iter_unpack(body)]
    if not {entry.tag for entry in entries} >= _MINIMAL:
        raise InvalidOperation(path="the ACL")
    return entries


def _pack(entries: Iterable[_Entry]) -> bytes:
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)
