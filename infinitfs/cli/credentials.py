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
from infinitfs.cli.options import acting_user, named, now, passphrase_sources, read_file, require
from infinitfs.errors import AccessDenied, InfinitfsError, InUse, UsageError

if TYPE_CHECKING:
    from infinitfs.config.model import CredentialsRecord
    from infinitfs.storage.account import StaticKeys

_TEMPORARY = "ASIA"
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html: STS's keys start with it."""

_PATIENCE = 10.0
"""Seconds that a mount may take to answer."""


@click.group(cls=Group)
def credentials() -> None:
    """Credentials of a storage service, stored on this machine only."""


@credentials.command("add", example="infinitfs credentials add --as alice --aws --name s3-user")
@named("credentials")
@acting_user
@click.option("--aws", is_flag=True, help="Credentials of Amazon S3 or a service that speaks its protocol.")
@click.option("--access-key-id", metavar="ID", help="The access key's id, with --secret-access-key-file.")
@click.option("--secret-access-key-file", metavar="FILE", help="A file with the secret key; - for standard input.")
@click.option("--session-token-file", metavar="FILE", help="A file with the session token of a temporary key.")
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
    session_token_file: str | None,
    profile: str | None,
    environment: bool,
    instance_role: bool,
    role_arn: str | None,
) -> None:
    """Add credentials: an access key is asked for, or read as two lines of standard input (id, secret)."""
    from infinitfs.config.model import CredentialsRecord

    store = invocation.store
    static = any(given is not None for given in (access_key_id, secret_access_key_file, session_token_file))
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

        keys = _read_keys(access_key_id, secret_access_key_file, session_token_file)
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
@click.option("--session-token-file", metavar="FILE", help="A file with the session token of a temporary key.")
@pass_invocation
def rotate(
    invocation: Invocation,
    name: str,
    access_key_id: str | None,
    secret_access_key_file: str | None,
    session_token_file: str | None,
) -> None:
    """Replace an access key by a new one; storages that use these credentials follow, and volumes that are mounted."""
    import msgspec

    from infinitfs.cli.account import seal_keys

    record = invocation.store.credentials.get(name)
    if record.source != "static":
        raise UsageError(problem=f'The credentials "{name}" store no key: there is nothing to rotate.')
    keys = _read_keys(access_key_id, secret_access_key_file, session_token_file)
    sealed = seal_keys(invocation.store.users.get(record.user), name, keys)
    rotated = msgspec.structs.replace(record, access_key_id=keys.access_key_id, sealed=sealed)
    invocation.store.credentials.replace(rotated)
    followed = _renew_mounts(invocation, name, keys)
    invocation.answer({**_shown(rotated), "mounts": followed}, f'Locally replaced AWS credentials "{name}".')


def _renew_mounts(invocation: Invocation, name: str, keys: "StaticKeys") -> list[str]:
    """Hand the keys to the mounts that use the credentials `name`; returns the names of their volumes."""
    import msgspec

    from infinitfs.mount.control import ask, mounted

    store = invocation.store
    running = mounted(invocation.paths)
    names = [volume for storage in store.users_of_credentials(name) for volume in store.volumes_on(storage)]
    followed = []
    for volume in map(store.volumes.get, names):
        if volume.volume not in running:
            continue
        try:
            list(ask(invocation.paths, volume.volume, "renew", patience=_PATIENCE, account=msgspec.to_builtins(keys)))
        except InfinitfsError as error:
            invocation.note(f'The mount of "{volume.name}" keeps the old key until it is mounted again: {error}')
        else:
            followed.append(volume.name)
            invocation.note(f'The mount of "{volume.name}" uses the new key.')
    return followed


@credentials.command("check", example="infinitfs credentials check s3-user\ninfinitfs credentials check s3-user --json")
@named("credentials")
@passphrase_sources
@click.pass_context
@pass_invocation
def check(invocation: Invocation, ctx: click.Context, name: str) -> None:
    """Ask whose a key is, and what it may do on the storages that use it. Exits with 14 where something is missing."""
    import trio

    from infinitfs.cli.account import open_account
    from infinitfs.config.model import S3StorageRecord
    from infinitfs.storage.caller import caller
    from infinitfs.storage.policy import RIGHTS
    from infinitfs.storage.probe_s3 import rights

    record = invocation.store.credentials.get(name)
    account = open_account(invocation, record)
    names = invocation.store.users_of_credentials(name)
    storages = [s for s in map(invocation.store.storages.get, names) if isinstance(s, S3StorageRecord)]
    rows: list[dict[str, Any]] = []
    exit_code = 0
    for storage in storages:
        row: dict[str, Any] = {"name": storage.name, "problem": ""}
        try:
            row |= trio.run(rights, storage, account)
            exit_code = exit_code or (0 if all(row[right] for right in RIGHTS) else AccessDenied.exit_code)
        except InfinitfsError as error:
            row["problem"] = str(error)
            exit_code = exit_code or error.exit_code
        rows.append(row)
    known, unknown = "", ""
    try:
        known = trio.run(caller, account, storages[0] if storages else None)
    except InfinitfsError as error:
        if not storages:
            raise
        unknown = str(error)
    if invocation.json:
        invocation.answer({**_shown(record), "caller": known, "caller_problem": unknown, "storages": rows}, "")
    else:
        key = f" {record.access_key_id}" if record.access_key_id else ""
        told = f"is {known}" if known else "is known to the storages below; whose it is, the service does not tell"
        print(f'The key{key} of "{name}" {told}.')
        shown = [{k: {True: "yes", False: "no"}.get(v, v) for k, v in row.items()} for row in rows]
        headings = {"name": "STORAGE", **{right: right.upper() for right in RIGHTS}, "problem": "PROBLEM"}
        invocation.answer_table(shown, headings)
    ctx.exit(exit_code)


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


def _read_keys(access_key_id: str | None, secret_file: str | None, token_file: str | None) -> "StaticKeys":
    """An access key from the options, else from whoever is at the terminal, else from two lines of input."""
    from infinitfs.storage.account import StaticKeys

    if access_key_id is not None or secret_file is not None:
        key_id = require(access_key_id, "Access key id", "--access-key-id")
        secret = _read_secret(require(secret_file, "Secret access key", "--secret-access-key-file"))
    elif terminal.interactive():
        terminal.say("Please enter your AWS credentials")
        key_id = terminal.ask("Access Key ID: ", _malformed)
        secret = terminal.ask_secret("Secret Access Key: ", _malformed)
    else:
        key_id = terminal.read_line_from_input("Access key id")
        secret = terminal.read_line_from_input("Secret access key")
    token = None if token_file is None else _read_secret(token_file)
    for what, value in (("access key id", key_id), ("secret access key", secret), ("session token", token)):
        if value is not None and (wrong := _malformed(value)):
            raise UsageError(problem=f"The {what} is not usable: {wrong}")
    if key_id.strip().startswith(_TEMPORARY) and token is None:
        raise UsageError(problem=f"{key_id.strip()} is a temporary key: give its session token, --session-token-file.")
    return StaticKeys(
        access_key_id=key_id.strip(), secret_access_key=secret.strip(), session_token=(token or "").strip()
    )


def _read_secret(file: str) -> str:
    return read_file(file).decode(errors="replace").strip()


def _malformed(value: str) -> str | None:
    """What is wrong with one half of an access key. Services differ in length and alphabet, so that is not
    checked."""
    if not value.strip():
        return "It is empty."
    if not value.strip().isprintable() or not value.isascii() or any(c.isspace() for c in value.strip()):
        return "It holds spaces, control characters or letters outside ASCII."
    return None
