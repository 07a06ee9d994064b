"""A real S3 server on a loopback socket, with users, policies and signatures that count.

Above: any test that needs S3. Below: moto.
Invariant: it listens on 127.0.0.1 only, sets no environment variable, and refuses who does not sign with one
of its keys. moto's state belongs to the process: servers of one process share their buckets and users, so
names are random.
"""

import functools
import json
import math
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from botocore.config import Config
from botocore.session import Session, create_loader
from moto import settings
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from infinitfs.storage.account import StaticKeys

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

HOME = "us-east-1"


class Request(NamedTuple):
    """What a server was asked: `path` begins with the bucket, `query` is as it came."""

    method: str
    path: str
    query: str
    access_key_id: str


class S3Server:
    """`with S3Server() as server:` listens at `server.endpoint`; `access_key_id` may do everything in S3.

    `certificate` and its key are files in PEM form, for TLS. `requests` are those of S3, in the order they came.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.requests: list[Request] = []
        self._tls = None if certificate is None else (str(certificate[0]), str(certificate[1]))

    def __enter__(self) -> "S3Server":
        # botocore's descriptions of services are read once, not for every client: that is most of what one costs.
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr("botocore.session.create_loader", functools.cache(create_loader))
        self._server = make_server(
            "127.0.0.1",
            0,
            _Serial(self.requests),
            threaded=True,
            request_handler=_QuietHandler,
            ssl_context=self._tls,
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3 server", daemon=True)
        self._thread.start()
        self.endpoint = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self._open_actions = settings.INITIAL_NO_AUTH_ACTION_COUNT
        self.account = self.add_user("s3:*")
        self.access_key_id = self.account.access_key_id
        self.secret_access_key = self.account.secret_access_key
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        settings.INITIAL_NO_AUTH_ACTION_COUNT = self._open_actions
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._patch.undo()

    def add_user(self, *actions: str) -> StaticKeys:
        """The keys of a new user who may do `actions` (`s3:GetObject` ...) and nothing else."""
        return self.add_user_with(allowing(*actions))

    def add_user_with(self, policy: dict[str, Any]) -> StaticKeys:
        """The keys of a new user with a policy."""
        with self._administering() as iam:
            name = f"user-{secrets.token_hex(6)}"
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName="allowed", PolicyDocument=json.dumps(policy))
            key = iam.create_access_key(UserName=name)["AccessKey"]
        return StaticKeys(access_key_id=key["AccessKeyId"], secret_access_key=key["SecretAccessKey"])

    def add_role(self, *actions: str) -> str:
        """The ARN of a new role that may do `actions` and that everybody in the account may assume."""
        with self._administering() as iam:
            name = f"role-{secrets.token_hex(6)}"
            trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
            arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
            policy = json.dumps(allowing(*actions))
            iam.put_role_policy(RoleName=name, PolicyName="allowed", PolicyDocument=policy)
        return str(arn)

    def temporary(self, *actions: str) -> StaticKeys:
        """Keys with a session token, of a new role that may do `actions`."""
        role = self.add_role(*actions)
        with self._administering():
            sts = self._client("sts", HOME, self.account)
            keys = sts.assume_role(RoleArn=role, RoleSessionName="session")["Credentials"]
            sts.close()
        return StaticKeys(
            access_key_id=keys["AccessKeyId"],
            secret_access_key=keys["SecretAccessKey"],
            session_token=keys["SessionToken"],
        )

    def remove(self, keys: StaticKeys) -> None:
        """From now on nobody knows these keys."""
        with self._administering() as iam:
            for user in iam.list_users()["Users"]:
                for key in iam.list_access_keys(UserName=user["UserName"])["AccessKeyMetadata"]:
                    if key["AccessKeyId"] == keys.access_key_id:
                        iam.delete_access_key(UserName=user["UserName"], AccessKeyId=keys.access_key_id)

    @contextmanager
    def _administering(self) -> Iterator[Any]:
        """A client of IAM, which needs no rights: nobody could make the first user otherwise."""
        settings.INITIAL_NO_AUTH_ACTION_COUNT = math.inf
        iam = self._client("iam", HOME, StaticKeys(access_key_id="setup", secret_access_key=secrets.token_hex(8)))
        try:
            yield iam
        finally:
            iam.close()
            settings.INITIAL_NO_AUTH_ACTION_COUNT = 0

    def create_bucket(self, name: str = "", region: str = HOME, *, object_lock: bool = False) -> str:
        """Make a bucket, of a name nobody else has where none is given, and return its name."""
        name = name or f"bucket-{secrets.token_hex(8)}"
        where: dict[str, Any] = {}
        if region != HOME:
            where["CreateBucketConfiguration"] = {"LocationConstraint": region}
        client = self.client(region)
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=object_lock, **where)
        client.close()
        return name

    def client(self, region: str = HOME) -> "S3Client":
        """A client of the service itself, to look behind a storage's back."""
        client: S3Client = self._client("s3", region, self.account)
        return client

    def _client(self, service: str, region: str, keys: StaticKeys) -> Any:
        return Session().create_client(
            service,
            region_name=region,
            endpoint_url=self.endpoint,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            verify=self._tls[0] if self._tls else None,
            config=Config(s3={"addressing_style": "path"}),
        )


def allowing(*actions: str) -> dict[str, Any]:
    """The policy that allows `actions` everywhere."""
    return {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": actions, "Resource": "*"}}


class _Serial:
    """moto looks whether a key exists and stores it in two steps: one request at a time makes that one."""

    def __init__(self, requests: list[Request]) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()
        self._requests = requests

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        signed = re.search(r"Credential=([^/]+)/\d+/[^/]+/s3/", environ.get("HTTP_AUTHORIZATION", ""))
        with self._turn:
            if signed is not None:
                asked = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], signed[1])
                self._requests.append(Request(*asked))
            answer: Iterable[bytes] = self._app(environ, start_response)
            return answer


class _QuietHandler(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Tests print nothing."""
