"""`infinitfs storage`: where sealed bytes are kept.

Above: `main.py`, `compat.py` and `quickstart.py`. Below: `storage/probe.py` and `probe_s3.py`, which check
one, and `config/`.
Invariant: a record is written only after every check passed; a failure leaves nothing behind.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infinitfs.cli.base import Group, pass_invocation
from infinitfs.cli.invocation import Invocation, check_new
from infinitfs.cli.options import Size, acting_user, named, now, passphrase_sources, require
from infinitfs.errors import InUse, UsageError

if TYPE_CHECKING:
    from infinitfs.config.model import FilesystemStorageRecord, StorageRecord
    from infinitfs.storage.account import Account

_S3_ONLY = ("account", "region", "bucket", "endpoint", "ca_bundle", "storage_class", "reduced_redundancy")


@click.group(cls=Group)
def storage() -> None:
    """Storages: a bucket or a local folder that keeps sealed bytes."""


@storage.command(
    "create",
    example="infinitfs storage create --s3 --name s3-storage --account s3-user --region eu-central-1 "
    "--bucket infinit-s3-storage-de-example-com --path blocks-folder\n"
    "infinitfs storage create --filesystem --name local --path /srv/blocks",
)
@named("storage")
@acting_user
@click.option("--s3", is_flag=True, help="A bucket of Amazon S3 or of a service that speaks its protocol.")
@click.option("--filesystem", is_flag=True, help="A folder of this machine.")
@click.option("--account", metavar="CREDENTIALS", help="The credentials that open the bucket.")
@click.option("--region", metavar="REGION", help="The bucket's region, by its identifier: eu-central-1.")
@click.option("--bucket", metavar="BUCKET", help="The bucket, which must exist.")
@click.option("--path", metavar="FOLDER", help="The folder, in the bucket [default: NAME_blocks] or local.")
@click.option("--reduced-redundancy", is_flag=True, help="The same as --storage-class REDUCED_REDUNDANCY.")
@click.option("--storage-class", metavar="CLASS", help="The storage class of data, e.g. STANDARD_IA.")
@click.option("--endpoint", metavar="URL", help="The service, where it is not Amazon's.")
@click.option("--ca-bundle", metavar="FILE", help="The authority that signed the service's certificate, in PEM form.")
@click.option("--capacity", type=Size(), default=0, help="The most to store, e.g. 2TB [default: no limit].")
@click.option("--description", metavar="TEXT", default="", help="A note about this storage.")
@click.option("--no-check", is_flag=True, help="Write the record without asking the service.")
@passphrase_sources
@pass_invocation
def create(invocation: Invocation, /, name: str, s3: bool, filesystem: bool, no_check: bool, **options: Any) -> None:
    """Create a storage, after checking that it can be used."""
    if s3 == filesystem:
        raise UsageError(problem="Storage type unspecified (use --s3 or --filesystem)")
    if filesystem:
        for option in _S3_ONLY:
            if options[option]:
                raise UsageError(problem=f"--{option.replace('_', '-')} is an option of --s3 storages only.")
        folder = require(options["path"], "Folder", "--path")
        record: StorageRecord = make_filesystem_storage(
            invocation, name, Path(folder), options["capacity"], options["description"], check=not no_check
        )
    else:
        record = _make_s3(invocation, name, check=not no_check, **options)
    invocation.answer(_shown(record), f'Created storage "{name}".')


@storage.command("list", example="infinitfs storage list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List the storages on this machine."""
    rows = [_shown(record) for record in invocation.store.storages.list()]
    invocation.answer_table(rows, {"name": "NAME", "type": "TYPE", "where": "WHERE", "account": "ACCOUNT"})


