"""`infinitfs volume`: encrypted drives on a storage.

Above: `main.py`, `compat.py` and `quickstart.py`. Below: `mount/admin.py`, which works in the storage, and
`config/`.
Invariant: a record is written only once the storage holds the volume's descriptor.
"""

from typing import TYPE_CHECKING, Any

import click

from infinitfs.cli import terminal
from infinitfs.cli.base import Group, pass_invocation
from infinitfs.cli.invocation import Invocation, check_new
from infinitfs.cli.options import Size, acting_user, named, passphrase_sources, require
from infinitfs.errors import AlreadyExists, InfinitfsError, InUse, InvalidName, NotFound, UsageError

if TYPE_CHECKING:
    from infinitfs.config.model import StorageRecord, UserRecord, VolumeRecord
    from infinitfs.volume.descriptor import Parameters


@click.group(cls=Group)
def volume() -> None:
    """Volumes: encrypted drives on a storage, mounted as folders."""


@volume.command("create", example="infinitfs volume create --as alice --name drive --storage s3-storage")
@named("volume")
@acting_user
@click.option("--storage", metavar="STORAGE", help="The storage that keeps the volume.")
@click.option(
    "--chunking",
    type=click.Choice(["content", "fixed"]),
    default="content",
    help="Where files are cut: where their content says (an insertion costs little), or at fixed steps.",
)
@click.option("--block-size", type=Size(), help="The block size: the average, or with --chunking fixed each.")
@click.option("--description", metavar="TEXT", default="", help="A note about this volume.")
@passphrase_sources
@pass_invocation
def create(
    invocation: Invocation,
    name: str,
    as_name: str | None,
    storage: str | None,
    chunking: str,
    block_size: int | None,
    description: str,
) -> None:
    """Create a volume on a storage."""
    from infinitfs.cli.user import note_about_key

    storage_record = invocation.store.storages.get(require(storage, "Storage", "--storage"))
    user = invocation.user(as_name)
    parameters = _parameters(chunking, block_size)
    record = make_volume(invocation, name, user, storage_record, parameters, description)
    invocation.answer(_shown(record), f'Created volume "{name}".')
    note_about_key(invocation, user)


