"""What can happen between us and S3, by name, as plans of `s3_stub`.

Above: tests of faults. Below: `s3_stub`.
Invariant: every one of them is met by some request of a volume that is written, sent and read again.
"""

from collections.abc import Callable

from infinitfs.config.model import S3StorageRecord
from infinitfs.storage.account import StaticKeys
from tests.support.s3_stub import BUCKET, Cut, Fault, Flip, Hang, Refuse, Request, Reset, S3Stub

KEYS = StaticKeys(access_key_id="AKIASTUB", secret_access_key="not-looked-at")  # noqa: S106

_ELSEWHERE = (("x-amz-bucket-region", "eu-west-1"),)


def _any(request: Request) -> bool:
    return True


def _body(request: Request) -> bool:
    """An answer with an object's bytes."""
    return request.method == "GET" and bool(request.key)


def _pack_body(request: Request) -> bool:
    return _body(request) and "/packs/" in request.key


def _put(request: Request) -> bool:
    return request.method == "PUT"


def _change(request: Request) -> bool:
    return request.method in ("PUT", "DELETE")


def _create(request: Request) -> bool:
    return "if-none-match" in request.headers


FAULTS: dict[str, tuple[Fault, Callable[[Request], bool]]] = {
    "slow down": (Refuse(503, "SlowDown"), _any),
    "503 without a word": (Refuse(503), _any),
    "500": (Refuse(500, "InternalError"), _any),
    "reset before an answer": (Reset(), _any),
    "reset in the middle of a body": (Reset(middle=True), _body),
    "hang": (Hang(600), _any),
    "truncated body": (Cut(), _body),
    "flipped on the way up": (Flip(), _put),
    "flipped on the way down": (Flip(), _pack_body),
    "lost answer": (Reset(applied=True), _change),
    "conditional conflict": (Refuse(409, "ConditionalRequestConflict"), _create),
    "moved for good": (Refuse(301, "PermanentRedirect", _ELSEWHERE), _any),
    "moved for now": (Refuse(307, "TemporaryRedirect", _ELSEWHERE), _any),
    "expired token": (Refuse(400, "ExpiredToken"), _any),
    "clock skew": (Refuse(403, "RequestTimeTooSkewed"), _any),
}
"""A fault, and the requests that can meet it."""


def record(stub: S3Stub, host: str = "127.0.0.1") -> S3StorageRecord:
    return S3StorageRecord(
        name="far",
        account="keys",
        region="us-east-1",
        bucket=BUCKET,
        path="blocks",
        endpoint=f"http://{host}:{stub.port}",
        created="2026-01-01T00:00:00Z",
    )
