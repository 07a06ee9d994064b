"""Accounts keep their secrets to themselves, and resolve to what they name."""

import io
from pathlib import Path

import msgspec
import pytest
from botocore.credentials import Credentials
from rich.pretty import pretty_repr

from infinitfs.config.model import FilesystemStorageRecord, S3StorageRecord
from infinitfs.errors import AccessDenied, UsageError
from infinitfs.storage.account import (
    Account,
    Environment,
    InstanceRole,
    Profile,
    Role,
    StaticKeys,
    session,
)
from infinitfs.storage.filesystem import FilesystemStorage
from infinitfs.storage.open import open_storage
from infinitfs.storage.s3 import S3Storage

SECRET, TOKEN = "wJalrXUtnFEMI", "FwoGZXIvYXdzE"
STATIC = StaticKeys(access_key_id="AKIAEXAMPLE", secret_access_key=SECRET, session_token=TOKEN)
BUCKET = S3StorageRecord(name="s", account="a", region="eu-west-1", bucket="bucket", path="p", created="")


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys, no profiles and no instance of the machine the tests happen to run on."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-3\n")
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = workwork\n")


def credentials_of(account: Account) -> Credentials:
    found = session(account).get_credentials()
    assert found is not None
    return found


def test_no_repr_shows_a_secret() -> None:
    wrapped = {"account": [STATIC]}
    out = io.StringIO()
    print(STATIC, repr(STATIC), f"{STATIC}", wrapped, pretty_repr(wrapped), file=out)
    assert "AKIAEXAMPLE" in out.getvalue()
    assert SECRET not in out.getvalue()
    assert TOKEN not in out.getvalue()


@pytest.mark.parametrize("account", [STATIC, Profile("work"), Environment(), InstanceRole(), Role("arn:aws:iam::1")])
def test_accounts_cross_a_socket(account: Account) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(account), type=Account) == account


def test_static_keys_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env")
    credentials = credentials_of(STATIC)
    assert (credentials.access_key, credentials.secret_key, credentials.token) == (
        "AKIAEXAMPLE",
        SECRET,
        TOKEN,
    )
    without_token = StaticKeys(access_key_id="A", secret_access_key=SECRET)
    assert credentials_of(without_token).token is None


def test_profile() -> None:
    assert credentials_of(Profile("work")).access_key == "AKIAWORK"


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env")
    assert credentials_of(Environment()).access_key == "AKIAENV"
    assert session(InstanceRole()).get_credentials() is None


def test_a_role_is_assumed_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Making the session asks nobody; that nothing can assume the role shows at the first request.
    assert credentials_of(Role("arn:aws:iam::123456789012:role/drive")).method == "assume-role"


async def test_missing_credentials_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts: list[Account] = [Environment(), InstanceRole(), Role("arn:aws:iam::123456789012:role/drive")]
    for account in accounts:
        storage = open_storage(BUCKET, account)
        with pytest.raises(AccessDenied, match="Unable to locate credentials"):
            await storage.get("a")
        await storage.aclose()
    with pytest.raises(AccessDenied, match="nowhere"):
        open_storage(BUCKET, Profile("nowhere"))


async def test_open_storage(tmp_path: Path) -> None:
    record = FilesystemStorageRecord(name="f", path=str(tmp_path), created="")
    folder = open_storage(record, None)
    assert isinstance(folder, FilesystemStorage)
    assert folder.name == str(tmp_path)
    bucket = open_storage(BUCKET, STATIC, connections=3)
    assert isinstance(bucket, S3Storage)
    assert bucket.name == "s3://bucket/p"
    await bucket.aclose()
    with pytest.raises(UsageError, match="credentials"):
        open_storage(BUCKET, None)
