"""`infinitfs benchmark storage`: what it tells, and that it leaves nothing behind, however it ends."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infinitfs.benchmark.results import CURVES, Result
from infinitfs.benchmark.storage import PACK, connections_for, measure_storage
from infinitfs.config.model import FilesystemStorageRecord, S3StorageRecord, StorageRecord
from infinitfs.errors import RightMissing, StorageFailed, StorageUnreachable
from infinitfs.storage.account import Account, StaticKeys
from infinitfs.storage.filesystem import prepare
from tests.support.s3_server import HOME, S3Server
from tests.support.s3_stub import BUCKET, Fault, Refuse, Request, S3Stub

KEYS = StaticKeys(access_key_id="KEY", secret_access_key="secret")  # noqa: S106
BUSY = Refuse(503, "SlowDown")


def silent(*_: int) -> None:
    """No progress is shown, no interrupt told."""


async def measure(record: StorageRecord, account: Account | None) -> Result:
    return await measure_storage(
        record, account, samples=4, seconds=0.0, levels=(1, 2), progress=silent, interrupted=silent
    )


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with S3Stub() as made:
        yield made


def record_of(endpoint: str, bucket: str = BUCKET) -> S3StorageRecord:
    return S3StorageRecord(
        name="far", account="a", region=HOME, bucket=bucket, path="shelf", endpoint=endpoint, created=""
    )


def stored(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name != ".infinitfs"]


async def test_a_folder_is_measured_and_empty_again(tmp_path: Path) -> None:
    folder = tmp_path / "shelf"
    prepare(folder)
    result = await measure(FilesystemStorageRecord(name="near", path=str(folder), created=""), None)
    assert [row.name for row in result.rows] == [
        *("PUT 4 KiB", "GET 4 KiB", "PUT 256 KiB", "GET 256 KiB", "PUT a pack", "GET a pack", "HEAD", "LIST", "DELETE")
    ]
    assert all(row.values["latency"].median > 0 for row in result.rows)
    assert result.rows[0].values["latency"].count == 4
    assert set(result.curves) == set(CURVES)
    assert result.options == ["--connections", str(connections_for(result.curves))]
    assert not any("cost" in line for line in result.conclusion)
    assert stored(folder) == []


async def test_a_bucket_is_measured_and_empty_again(stub: S3Stub) -> None:
    result = await measure(record_of(stub.endpoint), KEYS)
    assert stub.objects == {}
    sizes = {len(request.body) for _, request, _ in stub.received if request.method == "PUT"}
    assert {4096, 256 << 10, PACK} <= sizes
    assert all(request.key.startswith("shelf/") for _, request, _ in stub.received if request.key)
    (cost,) = [line for line in result.conclusion if "would cost" in line]
    assert "$0.0" in cost


async def test_without_the_right_to_delete_nothing_is_written(s3: S3Server) -> None:
    bucket = s3.create_bucket()
    account = s3.add_user("s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetBucketLocation")
    before = len(s3.requests)
    with pytest.raises(RightMissing, match="s3:DeleteObject"):
        await measure(record_of(s3.endpoint, bucket), account)
    assert not any(request.method == "PUT" for request in s3.requests[before:])


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("the check", signal.SIGINT),
        ("a small put", signal.SIGTERM),
        ("a get", signal.SIGINT),
        ("a pack", signal.SIGHUP),
        ("throughput", signal.SIGINT),
        ("the cleaning", signal.SIGTERM),
    ],
)
async def test_an_interrupt_leaves_nothing_behind(stub: S3Stub, moment: str, number: int) -> None:
    packs = 0
    sent = threading.Event()

    def is_now(request: Request) -> bool:
        nonlocal packs
        benchmark = "/benchmark-" in request.key
        if request.method == "PUT" and len(request.body) == PACK:
            packs += 1
        match moment:
            case "the check":
                return request.method == "PUT"
            case "a small put":
                return benchmark and request.method == "PUT"
            case "a get":
                return benchmark and request.method == "GET"
            case "a pack":
                return packs == 1
            case "throughput":
                return packs == 3
            case _:
                return packs > 0 and request.method == "DELETE"

    def interrupt(request: Request) -> Fault | None:
        if not sent.is_set() and is_now(request):
            sent.set()
            os.kill(os.getpid(), number)
        return None

    stub.latency = 0.005  # what was on its way is carried out after the interrupt
    stub.plan = interrupt
    told = []
    with pytest.raises(KeyboardInterrupt):
        await measure_storage(
            record_of(stub.endpoint),
            KEYS,
            samples=4,
            seconds=0.0,
            levels=(1, 2),
            progress=silent,
            interrupted=lambda: told.append(1),
        )
    assert told == [1]
    assert stub.objects == {}


async def test_requests_that_fail_for_a_moment_are_lost_samples(stub: S3Stub) -> None:
    refused: list[Request] = []

    def once(request: Request) -> Fault | None:
        if request.method == "PUT" and "/benchmark-" in request.key and len(refused) < 2:
            refused.append(request)
            return BUSY
        return None

    stub.plan = once
    result = await measure(record_of(stub.endpoint), KEYS)
    latency = result.rows[0].values["latency"]
    assert (latency.count, latency.lost) == (2, 2)
    assert stub.objects == {}


async def test_a_storage_that_takes_nothing_any_more_is_an_error(stub: S3Stub) -> None:
    stub.plan = lambda request: BUSY if request.method == "PUT" and "/benchmark-" in request.key else None
    with pytest.raises(StorageUnreachable):
        await measure(record_of(stub.endpoint), KEYS)


async def test_what_cannot_be_removed_is_named(stub: S3Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infinitfs.benchmark.storage._CLEAN_UP", 0.1)
    stub.plan = lambda request: (
        Refuse(500, "InternalError") if request.method == "DELETE" and "/benchmark-" in request.key else None
    )
    with pytest.raises(StorageFailed, match=r"remove the benchmark's objects below benchmark-[0-9a-f]{16}/packs/"):
        await measure(record_of(stub.endpoint), KEYS)
