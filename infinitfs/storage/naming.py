"""Which keys a storage takes.

Above: every backend checks with it before it touches anything. Below: nothing.
Invariant: a key that passes names an object inside the storage's folder on every backend alike: printable
ASCII without backslashes, `/`-separated, no part empty or starting with a dot (so neither `.` nor `..`, nor
what a backend keeps for itself) or a space.
"""

import re

from infinitfs.errors import UsageError

_PART = r"[!-\-0-\[\]-~][ -\.0-\[\]-~]{0,254}"
_KEY = re.compile(rf"{_PART}(/{_PART})*")
_PREFIX = re.compile(rf"({_PART}/)*({_PART})?")
_LONGEST = 768  # S3 takes 1024 bytes, the storage's own folder included


def is_key(key: str) -> bool:
    return len(key) <= _LONGEST and _KEY.fullmatch(key) is not None


def check_key(key: str) -> None:
    """Raise UsageError where `key` is not one."""
    if not is_key(key):
        raise UsageError(problem=f"{key[:80]!r} is not an object's key: use relative names of ASCII.")


def check_prefix(prefix: str) -> None:
    """Raise UsageError where `prefix` starts no key. The empty prefix starts all of them."""
    if len(prefix) > _LONGEST or _PREFIX.fullmatch(prefix) is None:
        raise UsageError(problem=f"{prefix[:80]!r} starts no key: use relative names of ASCII.")
