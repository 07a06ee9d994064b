"""Where the rules are tried: a mounted volume for each module, and a folder on a local disk, which shows that a test
asks for what is right.

A test that takes `folder` runs four times: in the mount and on the disk, as root and as an ordinary user who owns the
folder. One that takes `shared` says itself who does what, in a folder that everybody may write to.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.support.references import Drive, make_records, new_drive, public_folder, reference
from tests.support.users import IS_ROOT, NOBODY, ROOT, User, acting_as

_MYSELF = User("myself", os.geteuid(), os.getegid(), tuple(os.getgroups()))
_NUMBERS = count()


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    make_records(folder)
    return folder


@pytest.fixture(scope="module")
def drive(records: Path) -> Iterator[Drive]:
    with new_drive(records) as made:
        yield made
        made.mounted.unmount()


@pytest.fixture(scope="module")
def local() -> Iterator[Path]:
    """A folder on a local disk that can do all that a mount is compared in."""
    place = reference()
    if place is None:
        pytest.skip("no local folder here has ACLs, attributes and exchange; name one with POSIX_REFERENCE")
    with public_folder(place) as folder:
        yield folder


@pytest.fixture(scope="module", params=["mount", "disk"])
def place(request: pytest.FixtureRequest) -> Path:
    if request.param == "disk":
        folder: Path = request.getfixturevalue("local")
        return folder
    drive: Drive = request.getfixturevalue("drive")
    return drive.folder


@pytest.fixture(params=[ROOT, NOBODY] if IS_ROOT else [_MYSELF], ids=lambda user: user.name)
def user(request: pytest.FixtureRequest) -> User:
    found: User = request.param
    return found


@pytest.fixture
def folder(place: Path, user: User) -> Iterator[Path]:
    with _no_umask():
        made = place / f"{next(_NUMBERS):04d}"
        made.mkdir(mode=0o755)
        if user.uid != os.geteuid():
            os.chown(made, user.uid, user.gid)
        with acting_as(user):
            yield made


@pytest.fixture
def shared(place: Path) -> Iterator[Path]:
    if not IS_ROOT:
        pytest.skip("only root can become several users")
    with _no_umask():
        made = place / f"{next(_NUMBERS):04d}"
        made.mkdir(mode=0o777)
        yield made


@contextmanager
def _no_umask() -> Iterator[None]:
    previous = os.umask(0)
    try:
        yield
    finally:
        os.umask(previous)
