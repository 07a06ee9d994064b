"""The records of the configuration: one struct a noun.

Above: `cli/` makes them, `mount/` and `storage/` read them. Below: nothing. `config/store.py` keeps them on disk.
Invariant: a record holds no secret in the clear unless its field's name says `sealed` or `unprotected`; times are
RFC 3339 in UTC; sizes are bytes.
"""

from typing import Annotated, Literal

import msgspec

VolumeId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class UserRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user: the public half of the key pair, and the private half where this machine has it.

    `public` and `private` are the forms that `keys.identity` reads and writes; `private` is sealed under a
    passphrase or, where the user chose none, guarded by the file's permissions only.
    """

    name: str
    public: dict[str, str]
    private: dict[str, str | int] | None = None
    created: str
    description: str = ""


class CredentialsRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Credentials of a storage service, owned by `user`.

    `source` is one of `static`, `profile`, `environment`, `instance-role`, `role`; `reference` is the profile's name
    or the role's ARN. Of a static key the id is kept for `list`; `sealed` is base64 of the secret sealed to the user.
    """

    name: str
    user: str
    source: str
    access_key_id: str = ""
    sealed: str = ""
    reference: str = ""
    created: str


class FilesystemStorageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="filesystem"):
    """A storage in a local folder `path` (absolute). `capacity` in bytes, 0 for no limit."""

    name: str
    path: str
    capacity: int = 0
    description: str = ""
    created: str


class S3StorageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="s3"):
    """A storage in a bucket, in the folder `path` (no leading or trailing slash).

    `account` names a CredentialsRecord. `conditional` is False where the service ignored `If-None-Match` when it
    was probed. `endpoint` is a URL, empty for AWS's own (or what `AWS_ENDPOINT_URL_S3` says); `addressing` is where
    the bucket's name goes, found by trying: in the path or in the host's name; empty for what suits most: the path of
    an endpoint, the name of AWS's hosts. `ca_bundle` is the absolute path of a file of certificates, empty for those
    that the machine trusts.
    """

    name: str
    account: str
    region: str
    bucket: str
    path: str
    endpoint: str = ""
    addressing: Literal["", "path", "virtual"] = ""
    ca_bundle: str = ""
    storage_class: str = ""
    conditional: bool = True
    capacity: int = 0
    description: str = ""
    created: str


StorageRecord = FilesystemStorageRecord | S3StorageRecord


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A volume known on this machine: `volume` is its id in hex, `storage` and `user` are names of records.

    What the volume is (keys, parameters) is in its signed descriptor in the storage; `descriptor` is base64 of the
    last one seen, so that a mount can start while the storage is away and a replaced one is noticed.
    """

    name: str
    volume: VolumeId
    storage: str
    user: str
    descriptor: str
    created: str
    description: str = ""
