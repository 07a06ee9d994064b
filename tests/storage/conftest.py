"""What the storage tests share: one S3 server of each kind for the session, and a storage of every kind."""

import random
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from infinitfs.config.model import S3StorageRecord
from infinitfs.storage.account import StaticKeys
from infinitfs.storage.base import Storage
from infinitfs.storage.filesystem import FilesystemStorage, prepare
from infinitfs.storage.limit import LimitStorage
from infinitfs.storage.memory import MemoryStorage
from infinitfs.storage.retry import RetryStorage
from infinitfs.storage.s3 import S3Storage
from infinitfs.storage.trace import Trace, TraceStorage
from tests.support.real_server import REGION, needs_server, real_server
from tests.support.s3_server import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3Server) -> str:
    """The bucket of all tests that need none of their own."""
    return s3_server.create_bucket()


@pytest.fixture
def s3_record(s3_server: S3Server, s3_bucket: str) -> S3StorageRecord:
    """A storage in a folder of its own, beside those of other tests."""
    return S3StorageRecord(
        name="s3",
        account="account",
        region="us-east-1",
        bucket=s3_bucket,
        path=f"s3_blocks/{secrets.token_hex(8)}",
        endpoint=s3_server.endpoint,
        created="2026-01-01T00:00:00Z",
    )


@pytest.fixture(scope="session")
def server_record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3StorageRecord, StaticKeys]]:
    """A storage on a server that was not made for tests, without a folder, and who may use it."""
    with real_server(tmp_path_factory.mktemp("server")) as server:
        made = S3StorageRecord(
            name="server",
            account="account",
            region=REGION,
            bucket=server.create_bucket(),
            path="",
            endpoint=server.endpoint,
            created="2026-01-01T00:00:00Z",
        )
        yield made, server.account


STORAGES = [
    pytest.param(f"{kind}{decorated}", marks=needs_server if kind == "server" else [])
    for decorated in ("", " decorated")
    for kind in ("memory", "filesystem", "s3", "server")
]


@pytest.fixture(params=STORAGES)
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    kind, _, decorated = request.param.partition(" ")
    made: Storage
    if kind == "memory":
        made = MemoryStorage()
    elif kind == "filesystem":
        prepare(tmp_path)
        made = FilesystemStorage(tmp_path)
    elif kind == "server":
        record, account = request.getfixturevalue("server_record")
        made = S3Storage(msgspec.structs.replace(record, path=f"blocks/{secrets.token_hex(8)}"), account)
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        made = S3Storage(request.getfixturevalue("s3_record"), server.account)
    if decorated:
        traces: list[Trace] = []
        limited = LimitStorage(TraceStorage(made, traces.append), upload=1e12, download=1e12)
        made = RetryStorage(limited, deadline=1, random=random.Random(1).random, connections=8)
    yield made
    await made.aclose()
