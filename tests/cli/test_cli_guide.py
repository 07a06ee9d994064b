"""Infinit's guide to an S3 storage, its command lines typed as they are printed there."""

import json
import shlex
from pathlib import Path

import pytest

from tests.support.console import Console
from tests.support.mounts import Run
from tests.support.s3_server import S3Server

CREDENTIALS = "infinit-credentials --add --as alice --aws --name s3-user"
STORAGE = (
    "infinit-storage --create --s3 --name s3-storage --account s3-user --region eu-central-1"
    " --bucket infinit-s3-storage-de-example-com --path blocks-folder"
)
BUCKET = "infinit-s3-storage-de-example-com"


def program(line: str) -> list[str]:
    """What the script named first on `line` runs, and its arguments."""
    script, *arguments = shlex.split(line)
    entry = script.removeprefix("infinit-")
    return ["-c", f"from infinitfs.cli.compat import {entry}; {entry}()", *arguments]


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.create_bucket(BUCKET, "eu-central-1")


def test_the_guide(run: Run, environ: dict[str, str], home: Path, s3: S3Server, bucket: str) -> None:
    assert run("user", "create", "alice").exit_code == 0
    assert len(s3.secret_access_key) == 40
    environ["AWS_ENDPOINT_URL_S3"] = s3.endpoint

    with Console(program(CREDENTIALS), environ) as console:
        console.expect("Access Key ID: ")
        console.type(f"{s3.access_key_id}\n")
        console.expect("Secret Access Key: ")
        console.type(f"{s3.secret_access_key}\n")
        assert console.exit_code() == 0
        assert console.seen == (
            "Please enter your AWS credentials\n"
            f"Access Key ID: {s3.access_key_id}\n"
            "Secret Access Key: ****************************************\n"
            'Locally stored AWS credentials "s3-user".\n'
        )
    with Console(program(STORAGE), environ) as console:
        assert console.exit_code() == 0, console.seen
        assert console.seen == 'Created storage "s3-storage".\n'

    record = json.loads(run("storage", "show", "s3-storage", "--json").stdout)
    assert record["where"] == f"s3://{BUCKET}/blocks-folder"
    secret = s3.secret_access_key.encode()
    assert not any(secret in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_the_guide_s_note_on_reduced_redundancy(run: Run, environ: dict[str, str], s3: S3Server, bucket: str) -> None:
    assert run("user", "create", "alice").exit_code == 0
    lines = f"{s3.access_key_id}\n{s3.secret_access_key}\n"
    assert run("credentials", "add", "--aws", "s3-user", input=lines).exit_code == 0
    environ["AWS_ENDPOINT_URL_S3"] = s3.endpoint
    with Console(program(f"{STORAGE} --reduced-redundancy"), environ) as console:
        assert console.exit_code() == 0, console.seen
    record = json.loads(run("storage", "show", "s3-storage", "--json").stdout)
    assert record["storage_class"] == "REDUCED_REDUNDANCY"