@volume.command("list", example="infinitfs volume list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List the volumes known on this machine."""
    rows = [_shown(record) for record in invocation.store.volumes.list()]
    invocation.answer_table(rows, {"name": "NAME", "user": "USER", "storage": "STORAGE", "volume": "ID"})


@volume.command("show", example="infinitfs volume show drive")
@named("volume")
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show a volume's record."""
    invocation.answer_fields(_shown(invocation.store.volumes.get(name)))


@volume.command("status", example="infinitfs volume status drive")
@named("volume")
@pass_invocation
def status(invocation: Invocation, name: str) -> None:
    """Show the state of a mounted volume."""
    from infinitfs.cli.status import details, read_status
    from infinitfs.mount.control import mounted

    record = invocation.store.volumes.get(name)
    if record.volume not in mounted(invocation.paths):
        raise NotFound(
            what=f'A mount of the volume "{name}"',
            remedy=f"`infinitfs mount {name} DIR` makes one on this machine",
        )
    state = read_status(invocation, record.volume)
    invocation.answer_fields(state if invocation.json else details(state))


@volume.command(
    "fetch",
    example="infinitfs volume fetch --as alice --storage s3-storage\n"
    "infinitfs volume fetch --storage s3-storage --name drive --local-name other-drive",
)
@click.option("--name", "-n", metavar="NAME", help="Fetch this volume only; its ID does the same.")
@click.option("--local-name", metavar="NAME", help="What to call that volume on this machine [default: its name].")
@acting_user
@click.option("--storage", metavar="STORAGE", help="The storage to look in.")
@passphrase_sources
@pass_invocation
def fetch(
    invocation: Invocation, name: str | None, local_name: str | None, as_name: str | None, storage: str | None
) -> None:
    """Find the volumes on a storage that this user can open, and add them to this machine."""
    from infinitfs.cli.account import account_of_storage
    from infinitfs.mount.admin import fetch_volumes

    if local_name is not None:
        require(name, "Volume name", "--name")
        check_new(invocation.store.volumes, "volume", local_name)
    storage_record = invocation.store.storages.get(require(storage, "Storage", "--storage"))
    user = invocation.user(as_name)
    identity = invocation.identity(user)
    account = account_of_storage(invocation, storage_record)
    found = fetch_volumes(user, identity, storage_record, account)
    wanted = [record for record in found if name in (None, record.name, record.volume)]
    if not wanted:
        raise NotFound(
            what="A volume" if name is None else f'The volume "{name}"',
            remedy=f'on the storage "{storage}" the user "{user.name}" can open {len(found)}',
        )
    if local_name is not None and len(wanted) > 1:
        ids = ", ".join(record.volume for record in wanted)
        raise UsageError(problem=f'Several volumes are called "{name}": give the ID of one with --name ({ids}).')
    _add(invocation, wanted, local_name)


def _add(invocation: Invocation, found: "list[VolumeRecord]", local_name: str | None) -> None:
    """Keep what is new here of what was found. What cannot have its name does not stand in the way of the rest; raises
    the first such problem."""
    import msgspec

    known = {record.volume: record.name for record in invocation.store.volumes.list()}
    left: list[InfinitfsError] = []
    for record in found:
        if record.volume in known:
            invocation.note(f'The volume "{record.name}" is known here already, as "{known[record.volume]}".')
            continue
        local = msgspec.structs.replace(record, name=local_name or record.name)
        try:
            invocation.store.volumes.create(local)
        except AlreadyExists:
            remedy = f"`--name {record.volume} --local-name NAME` fetches this one under another name"
            left.append(InUse(what=f'The volume name "{local.name}"', remedy=remedy))
        except InvalidName as error:
            left.append(error)
        else:
            here = f' as "{local_name}"' if local_name is not None else ""
            invocation.answer(_shown(local), f'Fetched volume "{record.name}"{here}.')
    for problem in left[1:]:
        invocation.note(str(problem))
    if left:
        raise left[0]


@volume.command("delete", example="infinitfs volume delete drive")
@named("volume")
@click.option("--data", is_flag=True, help="Delete all that the volume stores, too; its name is asked for.")
@passphrase_sources
@pass_invocation
def delete(invocation: Invocation, name: str, data: bool) -> None:
    """Forget a volume on this machine; with --data, delete all that it stores, for ever."""
    from infinitfs.mount.control import mounted

    record = invocation.store.volumes.get(name)
    if record.volume in mounted(invocation.paths):
        raise InUse(what=f'The volume "{name}"', remedy="unmount it first")
    if data:
        _delete_data(invocation, record)
    invocation.store.volumes.delete(name)
    invocation.answer({"deleted": name, "data": data}, f'Deleted volume "{name}".')


def make_volume(
    invocation: Invocation,
    name: str,
    user: "UserRecord",
    storage: "StorageRecord",
    parameters: "Parameters",
    description: str = "",
) -> "VolumeRecord":
    """A new volume, in its storage and in the store."""
    from infinitfs.cli.account import account_of_storage
    from infinitfs.mount.admin import create_volume

    check_new(invocation.store.volumes, "volume", name)
    identity = invocation.identity(user)
    account = account_of_storage(invocation, storage)
    record: VolumeRecord = create_volume(
        name,
        user,
        identity,
        storage,
        account,
        parameters=parameters,
        description=description,
    )
    invocation.store.volumes.create(record)
    return record


def _parameters(chunking: str, block_size: int | None) -> "Parameters":
    from infinitfs.volume.descriptor import Parameters

    if block_size is None:
        return Parameters(cutting="fixed") if chunking == "fixed" else Parameters()
    try:
        if chunking == "fixed":
            return Parameters(cutting="fixed", minimum=block_size, target=block_size, maximum=block_size)
        return Parameters(minimum=block_size // 4, target=block_size, maximum=block_size * 4)
    except ValueError:
        limits = "4 KiB to 64 MiB" if chunking == "fixed" else "16 KiB to 16 MiB"
        raise UsageError(problem=f"--block-size is from {limits} with --chunking {chunking}.") from None


@volume.command("set-aside", example="infinitfs volume set-aside drive")
@named("volume")
@pass_invocation
def set_aside(invocation: Invocation, name: str) -> None:
    """Move this machine's state of a volume away; the next mount starts from what the storage holds.

    For a storage that was restored to an older state on purpose, and for changes that another machine's take-over kept
    from being sent. What is moved is kept, not deleted.
    """
    from infinitfs.mount.admin import set_aside as move_away

    kept = move_away(invocation.paths, invocation.store.volumes.get(name))
    where = str(kept) if kept is not None else ""
    text = f'Kept this machine\'s state of "{name}" in {where}.' if kept else f'There is no state of "{name}" here.'
    invocation.answer({"volume": name, "kept": where}, text)


def _delete_data(invocation: Invocation, record: "VolumeRecord") -> None:
    from infinitfs.cli.account import account_of_storage
    from infinitfs.mount.admin import delete_volume

    invocation.note(
        f'This deletes everything in the volume "{record.name}" on the storage "{record.storage}", for ever.'
    )
    if terminal.interactive():
        typed = terminal.ask("Type the volume's name to go on: ")
    else:
        typed = terminal.read_line_from_input("The volume's name, which confirms the deletion, is")
    if typed != record.name:
        raise UsageError(problem=f'"{typed}" is not the name of the volume "{record.name}": nothing was deleted.')
    storage = invocation.store.storages.get(record.storage)
    delete_volume(invocation.paths, record, storage, account_of_storage(invocation, storage))


def _shown(record: "VolumeRecord") -> dict[str, Any]:
    return {
        "name": record.name,
        "volume": record.volume,
        "storage": record.storage,
        "user": record.user,
        "created": record.created,
        "description": record.description,
    }
