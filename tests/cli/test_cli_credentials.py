"""`infinitfs credentials`: keys taken in, sealed, never shown again."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from infinitfs.cli.account import open_account
from infinitfs.cli.invocation import Invocation
from infinitfs.storage.account import Account, Environment, InstanceRole, Profile, Role, StaticKeys
from tests.support.console import Console
from tests.support.mounts import Run

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


def test_a_sealed_secret_does_not_open_under_another_name(run: Run, environ: dict[str, str], home: Path) -> None:
    run("credentials", "add", "--aws", "s3-user", input=f"{KEY_ID}\n{KEY}\n")
    folder = home / "config" / "credentials"
    moved = json.loads((folder / "s3-user.json").read_text()) | {"name": "other"}
    (folder / "other.json").write_text(json.dumps(moved))
    with pytest.raises(Exception, match="does not open"):
        account(environ, "other")


def test_credentials_in_use_are_deleted_by_force_only(run: Run) -> None:
    run("credentials", "add", "--aws", "s3-user", "--environment")
    create = ["storage", "create", "--s3", "remote", "--account", "s3-user", "--region", "eu-central-1"]
    assert run(*create, "--bucket", "some-bucket", "--no-check").exit_code == 0
    result = run("credentials", "delete", "s3-user")
    assert result.exit_code == 11
    assert 'the storage "remote" uses them' in result.stderr
    assert run("credentials", "delete", "s3-user", "--force").exit_code == 0
    assert run("credentials", "delete", "s3-user").exit_code == 10
