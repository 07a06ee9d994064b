"""`infinitfs user`: key pairs.

Above: `main.py`, `compat.py` and `quickstart.py`. Below: `keys/identity.py` and `config/`.
Invariant: a private key leaves this machine's store sealed under a passphrase only.
"""

from typing import TYPE_CHECKING, Any

import click

from infinitfs.cli import terminal
from infinitfs.cli.base import Group, pass_invocation
from infinitfs.cli.invocation import Invocation, check_new
from infinitfs.cli.options import named, now, passphrase_sources, read_file, require, write_private_file
from infinitfs.errors import InUse, NotFound, UsageError

if TYPE_CHECKING:
    from infinitfs.config.model import UserRecord

_SOURCES = "--passphrase-file or --passphrase-command"


@click.group(cls=Group)
def user() -> None:
    """Users: key pairs that own credentials and open volumes."""


@user.command("create", example="infinitfs user create alice")
@named("user")
@click.option("--description", metavar="TEXT", default="", help="A note about this user.")
@passphrase_sources
@pass_invocation
def create(invocation: Invocation, name: str, description: str) -> None:
    """Make a user: a key pair generated on this machine."""
    record = make_user(invocation, name, description)
    invocation.answer(_shown(record), f'Locally generated user "{name}".')
    note_about_key(invocation, record)


@user.command("list", example="infinitfs user list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List the users on this machine."""
    rows = [_shown(record) for record in invocation.store.users.list()]
    invocation.answer_table(rows, {"name": "NAME", "fingerprint": "FINGERPRINT", "private_key": "PRIVATE KEY"})


@user.command("show", example="infinitfs user show alice")
@named("user")
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show a user."""
    invocation.answer_fields(_shown(invocation.store.users.get(name)))


@user.command("export", example="infinitfs user export alice --full --output alice.json")
@named("user")
@click.option("--full", is_flag=True, help="With the private key, sealed under a passphrase.")
@click.option("--output", metavar="FILE", help="Write to FILE, readable by you only, not to standard output.")
@passphrase_sources
@pass_invocation
def export(invocation: Invocation, name: str, full: bool, output: str | None) -> None:
    """Export a user as JSON: the public half, or with --full all that another machine needs."""
    import msgspec

    record = invocation.store.users.get(name)
    private = _sealed_private(invocation, record) if full else None
    data = msgspec.json.encode(msgspec.structs.replace(record, private=private))
    if output is None:
        click.echo(data)
        return
    write_private_file(output, data + b"\n")
    invocation.answer({"exported": name, "output": output}, f'Exported user "{name}" to "{output}".')


@user.command("import", example="infinitfs user import alice.json")
@click.argument("file", metavar="FILE")
@pass_invocation
def import_(invocation: Invocation, file: str) -> None:
    """Import a user that `user export` wrote; - reads standard input."""
    import msgspec

    from infinitfs.config.model import UserRecord
    from infinitfs.keys.identity import PublicIdentity, check_private

    try:
        record = msgspec.json.decode(read_file(file), type=UserRecord)
        PublicIdentity.from_public_record(record.public)
        if record.private is not None:
            check_private(record.private)
    except (msgspec.MsgspecError, ValueError, KeyError, RecursionError):
        raise UsageError(problem=f'"{file}" holds no exported user: `infinitfs user export` writes one.') from None
    invocation.store.users.create(record)
    invocation.answer(_shown(record), f'Imported user "{record.name}".')


@user.command("delete", example="infinitfs user delete alice")
@named("user")
@click.option("--force", is_flag=True, help="Also where credentials or volumes of this machine belong to it.")
@pass_invocation
def delete(invocation: Invocation, name: str, force: bool) -> None:
    """Delete a user from this machine. Without a copy of its key, what it owns can never be read again."""
    store = invocation.store
    store.users.get(name)
    used_by = [f'the volume "{volume}"' for volume in store.volumes_of(name)]
    used_by += [f'the credentials "{credentials}"' for credentials in store.credentials_of(name)]
    if used_by and not force:
        raise InUse(
            what=f'The user "{name}"',
            remedy=f"{used_by[0]} belong{'s' if used_by[0].startswith('the v') else ''} to it; "
            "delete that first, or add --force",
        )
    store.users.delete(name)
    invocation.answer({"deleted": name}, f'Deleted user "{name}".')


def make_user(invocation: Invocation, name: str, description: str = "") -> "UserRecord":
    """A new user, stored. The passphrase comes from the sources, or is asked for at a terminal; none is
    allowed."""
    from infinitfs.config.model import UserRecord
    from infinitfs.keys.identity import Identity

    check_new(invocation.store.users, "user", name)
    passphrase = invocation.passphrase(terminal.ask_new_passphrase)
    identity = Identity.generate()
    record = UserRecord(
        name=name,
        public=identity.public.to_public_record(),
        private=identity.to_record(passphrase),
        created=now(),
        description=description,
    )
    invocation.store.users.create(record)
    return record


def note_about_key(invocation: Invocation, record: "UserRecord") -> None:
    """Where the key is, what it is worth, and the one command that exports it sealed."""
    from infinitfs.keys.identity import is_protected

    path = invocation.store.users.path(record.name)
    invocation.note(f"The private key is in {path}: without it, nothing that it seals can ever be read.")
    if record.private is not None and not is_protected(record.private):
        invocation.note("It has no passphrase: whoever can read that file can read everything.")
    invocation.note(f"Export it sealed: infinitfs user export {record.name} --full --output {record.name}.json")


def _sealed_private(invocation: Invocation, record: "UserRecord") -> dict[str, str | int]:
    from infinitfs.keys.identity import Identity, is_protected

    if record.private is None:
        raise NotFound(what=f'The private key of user "{record.name}"', remedy="export it on the machine that has it")
    if is_protected(record.private):
        return record.private
    passphrase = invocation.passphrase(terminal.ask_new_passphrase)
    passphrase = require(passphrase, "A passphrase for the exported private key", _SOURCES)
    return Identity.from_record(record.private, None).to_record(passphrase)


def _shown(record: "UserRecord") -> dict[str, Any]:
    from infinitfs.keys.identity import PublicIdentity, is_protected

    private = "none" if record.private is None else "sealed" if is_protected(record.private) else "unprotected"
    return {
        "name": record.name,
        "fingerprint": PublicIdentity.from_public_record(record.public).fingerprint,
        "private_key": private,
        "created": record.created,
        "description": record.description,
    }
