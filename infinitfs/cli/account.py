"""Credentials records and the accounts they stand for.

Above: `credentials`, which seals, and every command that opens a storage. Below: `keys/` and
`storage/account.py`.
Invariant: a static key's secret is only ever stored sealed to its user, bound to the record's name.
"""

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infinitfs.cli.invocation import Invocation
from infinitfs.errors import DamagedRecord

if TYPE_CHECKING:
    from infinitfs.config.model import CredentialsRecord, StorageRecord, UserRecord, VolumeRecord
    from infinitfs.keys.identity import Identity
    from infinitfs.storage.account import Account, StaticKeys


def seal_keys(user: "UserRecord", name: str, keys: "StaticKeys") -> str:
    """The `sealed` field of the credentials `name` of `user`: only that user's private key opens it."""
    import msgspec

    from infinitfs.keys.identity import PublicIdentity

    public = PublicIdentity.from_public_record(user.public)
    return base64.b64encode(public.wrap(_binding(name), msgspec.json.encode(keys))).decode()


def open_account(invocation: Invocation, record: "CredentialsRecord") -> "Account":
    """The account of a credentials record; static keys ask for their user's private key.

    Raises what `Invocation.identity` raises, WrongKey or DamagedRecord where the sealed secret does not open.
    """
    import msgspec

    from infinitfs.storage.account import Environment, InstanceRole, Profile, Role, StaticKeys

    match record.source:
        case "static":
            identity = invocation.identity(invocation.store.users.get(record.user))
            try:
                plain = identity.unwrap(_binding(record.name), base64.b64decode(record.sealed, validate=True))
                return msgspec.json.decode(plain, type=StaticKeys)
            except (ValueError, msgspec.MsgspecError):
                raise _damaged(record, "its sealed secret does not open") from None
        case "profile":
            return Profile(record.reference)
        case "environment":
            return Environment()
        case "instance-role":
            return InstanceRole()
        case "role":
            return Role(record.reference)
        case source:
            raise _damaged(record, f"its source {source} is unknown")


def account_of_storage(invocation: Invocation, storage: "StorageRecord") -> "Account | None":
    """The account that opens a storage, None for a local folder."""
    from infinitfs.config.model import FilesystemStorageRecord

    if isinstance(storage, FilesystemStorageRecord):
        return None
    return open_account(invocation, invocation.store.credentials.get(storage.account))


@dataclass(frozen=True)
class OpenedVolume:
    """A volume's record and what it takes to open the volume: its user's key pair, its storage, its
    account."""

    record: "VolumeRecord"
    identity: "Identity"
    storage: "StorageRecord"
    account: "Account | None"


def open_volume(invocation: Invocation, name: str) -> OpenedVolume:
    """All that opening the volume `name` takes. Raises what `open_account` raises, RecordNotFound."""
    record = invocation.store.volumes.get(name)
    storage = invocation.store.storages.get(record.storage)
    identity = invocation.identity(invocation.store.users.get(record.user))
    return OpenedVolume(record, identity, storage, account_of_storage(invocation, storage))


def _binding(name: str) -> bytes:
    return b"infinitfs/credentials/" + name.encode()


def _damaged(record: "CredentialsRecord", reason: str) -> DamagedRecord:
    return DamagedRecord(path=f"credentials/{record.name}.json", reason=reason)
