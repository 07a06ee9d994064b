"""An S3 server that was not made for tests: versitygw, which enforces signatures and bucket policies.

Above: tests marked `server`, which are skipped where it is not found. Below: the program `versitygw` in PATH, or what
`$VERSITYGW` names; `go install github.com/versity/versitygw/cmd/versitygw@latest` makes it.
Invariant: it listens on 127.0.0.1 only, keeps all that it stores in a test's folder, and has ended with its context.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from infinitfs.storage.account import StaticKeys

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION: Final = "eu-central-1"
PROGRAM = os.environ.get("VERSITYGW") or shutil.which("versitygw") or ""
_PATIENCE = 20.0  # seconds for it to listen

needs_server = [
    pytest.mark.server,
    pytest.mark.skipif(not PROGRAM, reason="versitygw is neither in PATH nor named by $VERSITYGW"),
]


@dataclass(frozen=True)
class RealServer:
    """`account` may do everything."""

    endpoint: str
    account: StaticKeys

    def create_bucket(self, name: str = "") -> str:
        """Make a bucket, of a name nobody else has where none is given, and return its name."""
        name = name or f"bucket-{secrets.token_hex(8)}"
        client = self.client()
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        client.close()
        return name

    def add_user(self, bucket: str, policy: dict[str, Any]) -> StaticKeys:
        """The keys of a new user who may do in `bucket` what a policy of IAM allows, and nothing else."""
        keys = StaticKeys(access_key_id=f"user-{secrets.token_hex(6)}", secret_access_key=secrets.token_urlsafe(30))
        user = ("--access", keys.access_key_id, "--secret", keys.secret_access_key, "--role", "user")
        self._administer("create-user", *user)
        statements = [{**one, "Principal": {"AWS": [keys.access_key_id]}} for one in policy["Statement"]]
        client = self.client()
        with contextlib.suppress(ClientError):  # there is none yet
            statements += json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({**policy, "Statement": statements}))
        client.close()
        return keys

    def remove_user(self, keys: StaticKeys) -> None:
        """From now on nobody knows these keys."""
        self._administer("delete-user", "--access", keys.access_key_id)

    def _administer(self, *command: str) -> None:
        who = ("--access", self.account.access_key_id, "--secret", self.account.secret_access_key)
        where = ("--endpoint-url", self.endpoint, "--region", REGION)
        subprocess.run([PROGRAM, "admin", *who, *where, *command], check=True, capture_output=True)

    def client(self) -> "S3Client":
        """A client of the service itself, to look behind a storage's back."""
        client = Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.account.access_key_id,
            aws_secret_access_key=self.account.secret_access_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        return cast("S3Client", client)


@contextlib.contextmanager
def real_server(folder: Path) -> Iterator[RealServer]:
    """A server that keeps its buckets in `folder`, which must be on a filesystem with extended attributes."""
    for name in ("data", "users"):
        (folder / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = free.getsockname()
    account = StaticKeys(access_key_id="root", secret_access_key=secrets.token_urlsafe(30))
    process = subprocess.Popen(
        [
            *(PROGRAM, "--port", f"127.0.0.1:{place[1]}", "--region", REGION, "--keep-alive", "--quiet"),
            *("--iam-dir", str(folder / "users"), "posix", str(folder / "data")),
        ],
        env=os.environ
        | {"ROOT_ACCESS_KEY_ID": account.access_key_id, "ROOT_SECRET_ACCESS_KEY": account.secret_access_key},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(place, process)
        yield RealServer(f"http://127.0.0.1:{place[1]}", account)
    finally:
        process.kill()
        process.wait()


def _wait_for(place: tuple[str, int], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(place).close()
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.05)
        else:
            return