@storage.command("show", example="infinitfs storage show s3-storage")
@named("storage")
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show a storage."""
    record = _shown(invocation.store.storages.get(name))
    invocation.answer_fields({**record, "volumes": invocation.store.volumes_on(name)})


@storage.command("check", example="infinitfs storage check s3-storage")
@named("storage")
@passphrase_sources
@pass_invocation
def check(invocation: Invocation, name: str) -> None:
    """Check that a storage can be read, written, listed and deleted in, as `create` does."""
    from infinitfs.cli.account import account_of_storage

    record = invocation.store.storages.get(name)
    _, warnings = _probe(invocation, record, account_of_storage(invocation, record))
    invocation.answer({"name": name, "warnings": warnings}, f'The storage "{name}" can be used.')


@storage.command(
    "policy",
    example="infinitfs storage policy s3-storage\n"
    "infinitfs storage policy --bucket infinit-s3-storage-de-example-com --path blocks-folder",
)
@click.argument("operand", metavar="[NAME]", required=False)
@click.option("--name", "-n", metavar="NAME", help="A storage that exists already; the positional does the same.")
@click.option("--bucket", metavar="BUCKET", help="The bucket of one that does not exist yet, with --path.")
@click.option("--path", metavar="FOLDER", default="", help="The folder in that bucket [default: all of it].")
@pass_invocation
def policy(invocation: Invocation, operand: str | None, name: str | None, bucket: str | None, path: str) -> None:
    """Print the smallest policy that a storage's key needs: JSON for AWS's IAM, limited to bucket and folder."""
    from infinitfs.config.model import FilesystemStorageRecord
    from infinitfs.storage.policy import smallest_policy

    if name is not None and operand is not None and name != operand:
        raise UsageError(problem=f'Two storage names given, "{operand}" and "{name}": give one.')
    name = name or operand
    region = ""
    if name is not None and bucket is not None:
        raise UsageError(problem="A storage's name and --bucket exclude each other: give one.")
    if name is not None:
        record = invocation.store.storages.get(name)
        if isinstance(record, FilesystemStorageRecord):
            raise UsageError(problem=f'The storage "{name}" is a folder of this machine, and needs no policy.')
        bucket, path, region = record.bucket, record.path, record.region
    made = smallest_policy(require(bucket, "Storage name", "--name, or --bucket"), path.strip("/"), region)
    print(json.dumps(made, indent=2))


@storage.command("delete", example="infinitfs storage delete s3-storage")
@named("storage")
@click.option("--force", is_flag=True, help="Also where a volume of this machine is on it.")
@pass_invocation
def delete(invocation: Invocation, name: str, force: bool) -> None:
    """Forget a storage on this machine. What it stores stays there."""
    invocation.store.storages.get(name)
    used_by = invocation.store.volumes_on(name)
    if used_by and not force:
        raise InUse(
            what=f'The storage "{name}"',
            remedy=f'the volume "{used_by[0]}" is on it; delete that first, or add --force',
        )
    invocation.store.storages.delete(name)
    invocation.answer({"deleted": name}, f'Deleted storage "{name}".')


def make_filesystem_storage(
    invocation: Invocation,
    name: str,
    folder: Path,
    capacity: int = 0,
    description: str = "",
    *,
    check: bool = True,
) -> "FilesystemStorageRecord":
    """A new storage in a local folder, checked and stored."""
    from infinitfs.config.model import FilesystemStorageRecord
    from infinitfs.config.paths import check_text

    check_new(invocation.store.storages, "storage", name)
    record = FilesystemStorageRecord(
        name=name,
        path=check_text(str(folder.expanduser().absolute())),
        capacity=capacity,
        description=description,
        created=now(),
    )
    if check:
        from infinitfs.storage.probe import make_filesystem

        make_filesystem(record)
        _probe(invocation, record, None)
    invocation.store.storages.create(record)
    return record


def _make_s3(
    invocation: Invocation,
    name: str,
    *,
    check: bool,
    as_name: str | None,
    account: str | None,
    region: str | None,
    bucket: str | None,
    path: str | None,
    reduced_redundancy: bool,
    storage_class: str | None,
    endpoint: str | None,
    ca_bundle: str | None,
    capacity: int,
    description: str,
) -> "StorageRecord":
    from infinitfs.cli.account import open_account
    from infinitfs.config.model import S3StorageRecord
    from infinitfs.config.paths import check_text

    if reduced_redundancy and storage_class:
        raise UsageError(problem="--reduced-redundancy and --storage-class exclude each other: give one.")
    record = S3StorageRecord(
        name=name,
        account=require(account, "S3 account", "--account"),
        region=require(region, "S3 region", "--region"),
        bucket=require(bucket, "S3 bucket", "--bucket"),
        path=f"{name}_blocks" if path is None else path.strip("/"),
        endpoint=(endpoint or "").rstrip("/"),
        ca_bundle=check_text(str(Path(ca_bundle).expanduser().absolute())) if ca_bundle else "",
        storage_class="REDUCED_REDUNDANCY" if reduced_redundancy else storage_class or "",
        capacity=capacity,
        description=description,
        created=now(),
    )
    check_new(invocation.store.storages, "storage", name)
    credentials = invocation.store.credentials.get(record.account)
    if as_name is not None and credentials.user != invocation.user(as_name).name:
        raise UsageError(
            problem=f'The credentials "{credentials.name}" belong to the user "{credentials.user}", '
            f'not to "{as_name}": name other credentials with --account.'
        )
    made: StorageRecord = record
    if check:
        made, _ = _probe(invocation, record, open_account(invocation, credentials))
    invocation.store.storages.create(made)
    return made


def _probe(
    invocation: Invocation, record: "StorageRecord", account: "Account | None"
) -> "tuple[StorageRecord, list[str]]":
    """The record, corrected by what the service really does, and warnings, which are shown too.

    Raises the reason why the storage cannot be used.
    """
    import trio

    from infinitfs.config.model import FilesystemStorageRecord

    if isinstance(record, FilesystemStorageRecord):
        from infinitfs.storage.probe import check_filesystem

        checked: StorageRecord = record
        warnings = trio.run(check_filesystem, record)
    else:
        if account is None:
            raise UsageError(problem=f'The storage "{record.name}" names no credentials: create it again.')
        from infinitfs.storage.probe_s3 import check_s3

        checked, warnings = trio.run(check_s3, record, account)
    for warning in warnings:
        invocation.note(warning)
    return checked, warnings


def place_of(record: "StorageRecord") -> str:
    """Where a storage keeps what it stores: a path, or an s3:// address."""
    from infinitfs.config.model import FilesystemStorageRecord

    if isinstance(record, FilesystemStorageRecord):
        return record.path
    return f"s3://{record.bucket}/{record.path}".rstrip("/")


def _shown(record: "StorageRecord") -> dict[str, Any]:
    from infinitfs.config.model import FilesystemStorageRecord

    common = {
        "name": record.name,
        "capacity": record.capacity,
        "description": record.description,
        "created": record.created,
    }
    if isinstance(record, FilesystemStorageRecord):
        return {**common, "type": "filesystem", "where": place_of(record), "account": ""}
    return {
        **common,
        "type": "s3",
        "where": place_of(record),
        "account": record.account,
        "region": record.region,
        "endpoint": record.endpoint,
        "addressing": record.addressing,
        "ca_bundle": record.ca_bundle,
        "storage_class": record.storage_class,
        "conditional": record.conditional,
    }
