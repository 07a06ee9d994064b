"""`infinitfs credentials`: who a storage service takes us for.

Above: `main.py` and `compat.py`. Below: `account.py`, which seals, and `config/`.
Invariant: a secret comes from a terminal behind asterisks, from standard input or from a file, never from an
argument; it is stored sealed to its user and never shown again.
"""

from typing import TYPE_CHECKING, Any

import click

from infinitfs.cli import terminal
from infinitfs.cli.base import Group, pass_invocation
from infinitfs.cli.invocation import Invocation, check_new
from infinitfs.cli.options import acting_user, named, now, read_file, require
from infinitfs.errors import InUse, UsageError

if TYPE_CHECKING:
    from infinitfs.config.model import CredentialsRecord
    from infinitfs.storage.account import StaticKeys


@click.group(cls=Group)
def credentials() -> None:
    """Credentials of a storage service, stored on this machine only."""


@credentials.command("add", example="infinitfs credentials add --as alice --aws --name s3-user")
@named("credentials")
@acting_user
@click.option("--aws", is_flag=True, help="Credentials of Amazon S3 or a service that speaks its protocol.")
@click.option("--access-key-id", metavar="ID", help="The access key's id, with --secret-access-key-file.")
@click.option("--secret-access-key-file", metavar="FILE", help="A file with the secret key; - for standard input.")
@click.option("--profile", metavar="NAME", help="Use a profile of ~/.aws; nothing is stored.")
@click.option("--environment", is_flag=True, help="Use what the environment provides; nothing is stored.")
@click.option("--instance-role", is_flag=True, help="Use the role of this machine; nothing is stored.")
@click.option("--role-arn", metavar="ARN", help="Assume a role; nothing is stored.")
@pass_invocation
def add(
    invocation: Invocation,
    name: str,
    as_name: str | None,
    aws: bool,
    access_key_id: str | None,
    secret_access_key_file: str | None,
    profile: str | None,
    environment: bool,
    instance_role: bool,
    role_arn: str | None,
) -> None:
    """Add credentials: an access key is asked for, or read as two lines of standard input (id, secret)."""
    from infinitfs.config.model import CredentialsRecord

    store = invocation.store
    static = access_key_id is not None or secret_access_key_file is not None
    chosen = {
        "--access-key-id": static,
        "--profile": profile is not None,
        "--environment": environment,
        "--instance-role": instance_role,
        "--role-arn": role_arn is not None,
    }
    given = [option for option, present in chosen.items() if present]
    if len(given) > 1:
        raise UsageError(problem=f"{given[0]} and {given[1]} exclude each other: give one.")
    if not aws and not given:
        raise UsageError(problem="Credentials type unspecified (use --aws)")
    user = invocation.user(as_name)
    check_new(invocation.store.credentials, "credentials", name)

    source = given[0].removeprefix("--").removesuffix("-arn") if given and not static else "static"
    key_id = sealed = ""
    if source == "static":
        from infinitfs.cli.account import seal_keys

        keys = _read_keys(access_key_id, secret_access_key_file)
        key_id, sealed = keys.access_key_id, seal_keys(user, name, keys)
    record = CredentialsRecord(
        name=name,
        user=user.name,
        source=source,
        access_key_id=key_id,
        sealed=sealed,
        reference=profile or role_arn or "",
        created=now(),
    )
    store.credentials.create(record)
    invocation.answer(_shown(record), f'Locally stored AWS credentials "{name}".')


@credentials.command("list", example="infinitfs credentials list --json")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List the credentials on this machine, without their secrets."""
    rows = [_shown(record) for record in invocation.store.credentials.list()]
    columns = {"name": "NAME", "user": "USER", "source": "SOURCE", "access_key_id": "ACCESS KEY ID"}
    invocation.answer_table(rows, columns)


@credentials.command("show", example="infinitfs credentials show s3-user")
@named("credentials")
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show credentials, without their secret."""
    record = _shown(invocation.store.credentials.get(name))
    invocation.answer_fields({**record, "storages": invocation.store.users_of_credentials(name)})


@credentials.command("rotate", example="infinitfs credentials rotate s3-user")
@named("credentials")
@click.option("--access-key-id", metavar="ID", help="The new access key's id, with --secret-access-key-file.")
@click.option("--secret-access-key-file", metavar="FILE", help="A file with the secret key; - for standard input.")
@pass_invocation
def rotate(invocation: Invocation, name: str, access_key_id: str | None, secret_access_key_file: str | None) -> None:
    """Replace an access key by a new one; every storage that uses these credentials follows."""
    import msgspec

    from infinitfs.cli.account import seal_keys

    record = invocation.store.credentials.get(name)
    if record.source != "static":
        raise UsageError(problem=f'The credentials "{name}" store no key: there is nothing to rotate.')
    keys = _read_keys(access_key_id, secret_access_key_file)
    sealed = seal_keys(invocation.store.users.get(record.user), name, keys)
    rotated = msgspec.structs.replace(record, access_key_id=keys.access_key_id, sealed=sealed)
    invocation.store.credentials.replace(rotated)
    invocation.answer(_shown(rotated), f'Locally replaced AWS credentials "{name}".')


@credentials.command("delete", example="infinitfs credentials delete s3-user")
@named("credentials")
@click.option("--force", is_flag=True, help="Also where a storage uses them.")
@pass_invocation
def delete(invocation: Invocation, name: str, force: bool) -> None:
    """Delete credentials from this machine."""
    invocation.store.credentials.get(name)
    used_by = invocation.store.users_of_credentials(name)
    if used_by and not force:
        raise InUse(
            what=f'The credentials "{name}"',
            remedy=f'the storage "{used_by[0]}" uses them; delete it first, or add --force',
        )
    invocation.store.credentials.delete(name)
    invocation.answer({"deleted": name}, f'Deleted credentials "{name}".')


def _shown(record: "CredentialsRecord") -> dict[str, Any]:
    return {
        "name": record.name,
        "user": record.user,
        "source": record.source,
        "access_key_id": record.access_key_id,
        "reference": record.reference,
        "created": record.created,
    }


def _read_keys(access_key_id: str | None, secret_file: str | None) -> "StaticKeys":
    """An access key from the options, else from whoever is at the terminal, else from two lines of input."""
    from infinitfs.storage.account import StaticKeys

    if access_key_id is not None or secret_file is not None:
        key_id = require(access_key_id, "Access key id", "--access-key-id")
        secret = read_file(require(secret_file, "Secret access key", "--secret-access-key-file")).decode(
            errors="replace"
        )
        secret = secret.strip("\r\n")
    elif terminal.interactive():
        terminal.say("Please enter your AWS credentials")
        key_id = terminal.ask("Access Key ID: ", _malformed)
        secret = terminal.ask_secret("Secret Access Key: ", _malformed)
    else:
        key_id = terminal.read_line_from_input("Access key id")
        secret = terminal.read_line_from_input("Secret access key")
    for what, value in (("access key id", key_id), ("secret access key", secret)):
        if wrong := _malformed(value):
            raise UsageError(problem=f"The {what} is not usable: {wrong}")
    return StaticKeys(access_key_id=key_id.strip(), secret_access_key=secret.strip())


def _malformed(value: str) -> str | None:
    """What is wrong with one half of an access key. Services differ in length and alphabet, so that is not
    checked."""
    if not value.strip():
        return "It is empty."
    if not value.strip().isprintable() or not value.isascii() or any(c.isspace() for c in value.strip()):
        return "It holds spaces, control characters or letters outside ASCII."
    return None
