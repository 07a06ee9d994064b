"""What can happen between us and S3, by name, as plans of `s3_stub`.

Above: tests of faults. Below: `s3_stub`.
Invariant: every one of them is met by some request of a volume that is written, sent and read again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from infinitfs.config.model import S3StorageRecord
from infinitfs.storage import s3
from infinitfs.storage.account import StaticKeys
from infinitfs.storage.base import Storage
from infinitfs.storage.ledger import Ledger
from infinitfs.storage.s3 import S3Storage
from infinitfs.transfer.protocol import Open
from infinitfs.transfer.worker import decorated
from tests.support.s3_stub import BUCKET, Cut, Fault, Flip, Hang, Page, Refuse, Request, Reset, S3Stub

KEYS = StaticKeys(access_key_id="AKIASTUB", secret_access_key="not-looked-at")  # noqa: S106

_ELSEWHERE = (("x-amz-bucket-region", "eu-west-1"),)


def _any(request: Request) -> bool:
    return True


def _body(request: Request) -> bool:
    """An answer with an object's bytes."""
    return request.method == "GET" and bool(request.key)


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
    "flipped on the way down": (Flip(), _body),
    "lost answer": (Reset(applied=True), _change),
    "conditional conflict": (Refuse(409, "ConditionalRequestConflict"), _create),
    "login page": (Page(), _any),
    "login page that is no XML": (Page(b"<p>Log in"), _any),
    "redirect": (Refuse(302, headers=(("Location", "https://login.invalid/"),)), _any),
    "moved for good": (Refuse(301, "PermanentRedirect", _ELSEWHERE), _any),
    "moved for now": (Refuse(307, "TemporaryRedirect", _ELSEWHERE), _any),
    "expired token": (Refuse(400, "ExpiredToken"), _any),
    "clock skew": (Refuse(403, "RequestTimeTooSkewed"), _any),
}
"""A fault, and the requests that can meet it."""


def record(port: int, host: str = "127.0.0.1") -> S3StorageRecord:
    """A storage in the stub that listens on `port`."""
    return S3StorageRecord(
        name="far",
        account="keys",
        region="us-east-1",
        bucket=BUCKET,
        path="blocks",
        endpoint=f"http://{host}:{port}",
        created="2026-01-01T00:00:00Z",
    )


@dataclass(frozen=True)
class Service:
    """A stub, and a client of it that takes 0.2 s of silence for a hang."""

    stub: S3Stub
    backend: S3Storage

    def patient(self, deadline: float = 20, *, connections: int = 32, ledger: Ledger | None = None) -> Storage:
        """What a transfer process makes of the client."""
        opening = Open(record=record(self.stub.port), deadline=deadline, connections=connections)
        return decorated(self.backend, opening, ledger or Ledger())


@contextmanager
def faulty_service() -> Iterator[Service]:
    """One for many tests, each of which has the stub `start`: to make a client takes longer than most of them."""
    with S3Stub() as stub, pytest.MonkeyPatch.context() as patched:
        patched.setattr(s3, "_READ_TIMEOUT", 0.2)
        yield Service(stub, S3Storage(record(stub.port), KEYS))
