"""`infinitfs quickstart DIR`: from nothing to a mounted folder.

Above: `main.py`. Below: the functions with which `user`, `storage`, `volume` and `mount` make what is
missing.
Invariant: each step is skipped where its result is there already, so that the same command goes on after any
interruption and mounts again after a restart.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.invocation import Invocation
from infinitfs.cli.mount import mount_volume, mountpoint_of
from infinitfs.cli.options import passphrase_sources
from infinitfs.cli.storage import make_filesystem_storage, place_of
from infinitfs.cli.user import make_user, note_about_key
from infinitfs.cli.volume import make_volume
from infinitfs.errors import InUse, NotFound, RecordNotFound, UsageError

if TYPE_CHECKING:
    from infinitfs.config.model import UserRecord

_STORAGE = "local"
_VOLUME = "drive"


@click.command("quickstart", cls=Command, example="infinitfs quickstart ~/drive")
@click.argument("directory", metavar="DIR")
@passphrase_sources
@pass_invocation
def quickstart(invocation: Invocation, directory: str) -> None:
    """Make a user, a storage in a local folder and a volume, where they are missing, and mount it at DIR."""
    from infinitfs.cli.status import read_status
    from infinitfs.mount.control import mounted
    from infinitfs.mount.mountpoint import is_mounted

    where = mountpoint_of(directory)
    user_name, data = _prepare(invocation)
    volume = invocation.store.volumes.get(_VOLUME)
    if volume.volume in mounted(invocation.paths):
        mountpoint = read_status(invocation, volume.volume)["mountpoint"]
        if mountpoint != str(where):
            raise InUse(
                what=f'The volume "{_VOLUME}"',
                remedy=f"it is mounted at {mountpoint}; `infinitfs unmount {mountpoint}` ends that",
            )
        if not is_mounted(where):
            raise InUse(
                what=f'The volume "{_VOLUME}"',
                remedy=f"it was unmounted, and what was written still goes to the storage: `infinitfs unmount {where}` "
                "waits for that",
            )
    else:
        mount_volume(invocation, _VOLUME, where)
    invocation.answer(
        {"mounted": _VOLUME, "mountpoint": str(where), "user": user_name, "data": data},
        f"Your drive is at {where}.",
    )
    invocation.note(f"What you put there is stored, encrypted, in {data}.")
    invocation.note(f"Stop: infinitfs unmount {where}")
    invocation.note(f"Start again: infinitfs quickstart {where}")
    note_about_key(invocation, invocation.store.users.get(user_name))


def _prepare(invocation: Invocation) -> tuple[str, str]:
    """Make what is missing; the names of the volume's user and of the place of its data."""
    from infinitfs.volume.descriptor import Parameters

    store = invocation.store
    try:
        volume = store.volumes.get(_VOLUME)
    except RecordNotFound:
        user = _user(invocation)
        try:
            storage = store.storages.get(_STORAGE)
        except RecordNotFound:
            storage = make_filesystem_storage(invocation, _STORAGE, _data_folder(invocation))
            invocation.note(f'Created storage "{_STORAGE}".')
        volume = make_volume(invocation, _VOLUME, user, storage, Parameters())
        invocation.note(f'Created volume "{_VOLUME}".')
    storage = store.storages.get(volume.storage)
    return volume.user, place_of(storage)


def _data_folder(invocation: Invocation) -> Path:
    """Where the local storage keeps its data: beside the other folders, or in XDG's folder for data."""
    from platformdirs import user_data_path

    home = invocation.environ.get("INFINITFS_HOME")
    return (Path(home) / "data" if home else user_data_path("infinitfs")) / _STORAGE


def _user(invocation: Invocation) -> "UserRecord":
    try:
        return invocation.user(None)
    except (NotFound, UsageError):
        name = valid_name(invocation.login)
        user = make_user(invocation, name)
        invocation.note(f'Locally generated user "{name}".')
        return user


def valid_name(login: str) -> str:
    """A user's name as near to a login name as names may be."""
    return re.sub(r"[^-a-z0-9._]", "-", login.lower()).lstrip(".")[:128] or "user"
