"""`infinitfs storage`: checked before it is kept, against a real S3 server and a local folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.mounts import Run
from tests.support.s3_server import S3Server

REGION = "eu-central-1"


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.create_bucket(region=REGION)


@pytest.fixture
def credentials(run: Run, s3: S3Server) -> str:
    """Credentials "s3-user" of the user "alice", which may do everything in S3."""
    assert run("user", "create", "alice").exit_code == 0
    lines = f"{s3.access_key_id}\n{s3.secret_access_key}\n"
    assert run("credentials", "add", "--as", "alice", "--aws", "s3-user", input=lines).exit_code == 0
    return "s3-user"


def options(bucket: str, /, **changed: str | None) -> list[str]:
    """The options of a good `storage create --s3`; None leaves one out."""
    given = {"name": "remote", "account": "s3-user", "region": REGION, "bucket": bucket, **changed}
    return ["--s3", *(word for option, value in given.items() if value for word in (f"--{option}", value))]


def shown(run: Run, name: str = "remote") -> dict[str, object]:
    record: dict[str, object] = json.loads(run("storage", "show", name, "--json").stdout)
    return record


def test_create_checks_and_keeps_the_bucket(run: Run, s3: S3Server, credentials: str, bucket: str) -> None:
    result = run("storage", "create", *options(bucket), AWS_ENDPOINT_URL_S3=s3.endpoint)
    assert (result.exit_code, result.stdout, result.stderr) == (0, 'Created storage "remote".\n', "")
    record = shown(run)
    assert record["where"] == f"s3://{bucket}/remote_blocks"
    assert record["conditional"] is True
    client = s3.client(REGION)
    assert client.list_objects_v2(Bucket=bucket).get("KeyCount") == 0
    client.close()
    assert run("storage", "check", "remote", AWS_ENDPOINT_URL_S3=s3.endpoint).exit_code == 0


def test_create_takes_the_endpoint_and_the_rest(run: Run, s3: S3Server, credentials: str, bucket: str) -> None:
    more = ["--endpoint", s3.endpoint, "--capacity", "2TB", "--reduced-redundancy", "--description", "Mine."]
    result = run("storage", "create", *options(bucket, path="/blocks-folder/"), *more)
    assert result.exit_code == 0, result.stderr
    record = shown(run)
    assert record["where"] == f"s3://{bucket}/blocks-folder"
    assert record["capacity"] == 2 * 10**12
    assert record["storage_class"] == "REDUCED_REDUNDANCY"
    assert record["endpoint"] == s3.endpoint


def test_a_versioned_bucket_gets_a_warning(run: Run, s3: S3Server, credentials: str) -> None:
    bucket = s3.create_bucket(region=REGION)
    client = s3.client(REGION)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    result = run("storage", "create", *options(bucket), AWS_ENDPOINT_URL_S3=s3.endpoint)
    assert result.exit_code == 0
    assert "keeps old versions" in result.stderr
    assert result.stdout == 'Created storage "remote".\n'


@pytest.mark.parametrize(
    ("changed", "exit_code", "sentence"),
    [
        ({"region": "Frankfurt"}, 2, "did you mean eu-central-1?"),
        (
            {"region": "us-west-2"},
            2,
            "is in the region eu-central-1, not in us-west-2: use --region eu-central-1.",
        ),
        ({"bucket": "no-such-bucket-anywhere"}, 10, 'There is no bucket "no-such-bucket-anywhere"'),
        ({"bucket": "!"}, 2, "cannot be the name of a bucket"),
        ({"account": "other"}, 10, 'There is no credentials "other"'),
        ({"name": "UPPER"}, 2, '"UPPER" is not a valid storage name'),
        ({"storage-class": "GLACIER"}, 2, "use GLACIER_IR"),
        ({"endpoint": "http://127.0.0.1:1"}, 13, "cannot be reached"),
        ({"as": "bob"}, 2, 'belong to the user "alice", not to "bob"'),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_nothing(
    run: Run,
    s3: S3Server,
    credentials: str,
    bucket: str,
    changed: dict[str, str],
    exit_code: int,
    sentence: str,
) -> None:
    run("user", "create", "bob")
    arguments = options(bucket, **changed)
    result = run("storage", "create", *arguments, AWS_ENDPOINT_URL_S3=s3.endpoint, INFINITFS_USER="alice")
    assert result.exit_code == exit_code, result.stderr
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert run("storage", "list", "--json").stdout == ""


@pytest.mark.parametrize("wrong", ["id", "secret"])
def test_a_wrong_key_is_told_and_leaves_nothing(run: Run, s3: S3Server, bucket: str, wrong: str) -> None:
    run("user", "create", "alice")
    key_id = "AKIAIOSFODNN7EXAMPLE" if wrong == "id" else s3.access_key_id
    run("credentials", "add", "--aws", "s3-user", input=f"{key_id}\nwrong\n")
    result = run("storage", "create", *options(bucket), AWS_ENDPOINT_URL_S3=s3.endpoint)
    assert result.exit_code == 14, result.stderr
    assert result.stderr.count("\n") == 1
    assert run("storage", "list").stdout == ""


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("name", "Storage name unspecified (use --name)"),
        ("account", "S3 account unspecified (use --account)"),
        ("region", "S3 region unspecified (use --region)"),
        ("bucket", "S3 bucket unspecified (use --bucket)"),
    ],
)
def test_a_missing_option_is_named(run: Run, missing: str, sentence: str) -> None:
    result = run("storage", "create", *options("some-bucket", **{missing: None}))
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["local"], "Storage type unspecified (use --s3 or --filesystem)"),
        (["local", "--s3", "--filesystem"], "Storage type unspecified (use --s3 or --filesystem)"),
        (["local", "--filesystem"], "Folder unspecified (use --path)"),
        (
            ["local", "--filesystem", "--path", "x", "--bucket", "b"],
            "--bucket is an option of --s3 storages only.",
        ),
        (
            ["x", *options("bucket", name=None), "--reduced-redundancy", "--storage-class", "STANDARD_IA"],
            "--reduced-redundancy and --storage-class exclude each other: give one.",
        ),
    ],
)
def test_contradicting_options_are_told(run: Run, arguments: Sequence[str], sentence: str) -> None:
    result = run("storage", "create", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{sentence}\n")


def test_no_check_asks_nobody(run: Run, credentials: str) -> None:
    more = ["--endpoint", "http://127.0.0.1:1", "--no-check"]
    assert run("storage", "create", *options("some-bucket"), *more).exit_code == 0
    assert shown(run)["where"] == "s3://some-bucket/remote_blocks"


def test_a_local_folder_is_made_and_kept(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "blocks"
    result = run("storage", "create", "--filesystem", "local", "--path", str(folder), "--capacity", "1GB")
    assert (result.exit_code, result.stdout) == (0, 'Created storage "local".\n'), result.stderr
    assert folder.is_dir()
    assert run("storage", "create", "--filesystem", "local", "--path", str(folder)).exit_code == 11
    assert run("storage", "check", "local").stdout == 'The storage "local" can be used.\n'
    assert str(folder) in run("storage", "list").stdout


def test_a_check_makes_no_storage_of_an_empty_mountpoint(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    assert run("storage", "create", "--filesystem", "usb", "--path", str(folder)).exit_code == 0
    folder.rename(tmp_path / "away")
    folder.mkdir()
    for command in (("storage", "check"), ("benchmark", "storage")):
        result = run(*command, "usb")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (13, "", 1)
        assert f"{folder} cannot be reached (there is no .infinitfs in it: its disk is not mounted" in result.stderr
        assert "connect or mount the disk" in result.stderr
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_leaves_no_record(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("storage", "create", "--filesystem", "local", "--path", str(tmp_path / "file" / "blocks"))
    assert result.exit_code not in (0, 1)
    assert result.stderr.count("\n") == 1
    assert run("storage", "list").stdout == ""


def test_policy_prints_what_a_key_needs(run: Run, credentials: str) -> None:
    assert run("storage", "create", *options("some-bucket", path="blocks"), "--no-check").exit_code == 0
    printed = json.loads(run("storage", "policy", "remote").stdout)
    assert printed == json.loads(run("storage", "policy", "--bucket", "some-bucket", "--path", "/blocks/").stdout)
    objects, listing, where = printed["Statement"]
    assert objects["Action"] == ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    assert objects["Resource"] == "arn:aws:s3:::some-bucket/blocks/*"
    assert listing["Condition"] == {"StringLike": {"s3:prefix": "blocks/*"}}
    assert listing["Resource"] == where["Resource"] == "arn:aws:s3:::some-bucket"
    whole = json.loads(run("storage", "policy", "--bucket", "some-bucket").stdout)
    assert whole["Statement"][0]["Resource"] == "arn:aws:s3:::some-bucket/*"
    assert run("storage", "policy").stderr == "Storage name unspecified (use --name, or --bucket)\n"
    assert run("storage", "policy", "remote", "--bucket", "b").exit_code == 2


def test_policy_of_other_partitions(run: Run, credentials: str) -> None:
    assert run("storage", "create", *options("some-bucket", region="cn-north-1"), "--no-check").exit_code == 0
    assert "arn:aws-cn:s3:::some-bucket/" in run("storage", "policy", "remote").stdout


def test_delete_forgets_the_record_only(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "blocks"
    run("storage", "create", "--filesystem", "local", "--path", str(folder))
    assert run("storage", "delete", "local").stdout == 'Deleted storage "local".\n'
    assert folder.is_dir()
    assert run("storage", "delete", "local").exit_code == 10
