"""A real S3 server on a loopback socket, with users, policies and signatures that count.

Above: any test that needs S3. Below: moto.
Invariant: it listens on 127.0.0.1 only, sets no environment variable, and refuses who does not sign with one
of its keys. moto's state belongs to the process: servers of one process share their buckets and users, so
names are random.
"""

import json
import math
import secrets
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from botocore.config import Config
from botocore.session import Session
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


class S3Server:
    """`with S3Server() as server:` listens at `server.endpoint`; `access_key_id` may do everything in S3."""

    def __enter__(self) -> "S3Server":
        self._server = make_server("127.0.0.1", 0, _Serial(), threaded=True, request_handler=_QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3 server", daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
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

    def add_user(self, *actions: str) -> StaticKeys:
        """The keys of a new user who may do `actions` (`s3:GetObject` ...) and nothing else."""
        settings.INITIAL_NO_AUTH_ACTION_COUNT = math.inf  # nobody could make the first user otherwise
        try:
            iam = self._client("iam", HOME, StaticKeys(access_key_id="setup", secret_access_key=secrets.token_hex(8)))
            name = f"user-{secrets.token_hex(6)}"
            allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
            policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName="allowed", PolicyDocument=policy)
            key = iam.create_access_key(UserName=name)["AccessKey"]
            iam.close()
        finally:
            settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        return StaticKeys(access_key_id=key["AccessKeyId"], secret_access_key=key["SecretAccessKey"])

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
            config=Config(s3={"addressing_style": "path"}),
        )


class _Serial:
    """moto looks whether a key exists and stores it in two steps: one request at a time makes that one."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._turn:
            answer: Iterable[bytes] = self._app(environ, start_response)
            return answer


class _QuietHandler(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Tests print nothing."""
