"""A folder on a local disk that knows everything the mount is compared in, and a mount to compare with it.

Above: tests/posix. Below: `mounted.Home`; tmpfs, ext4 or whatever this machine has.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import syscalls
from tests.support.mounted import STORAGE, USER, VOLUME, Home, Mounted
from tests.support.syscalls import GROUP_OBJ, MASK, OTHER, USER_OBJ, acl
from tests.support.users import IS_ROOT


def reference() -> Path | None:
    """Where references may be kept: POSIX_REFERENCE, or the first usual place that can do everything."""
    given = os.environ.get("POSIX_REFERENCE")
    for place in [Path(given)] if given else [Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/var/tmp")]:
        if place.is_dir() and _is_able(place):
            return place
    return None


def _is_able(place: Path) -> bool:
    probe = Path(tempfile.mkdtemp(dir=place))
    one, two = probe / "one", probe / "two"
    try:
        one.touch()
        two.mkdir()
        os.setxattr(one, "user.probe", b"1")
        os.setxattr(one, syscalls.ACCESS, acl((USER_OBJ, 7), (GROUP_OBJ, 7), (MASK, 7), (OTHER, 0)))
        syscalls.rename(one, two, syscalls.EXCHANGE)
        return probe.stat().st_nlink == 3
    except OSError:
        return False
    finally:
        shutil.rmtree(probe)


@contextmanager
def public_folder(place: Path | None = None) -> Iterator[Path]:
    """A new folder that every user may enter; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="posix-", dir=place))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass
class Drive:
    """A mounted volume of its own, that all users of this machine may use."""

    home: Home
    mounted: Mounted

    @property
    def folder(self) -> Path:
        return self.mounted.directory

    @property
    def stored_bytes(self) -> int:
        """The size of everything in the storage."""
        store = self.home.folder.parent / "store"
        return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())

    def remount(self) -> None:
        """Unmount and mount again: nothing of what the kernel knew is left."""
        self.mounted.unmount()
        self.mounted = self.home.mount(self.folder, *_options())


def _options() -> list[str]:
    return ["--allow-other"] if IS_ROOT else []


def make_records(folder: Path) -> None:
    """In `folder`, a home with a user, a storage in `store` and a new volume there, to be copied by `new_drive`."""
    home = Home(folder)
    home.run("user", "create", USER)
    home.run("storage", "create", "--filesystem", STORAGE, "--path", str(folder / "store"))
    home.run("volume", "create", VOLUME, "--storage", STORAGE)


@contextmanager
def new_drive(records: Path) -> Iterator[Drive]:
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        home = Home(folder / "machine")
        stack.callback(home.close)
        home.folder.chmod(0o700)
        shutil.copytree(records / "home" / "config", home.root / "config")
        shutil.copytree(records / "store", folder / "store")
        record = home.root / "config" / "storages" / f"{STORAGE}.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"path": str(folder / "store")}))
        yield Drive(home, home.mount(folder / "drive", *_options()))
