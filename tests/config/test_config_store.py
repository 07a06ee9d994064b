"""The records on disk: CRUD, refusal, durability of form, modes, who uses what, and whom a command means."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infinitfs.config.model import (
    CredentialsRecord,
    FilesystemStorageRecord,
    S3StorageRecord,
    UserRecord,
    VolumeRecord,
)
from infinitfs.config.paths import Paths
from infinitfs.config.store import Store, check_name
from infinitfs.errors import (
    AlreadyExists,
    DamagedRecord,
    InvalidName,
    LocalFileFailed,
    NotFound,
    RecordNotFound,
    UsageError,
)

NOW = "2024-05-01T12:00:00Z"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Store:
    return Store(Paths.from_environment({"INFINITFS_HOME": str(home)}))


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def user(name: str, private: bool = True) -> UserRecord:
    return UserRecord(
        name=name,
        public={"sign": "s"},
        private={"unprotected": "p", "n": 2} if private else None,
        created=NOW,
    )


def s3(name: str, account: str) -> S3StorageRecord:
    return S3StorageRecord(
        name=name, account=account, region="eu-west-1", bucket="b", path="p", conditional=False, created=NOW
    )


def volume(name: str, storage: str, owner: str) -> VolumeRecord:
    return VolumeRecord(name=name, volume="00" * 16, storage=storage, user=owner, descriptor="", created=NOW)


def test_round_trip_of_every_noun(store: Store) -> None:
    credentials = CredentialsRecord(name="keys", user="alice", source="static", sealed="x", created=NOW)
    local = FilesystemStorageRecord(name="local", path="/srv", capacity=5, description="é", created=NOW)
    store.users.create(user("alice"))
    store.credentials.create(credentials)
    store.storages.create(s3("cloud", "keys"))
    store.storages.create(local)
    store.volumes.create(volume("photos", "cloud", "alice"))
    assert store.users.get("alice") == user("alice")
    assert store.credentials.get("keys") == credentials
    assert store.storages.list() == [s3("cloud", "keys"), local]
    assert store.volumes.list() == [volume("photos", "cloud", "alice")]


def test_create_refuses_what_exists(store: Store) -> None:
    store.users.create(user("alice"))
    with pytest.raises(AlreadyExists, match='user "alice" exists already'):
        store.users.create(user("alice", private=False))
    assert store.users.get("alice") == user("alice")
    assert list(store.users.path("alice").parent.iterdir()) == [store.users.path("alice")]


def test_replace_and_delete(store: Store) -> None:
    store.users.create(user("alice"))
    store.users.replace(user("alice", private=False))
    assert store.users.get("alice") == user("alice", private=False)
    store.users.delete("alice")
    assert store.users.list() == []
    for call in (store.users.get, store.users.delete):
        with pytest.raises(RecordNotFound, match='no user "alice"'):
            call("alice")
    store.users.replace(user("alice"))
    assert store.users.names() == ["alice"]


def test_nothing_is_there_at_first(store: Store, home: Path) -> None:
    assert store.users.list() == []
    with pytest.raises(RecordNotFound):
        store.volumes.get("photos")
    assert not home.exists()


def test_listing_is_sorted_and_sees_records_only(store: Store) -> None:
    for name in ("b", "a", "_", "a.json", "-"):
        store.users.create(user(name))
    folder = store.users.path("a").parent
    for stray in (".0123456789abcdef", "notes.txt", "Upper.json", ".json"):
        (folder / stray).write_text("")
    assert store.users.names() == ["-", "_", "a", "a.json", "b"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "A", "a b", "é", ".a", "a" * 129, "a\n", "a\x00"])
def test_invalid_names(store: Store, name: str) -> None:
    with pytest.raises(InvalidName):
        store.users.create(user(name))
    with pytest.raises(InvalidName):
        store.users.get(name)
    with pytest.raises(InvalidName):
        store.users.delete(name)


def test_valid_names() -> None:
    for name in ("a", "0", "-", "_", "a.b-c_d", "a" * 128):
        assert check_name("user", name) == name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"name": 1}',
        b"\xff",
        b'{"name":"bob","public":{},"created":""}',
        b'{"x":' + b"[" * 9999,
    ],
)
def test_a_damaged_file_is_named(store: Store, data: bytes) -> None:
    store.users.create(user("alice"))
    path = store.users.path("alice")
    path.write_bytes(data)
    with pytest.raises(DamagedRecord, match=str(path)):
        store.users.get("alice")
    with pytest.raises(DamagedRecord):
        store.users.list()
    store.users.delete("alice")
    assert store.users.list() == []


@pytest.mark.parametrize("damaged", ['"xyz"', '"' + "0" * 30 + '"', '"' + "0" * 32 + '\\n"', '"' + "A" * 32 + '"', "1"])
def test_a_volume_s_id_is_one(store: Store, damaged: str) -> None:
    store.volumes.create(volume("photos", "cloud", "alice"))
    path = store.volumes.path("photos")
    path.write_text(path.read_text().replace('"' + "00" * 16 + '"', damaged))
    with pytest.raises(DamagedRecord, match=str(path)):
        store.volumes.get("photos")


@pytest.mark.usefixtures("open_umask")
def test_modes_do_not_depend_on_the_umask(store: Store, home: Path) -> None:
    store.users.create(user("alice"))
    store.users.replace(user("alice"))
    store.users.create(user("bob"))
    modes = {str(path.relative_to(home)): path.stat().st_mode & 0o777 for path in home.rglob("*")}
    assert modes == {
        "config": 0o700,
        "config/users": 0o700,
        "config/users/alice.json": 0o600,
        "config/users/bob.json": 0o600,
    }
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_write_that_fails_leaves_the_old_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.users.create(user("alice"))

    def fail(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(LocalFileFailed, match=r"alice\.json.*no space"):
        store.users.replace(user("alice", private=False))
    assert store.users.list() == [user("alice")]
    assert list(store.users.path("alice").parent.iterdir()) == [store.users.path("alice")]


def test_what_cannot_be_read_is_named(store: Store) -> None:
    store.users.path("alice").mkdir(parents=True)
    with pytest.raises(LocalFileFailed, match=r"alice\.json.*could not be read"):
        store.users.get("alice")


def test_who_uses_what(store: Store) -> None:
    for name, owner in (("k1", "alice"), ("k2", "bob")):
        store.credentials.create(CredentialsRecord(name=name, user=owner, source="environment", created=NOW))
    store.storages.create(s3("s2", "k1"))
    store.storages.create(s3("s1", "k1"))
    store.storages.create(FilesystemStorageRecord(name="k1", path="/k1", created=NOW))
    store.volumes.create(volume("v1", "s1", "alice"))
    store.volumes.create(volume("v2", "s1", "bob"))
    assert store.users_of_credentials("k1") == ["s1", "s2"]
    assert store.users_of_credentials("k2") == []
    assert store.volumes_on("s1") == ["v1", "v2"]
    assert store.volumes_on("s2") == []
    assert store.volumes_of("alice") == ["v1"]
    assert store.credentials_of("bob") == ["k2"]


def test_pick_user_in_order(store: Store) -> None:
    for name in ("option", "ours", "theirs", "login"):
        store.users.create(user(name))
    environ = {"INFINITFS_USER": "ours", "INFINIT_USER": "theirs"}
    assert store.pick_user("option", environ, "login").name == "option"
    assert store.pick_user(None, environ, "login").name == "ours"
    assert store.pick_user(None, {"INFINIT_USER": "theirs"}, "login").name == "theirs"
    assert store.pick_user(None, {}, "login").name == "login"
    with pytest.raises(UsageError, match=r"several users \(login, option, ours, theirs\)"):
        store.pick_user(None, {}, "nobody")
    with pytest.raises(RecordNotFound, match="missing"):
        store.pick_user("missing", environ, "login")


def test_pick_the_only_user(store: Store) -> None:
    with pytest.raises(NotFound, match="infinitfs user create"):
        store.pick_user(None, {}, "login")
    store.users.create(user("friend", private=False))
    with pytest.raises(NotFound):
        store.pick_user(None, {}, "friend")
    store.users.create(user("alice"))
    assert store.pick_user(None, {"INFINITFS_USER": ""}, "Not A Name").name == "alice"
    assert store.pick_user("friend", {}, "login").name == "friend"


def test_a_folder_that_cannot_be_read_or_written_is_named(store: Store, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "users").touch()
    for call in (store.users.names, lambda: store.users.create(user("alice")), lambda: store.users.delete("alice")):
        with pytest.raises(LocalFileFailed, match="users"):
            call()
