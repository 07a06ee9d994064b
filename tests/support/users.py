"""Several users in one process: the calls of a test, made as one of them.

Above: tests/posix. Below: the effective ids of this process, which the kernel checks and which a filesystem is told.
Invariant: after `acting_as` the process is who it was.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class User(NamedTuple):
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


TEAM = 30_003
"""A group that ANN and BOB are both in."""

ROOT = User("root", 0, 0, (0,))
ANN = User("ann", 30_001, 30_001, (30_001, TEAM))
BOB = User("bob", 30_002, 30_002, (30_002, TEAM))
NOBODY = User("nobody", 65_534, 65_534, (65_534,))

IS_ROOT = os.geteuid() == 0


@contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Everything inside happens with the user's ids and, for who is not root, without any capability."""
    if user.uid == os.geteuid():
        yield
        return
    before = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(before[0])
        os.setegid(before[1])
        os.setgroups(before[2])
