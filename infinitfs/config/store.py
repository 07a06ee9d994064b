"""The records on disk: one JSON file each, in one folder a noun under the configuration folder.

Role: create, read, replace, delete and list; who uses what; which user a command means. Above: `cli/` and
`mount/`. Below: `config/model.py`, `config/paths.py`.
Invariant: a file appears whole or not at all, is durable when the call returns, and is open to nobody else
(0600), whatever the umask.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from infinitfs.config.disk import failing, sync_folder, write_aside, write_whole
from infinitfs.config.model import (
    CredentialsRecord,
    FilesystemStorageRecord,
    S3StorageRecord,
    StorageRecord,
    UserRecord,
    VolumeRecord,
)
from infinitfs.config.paths import Paths, make_private
from infinitfs.errors import (
    AlreadyExists,
    DamagedRecord,
    InvalidName,
    NotFound,
    RecordNotFound,
    UsageError,
)

_NAME = re.compile(r"[-a-z0-9_][-a-z0-9._]{0,127}")
_SUFFIX = ".json"
_USER_VARIABLES = ("INFINITFS_USER", "INFINIT_USER")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=_Named)


def check_name(kind: str, name: str) -> str:
    """`name` where it is a valid one for a `kind` of record. Raises InvalidName."""
    if not _NAME.fullmatch(name):
        raise InvalidName(kind=kind, name=name)
    return name


class Collection(Generic[Record]):
    """The records of one noun: `kind` is how messages call it, `folder` where they are."""

    def __init__(self, kind: str, folder: Path, decoder: "msgspec.json.Decoder[Record]") -> None:
        self._kind = kind
        self._folder = folder
        self._decoder = decoder

    def path(self, name: str) -> Path:
        """The file of the record `name`, whether it exists or not. Raises InvalidName."""
        return self._folder / (check_name(self._kind, name) + _SUFFIX)

    def create(self, record: Record) -> None:
        """Keep a new record. Raises AlreadyExists, InvalidName, LocalFileFailed."""
        path = self.path(record.name)
        with failing(path, "written"):
            # No name of a record starts with a dot, so a leftover of a crash is never taken for one.
            temporary = write_aside(make_private(self._folder), _encoded(record))
            try:
                # A link, unlike a rename, refuses a name that is taken, however many try at once.
                path.hardlink_to(temporary)
            except FileExistsError:
                raise AlreadyExists(kind=self._kind, name=record.name) from None
            finally:
                temporary.unlink()
            sync_folder(self._folder)

    def replace(self, record: Record) -> None:
        """Keep a record, instead of the one of its name where there is one. Raises InvalidName,
        LocalFileFailed."""
        path = self.path(record.name)
        with failing(path, "written"):
            make_private(self._folder)
            write_whole(path, _encoded(record))

    def get(self, name: str) -> Record:
        """The record `name`. Raises RecordNotFound, DamagedRecord, InvalidName, LocalFileFailed."""
        path = self.path(name)
        with failing(path, "read"):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                raise RecordNotFound(kind=self._kind, name=name) from None
        try:
            record = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DamagedRecord(path=str(path), reason=str(error)) from None
        if record.name != name:
            raise DamagedRecord(path=str(path), reason=f'it is the record of "{record.name}"')
        return record

    def delete(self, name: str) -> None:
        """Remove the record `name`, also a damaged one. Raises RecordNotFound, InvalidName, LocalFileFailed."""
        path = self.path(name)
        with failing(path, "deleted"):
            try:
                path.unlink()
            except FileNotFoundError:
                raise RecordNotFound(kind=self._kind, name=name) from None
            sync_folder(self._folder)

    def names(self) -> list[str]:
        """The names of all records, sorted. Raises LocalFileFailed."""
        with failing(self._folder, "read"):
            try:
                files = [entry.name for entry in self._folder.iterdir()]
            except FileNotFoundError:
                return []
        names = (file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))
        return sorted(name for name in names if _NAME.fullmatch(name))

    def list(self) -> "list[Record]":
        """All records, sorted by name. Raises DamagedRecord."""
        return [self.get(name) for name in self.names()]


def _encoded(record: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


class Store:
    """The four collections of this machine."""

    def __init__(self, paths: Paths) -> None:
        storages: msgspec.json.Decoder[StorageRecord] = msgspec.json.Decoder(FilesystemStorageRecord | S3StorageRecord)
        folder = paths.config
        self.users = Collection("user", folder / "users", msgspec.json.Decoder(UserRecord))
        self.credentials = Collection("credentials", folder / "credentials", msgspec.json.Decoder(CredentialsRecord))
        self.storages = Collection("storage", folder / "storages", storages)
        self.volumes = Collection("volume", folder / "volumes", msgspec.json.Decoder(VolumeRecord))

    def users_of_credentials(self, name: str) -> list[str]:
        """The names of the storages that use the credentials `name`, sorted."""
        return [
            record.name
            for record in self.storages.list()
            if isinstance(record, S3StorageRecord) and record.account == name
        ]

    def volumes_on(self, storage: str) -> list[str]:
        """The names of the volumes on the storage of that name, sorted."""
        return [record.name for record in self.volumes.list() if record.storage == storage]

    def volumes_of(self, user: str) -> list[str]:
        """The names of the volumes that the user opens, sorted."""
        return [record.name for record in self.volumes.list() if record.user == user]

    def credentials_of(self, user: str) -> list[str]:
        """The names of the credentials that the user owns, sorted."""
        return [record.name for record in self.credentials.list() if record.user == user]

    def pick_user(self, as_name: str | None, environ: Mapping[str, str], login: str) -> UserRecord:
        """The user that a command means: `--as`, then `$INFINITFS_USER`, `$INFINIT_USER`, the user of the
        login name, the only user there is. The last two count users whose private half is on this machine.

        Raises RecordNotFound and InvalidName for a user that was named, NotFound where there is none,
        UsageError where there are several.
        """
        for name in (as_name, *(environ.get(variable) for variable in _USER_VARIABLES)):
            if name:
                return self.users.get(name)
        own = [record for record in self.users.list() if record.private is not None]
        for record in own:
            if record.name == login:
                return record
        if not own:
            raise NotFound(what="A user", remedy="create one with `infinitfs user create`")
        if len(own) > 1:
            names = ", ".join(record.name for record in own)
            raise UsageError(problem=f"There are several users ({names}): choose one with --as.")
        return own[0]
