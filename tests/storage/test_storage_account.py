"""Accounts keep their secrets to themselves, and resolve to what they name."""

import io
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from botocore.credentials import Credentials, RefreshableCredentials
from rich.pretty import pretty_repr

from infinitfs.config.model import FilesystemStorageRecord, S3StorageRecord
from infinitfs.errors import AccessDenied, NoKey, NotFound, ObjectNotFound, RoleRefused, UsageError
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
from tests.support.listeners import instance_metadata
from tests.support.s3_server import S3Server

REGION = "eu-west-1"
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
    found = session(account, REGION).get_credentials()
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
    assert session(InstanceRole(), REGION).get_credentials() is None


def test_instance_role(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment has does not count: it is for who may ask the machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with instance_metadata(STATIC, datetime.now(UTC) + timedelta(hours=6)) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        found = credentials_of(InstanceRole()).get_frozen_credentials()
        assert (found.access_key, found.secret_key, found.token) == ("AKIAEXAMPLE", SECRET, TOKEN)
        assert credentials_of(Environment()).access_key == "AKIAENV"


def test_a_role_is_assumed_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Making the session asks nobody; that nothing can assume the role shows at the first request.
    assert credentials_of(Role("arn:aws:iam::123456789012:role/drive")).method == "assume-role"


def as_source(keys: StaticKeys, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_access_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.endpoint)


async def test_a_role_s_keys_are_renewed_before_they_end(
    s3_server: S3Server, s3_record: S3StorageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_source(s3_server.add_user("sts:AssumeRole"), s3_server, monkeypatch)
    role = Role(s3_server.add_role("s3:GetObject", "s3:ListBucket"))
    storage = S3Storage(s3_record, role)
    keys = storage._client._request_signer._credentials  # type: ignore[attr-defined]
    assert isinstance(keys, RefreshableCredentials)
    s3_server.requests.clear()
    for _ in range(2):
        with pytest.raises(ObjectNotFound):
            await storage.get("a")
    keys._expiry_time = datetime.now(UTC) + timedelta(minutes=5)  # type: ignore[attr-defined]
    with pytest.raises(ObjectNotFound):
        await storage.get("a")
    with pytest.raises(AccessDenied, match="not allowed"):
        await storage.put("a", b"what the role may not")
    first, second, third, fourth = (request.access_key_id for request in s3_server.requests)
    assert first == second != third == fourth
    assert first.startswith("ASIA")
    await storage.aclose()


async def test_a_role_that_may_not_be_assumed(
    s3_server: S3Server, s3_record: S3StorageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_source(s3_server.add_user("s3:*"), s3_server, monkeypatch)
    role = s3_server.add_role("s3:*")
    storage = S3Storage(s3_record, Role(role))
    with pytest.raises(RoleRefused, match=f"{role} cannot be assumed"):
        await storage.get("a")
    await storage.aclose()


async def test_temporary_keys_come_with_their_token(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    """Without it the service knows nobody of that name."""
    temporary = s3_server.temporary("s3:*")
    assert temporary.session_token
    storage = S3Storage(s3_record, temporary)
    await storage.put("a", b"1")
    await storage.aclose()


async def test_no_log_of_any_level_has_a_secret(
    s3_server: S3Server,
    s3_record: S3StorageRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    as_source(s3_server.add_user("sts:AssumeRole"), s3_server, monkeypatch)
    accounts = (s3_server.account, s3_server.temporary("s3:*"), Role(s3_server.add_role("s3:*")))
    for name in ("", "botocore", "boto3", "urllib3"):
        caplog.set_level(logging.DEBUG, name or None)
    for account in accounts:
        storage = S3Storage(s3_record, account)
        await storage.put("a", b"1")
        with pytest.raises(ObjectNotFound):
            await storage.get("none")
        credentials = storage._client._request_signer._credentials.get_frozen_credentials()  # type: ignore[attr-defined]
        # The server is in this process, too, and writes down what it is sent.
        ours = [record for record in caplog.records if not record.name.startswith(("moto", "werkzeug"))]
        assert any(record.name.startswith("urllib3") for record in ours)
        for secret in filter(None, (s3_server.secret_access_key, credentials.secret_key, credentials.token)):
            assert not [record for record in ours if secret in f"{record.getMessage()} {vars(record)}"]
        await storage.aclose()


async def test_missing_credentials_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts: list[Account] = [Environment(), InstanceRole(), Role("arn:aws:iam::123456789012:role/drive")]
    for account in accounts:
        storage = open_storage(BUCKET, account)
        with pytest.raises(NoKey, match="Unable to locate credentials"):
            await storage.get("a")
        await storage.aclose()
    with pytest.raises(NotFound, match='profile "nowhere"'):
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
