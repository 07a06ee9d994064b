"""`infinitfs credentials`: keys taken in, sealed, never shown again."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from infinitfs.cli.account import open_account
from infinitfs.cli.invocation import Invocation
from infinitfs.errors import DamagedRecord, StorageUnreachable
from infinitfs.storage.account import Account, Environment, InstanceRole, Profile, Role, StaticKeys
from tests.support.console import Console
from tests.support.mounts import Mounts, Run, volume_record
from tests.support.s3_server import S3Server
from tests.support.s3_stub import Page, S3Stub, always

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
ADD = ["-m", "infinitfs.cli.main", "credentials", "add", "--as", "alice", "--aws", "--name", "s3-user"]


@pytest.fixture(autouse=True)
def alice(run: Run) -> None:
    assert run("user", "create", "alice").exit_code == 0


def account(environ: dict[str, str], name: str = "s3-user") -> Account:
    invocation = Invocation(environ=environ)
    return open_account(invocation, invocation.store.credentials.get(name))


def static(key_id: str, key: str) -> StaticKeys:
    return StaticKeys(access_key_id=key_id, secret_access_key=key)


def nowhere_in(folder: Path, secret: str) -> bool:
    forms = [
        secret.encode(),
        base64.b64encode(secret.encode()).rstrip(b"=")[:-1],
        secret.encode().hex().encode(),
    ]
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert files
    return not any(form in file for file in files for form in forms)


def test_the_transcript_at_a_terminal(environ: dict[str, str], home: Path) -> None:
    with Console(ADD, environ) as console:
        console.expect("Access Key ID: ")
        console.type(f"{KEY_ID}\n")
        console.expect("Secret Access Key: ")
        console.type(f"{KEY}\n")
        assert console.exit_code() == 0
        assert console.seen == (
            "Please enter your AWS credentials\n"
            "Access Key ID: AKIAIOSFODNN7EXAMPLE\n"
            "Secret Access Key: ****************************************\n"
            'Locally stored AWS credentials "s3-user".\n'
        )
    assert nowhere_in(home, KEY)
    assert account(environ) == static(KEY_ID, KEY)


def test_malformed_answers_are_asked_again_at_a_terminal(environ: dict[str, str]) -> None:
    with Console(ADD, environ) as console:
        console.expect("Access Key ID: ")
        console.type("\n")
        console.expect("It is empty.\nAccess Key ID: ")
        console.type("with space\n")
        console.expect("It holds spaces")
        console.expect("Access Key ID: ")
        console.type("minio\n")
        console.expect("Secret Access Key: ")
        console.type("a\tb\n")
        console.expect("Secret Access Key: ")
        console.type("short\n")
        assert console.exit_code() == 0
    assert account(environ) == static("minio", "short")


def test_an_interrupt_at_the_secret_stores_nothing(environ: dict[str, str], home: Path) -> None:
    with Console(ADD, environ) as console:
        before = console.settings()
        console.expect("Access Key ID: ")
        console.type(f"{KEY_ID}\n")
        console.expect("Secret Access Key: ")
        console.type("half")
        console.expect("****")
        console.type("\x03")
        assert console.exit_code() == 130
        assert console.settings() == before
    assert not (home / "config" / "credentials").exists()


def test_two_lines_of_standard_input(run: Run, environ: dict[str, str], home: Path) -> None:
    result = run("credentials", "add", "--aws", "s3-user", input=f"{KEY_ID}\n{KEY}\n")
    assert result.stdout == 'Locally stored AWS credentials "s3-user".\n'
    assert result.stderr == ""
    assert nowhere_in(home, KEY)
    assert account(environ) == static(KEY_ID, KEY)


def test_id_and_secret_from_a_file(run: Run, environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{KEY}\n")
    arguments = ["--access-key-id", KEY_ID, "--secret-access-key-file", str(file)]
    assert run("credentials", "add", "--aws", "s3-user", *arguments).exit_code == 0
    assert account(environ) == static(KEY_ID, KEY)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--profile", "work"], Profile("work")),
        (["--environment"], Environment()),
        (["--instance-role"], InstanceRole()),
        (["--role-arn", "arn:aws:iam::1:role/r"], Role("arn:aws:iam::1:role/r")),
    ],
)
def test_sources_that_store_nothing(
    run: Run, environ: dict[str, str], arguments: Sequence[str], expected: Account
) -> None:
    assert run("credentials", "add", "--aws", "s3-user", *arguments).exit_code == 0
    assert account(environ) == expected
    assert run("credentials", "rotate", "s3-user", input="a\nb\n").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "input", "sentence"),
    [
        (["s3-user"], "a\nb\n", "Credentials type unspecified (use --aws)"),
        (["--aws"], "a\nb\n", "Credentials name unspecified (use --name)"),
        (["--aws", "s3-user"], "", "Access key id missing on standard input"),
        (["--aws", "s3-user"], "a\n", "Secret access key missing on standard input"),
        (["--aws", "s3-user"], "a b\nc\n", "The access key id is not usable: It holds spaces"),
        (["--aws", "s3-user"], "a\n\n", "The secret access key is not usable: It is empty."),
        (
            ["--aws", "s3-user"],
            "a\nb\x1b[A\n",
            "The secret access key is not usable: It holds spaces, control",
        ),
        (
            ["--aws", "s3-user", "--access-key-id", "a"],
            "",
            "Secret access key unspecified (use --secret-access",
        ),
        (["--aws", "s3-user", "--environment", "--profile", "x"], "", "--profile and --environment exclude"),
        (["--aws", "S3"], "a\nb\n", '"S3" is not a valid credentials name'),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(
    run: Run, home: Path, arguments: list[str], input: str, sentence: str
) -> None:
    result = run("credentials", "add", *arguments, input=input)
    assert result.exit_code == 2
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1
    assert not (home / "config" / "credentials").exists()


def test_an_unknown_user_is_named(run: Run) -> None:
    result = run("credentials", "add", "--as", "bob", "--aws", "s3-user", input="a\nb\n")
    assert result.exit_code == 10
    assert 'no user "bob"' in result.stderr


def test_list_and_show_tell_no_secret(run: Run) -> None:
    run("credentials", "add", "--aws", "s3-user", input=f"{KEY_ID}\n{KEY}\n")
    for arguments in (["list"], ["list", "--json"], ["show", "s3-user"], ["show", "s3-user", "--json"]):
        shown = run("credentials", *arguments).stdout
        assert KEY_ID in shown
        assert KEY not in shown
        assert "sealed" not in shown


def test_rotate_replaces_the_key(run: Run, environ: dict[str, str]) -> None:
    run("credentials", "add", "--aws", "s3-user", input=f"{KEY_ID}\n{KEY}\n")
    result = run("credentials", "rotate", "s3-user", input="NEWID\nnewsecret\n")
    assert result.stdout == 'Locally replaced AWS credentials "s3-user".\n'
    assert account(environ) == static("NEWID", "newsecret")
    assert "NEWID" in run("credentials", "list").stdout


def test_rotate_tells_the_mounts_that_use_the_key(run: Run, environ: dict[str, str], mounts: Mounts) -> None:
    for name in ("s3-user", "other"):
        run("credentials", "add", "--aws", name, input=f"{KEY_ID}\n{KEY}\n")
    place = ("--region", "eu-central-1", "--bucket", "some-bucket", "--no-check")
    for name, account_name in (("mine", "s3-user"), ("theirs", "other")):
        run("storage", "create", "--s3", name, "--account", account_name, *place)
    for name, storage in (("drive", "mine"), ("resting", "mine"), ("foreign", "theirs")):
        Invocation(environ=environ).store.volumes.create(volume_record(name, "alice", storage))
    mounts.mountpoints = {volume_record(name, "", "").volume: f"/{name}" for name in ("drive", "foreign")}
    result = run("credentials", "rotate", "s3-user", "--json", input="NEWID\nnewsecret\n")
    assert json.loads(result.stdout)["mounts"] == ["drive"]
    told = mounts.call("renew")
    assert told["volume_id"] == volume_record("drive", "", "").volume
    assert msgspec.convert(told["account"], StaticKeys) == static("NEWID", "newsecret")

    mounts.failure = StorageUnreachable(storage="The mount", reason="it ended")
    result = run("credentials", "rotate", "s3-user", input="NEWID\nnewsecret\n")
    assert result.exit_code == 0
    assert 'The mount of "drive" keeps the old key until it is mounted again' in result.stderr


def test_temporary_keys_are_kept_with_their_token(run: Run, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("asessiontoken==\n")
    more = ["--session-token-file", str(tmp_path / "token")]
    assert run("credentials", "add", "--aws", "s3-user", *more, input="ASIAKEY\nsecret\n").exit_code == 0
    kept = StaticKeys(access_key_id="ASIAKEY", secret_access_key="secret", session_token="asessiontoken==")  # noqa: S106
    assert account(environ) == kept
    assert run("credentials", "rotate", "s3-user", *more, input="ASIAKEY\nnew\n").exit_code == 0
    rotated = msgspec.structs.replace(kept, secret_access_key="new")  # noqa: S106
    assert account(environ) == rotated
    result = run("credentials", "rotate", "s3-user", input="ASIAKEY\nnew\n")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert account(environ) == rotated


@pytest.fixture
def place(s3: S3Server) -> list[str]:
    bucket = s3.create_bucket()
    return ["--account", "s3-user", "--region", "us-east-1", "--bucket", bucket, "--endpoint", s3.endpoint]


def test_check_says_whose_a_key_is_and_what_it_may(run: Run, s3: S3Server, place: list[str]) -> None:
    keys = s3.add_user("s3:ListBucket", "s3:GetObject", "sts:GetCallerIdentity")
    run("credentials", "add", "--aws", "s3-user", input=f"{keys.access_key_id}\n{keys.secret_access_key}\n")
    for name in ("one", "two"):
        assert run("storage", "create", "--s3", name, *place, "--no-check").exit_code == 0
    result = run("credentials", "check", "s3-user")
    who, heading, *rows = result.stdout.splitlines()
    assert who.startswith(f'The key {keys.access_key_id} of "s3-user" is arn:aws:iam::123456789012:user/user-')
    assert heading.split() == ["STORAGE", "LIST", "READ", "WRITE", "DELETE", "PROBLEM"]
    assert [row.split() for row in rows] == [["one", "yes", "yes", "no", "no"], ["two", "yes", "yes", "no", "no"]]
    assert result.exit_code == 14
    told = json.loads(run("credentials", "check", "s3-user", "--json").stdout)
    assert told["caller"] in who
    assert told["storages"][0] == {
        "name": "one",
        "list": True,
        "read": True,
        "write": False,
        "delete": False,
        "problem": "",
    }

    everything = f"{s3.access_key_id}\n{s3.secret_access_key}\n"
    assert run("credentials", "rotate", "s3-user", input=everything).exit_code == 0
    result = run("credentials", "check", "s3-user")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].split() == ["one", "yes", "yes", "yes", "yes"]
    client = s3.client()
    assert client.list_objects_v2(Bucket=place[5])["KeyCount"] == 0
    client.close()


def test_check_of_a_key_that_is_not_known(run: Run, s3: S3Server, place: list[str]) -> None:
    run("credentials", "add", "--aws", "s3-user", input=f"{KEY_ID}\n{KEY}\n")
    result = run("credentials", "check", "s3-user", AWS_ENDPOINT_URL_STS=s3.endpoint)
    assert (result.exit_code, result.stdout) == (14, "")
    assert "refused the key (the access key id is not known there, or it is disabled)" in result.stderr
    run("storage", "create", "--s3", "one", *place, "--no-check")
    result = run("credentials", "check", "s3-user")
    assert result.exit_code == 14
    assert "not known there" in result.stdout
    assert KEY not in result.stdout + result.stderr


def test_check_where_a_page_answers_in_the_service_s_place(run: Run) -> None:
    run("credentials", "add", "--aws", "s3-user", input=f"{KEY_ID}\n{KEY}\n")
    with S3Stub(always(Page())) as stub:
        result = run("credentials", "check", "s3-user", AWS_ENDPOINT_URL_STS=stub.endpoint)
    assert (result.exit_code, result.stdout) == (13, "")
    assert "is no S3 service (it answers as a web server does)" in result.stderr


def test_a_sealed_secret_does_not_open_under_another_name(run: Run, environ: dict[str, str], home: Path) -> None:
    run("credentials", "add", "--aws", "s3-user", input=f"{KEY_ID}\n{KEY}\n")
    folder = home / "config" / "credentials"
    moved = json.loads((folder / "s3-user.json").read_text()) | {"name": "other"}
    (folder / "other.json").write_text(json.dumps(moved))
    with pytest.raises(Exception, match="does not open"):
        account(environ, "other")


@pytest.mark.parametrize("sealed", ["x", "é"])
def test_a_sealed_secret_that_is_not_base64_is_a_damaged_record(
    run: Run, environ: dict[str, str], home: Path, sealed: str
) -> None:
    run("credentials", "add", "--aws", "s3-user", input=f"{KEY_ID}\n{KEY}\n")
    file = home / "config" / "credentials" / "s3-user.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sealed": sealed}))
    with pytest.raises(DamagedRecord, match=r"s3-user\.json"):
        account(environ, "s3-user")


def test_credentials_in_use_are_deleted_by_force_only(run: Run) -> None:
    run("credentials", "add", "--aws", "s3-user", "--environment")
    create = ["storage", "create", "--s3", "remote", "--account", "s3-user", "--region", "eu-central-1"]
    assert run(*create, "--bucket", "some-bucket", "--no-check").exit_code == 0
    result = run("credentials", "delete", "s3-user")
    assert result.exit_code == 11
    assert 'the storage "remote" uses them' in result.stderr
    assert run("credentials", "delete", "s3-user", "--force").exit_code == 0
    assert run("credentials", "delete", "s3-user").exit_code == 10
