"""A transfer's whole way to S3 over a service that fails as told, on real sockets.

The service hangs for a shorter time than it would be waited for in earnest, and patience is shorter. Every fault under
a whole volume: `tests/mount/test_mount_faults.py`.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from infinitfs.errors import InfinitfsError, ObjectExists, StorageUnreachable
from infinitfs.storage.ledger import Ledger
from infinitfs.storage.s3 import S3Storage
from infinitfs.transfer.client import TransferClient, local_transfer
from tests.support.s3_faults import FAULTS, KEYS, Service, faulty_service, record
from tests.support.s3_stub import S3Stub, always, at_first, healthy

PACKS = {f"v/packs/{number:02}/{number}": bytes([number]) * 70_000 for number in range(6)}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with faulty_service() as service:
        yield service


@pytest.fixture
def stub(service: Service) -> S3Stub:
    return service.stub


async def work(client: TransferClient, folder: Path) -> None:
    """Everything that a volume asks of a transfer."""
    async with trio.open_nursery() as nursery:
        for key, data in PACKS.items():
            (folder / key.replace("/", "-")).write_bytes(data)
            nursery.start_soon(client.upload, key, folder / key.replace("/", "-"))
    await client.put("v/journal/1", b"record", create=True)
    with pytest.raises(ObjectExists):
        await client.put("v/journal/1", b"another", create=True)
    async with trio.open_nursery() as nursery:
        for number, key in enumerate(PACKS):
            nursery.start_soon(client.download, key, 100, 60_000, folder / f"down{number}")
    for number, data in enumerate(PACKS.values()):
        assert (folder / f"down{number}").read_bytes() == data[100:60_100]
    assert await client.get("v/journal/1") == b"record"
    assert await client.size("v/journal/1") == 6
    for key in list(PACKS)[:3]:
        await client.delete(key)
    left = [*list(PACKS)[3:]]
    assert [info.key for info in await client.list("v/")] == ["v/journal/1", *left]


@pytest.mark.parametrize(
    "name", ["reset before an answer", "flipped on the way up", "lost answer", "conditional conflict"]
)
async def test_each_request_meets_the_fault_once_and_all_is_done(
    name: str, service: Service, stub: S3Stub, tmp_path: Path
) -> None:
    fault, of = FAULTS[name]
    stub.start(at_first(fault, of=of))
    with trio.fail_after(60):
        async with local_transfer(service.patient()) as client:
            await work(client, tmp_path)
    assert stub.met() >= 1
    assert stub.objects["blocks/v/journal/1"] == b"record"


async def test_the_ledger_is_what_the_service_has_counted(service: Service, stub: S3Stub, tmp_path: Path) -> None:
    fault, of = FAULTS["500"]
    stub.start(at_first(fault, of=of))
    ledger = Ledger()
    async with local_transfer(service.patient(ledger=ledger)) as client:
        await work(client, tmp_path)
    assert {kind: usage.count for kind, usage in ledger.requests.items()} == stub.counts()
    assert sum(usage.failed for usage in ledger.requests.values()) == stub.met()
    assert ledger.requests["put"].bytes == sum(map(len, PACKS.values())) + 6


@pytest.mark.parametrize(
    ("name", "deadline"), [("slow down", 2.5), ("expired token", 0.5), ("moved for good", 0.5), ("hang", 0.5)]
)
async def test_what_lasts_is_an_error_and_what_ends_is_none(
    name: str, deadline: float, service: Service, stub: S3Stub
) -> None:
    fault, of = FAULTS[name]
    stub.start(healthy)
    stub.objects["blocks/a"] = b"1"
    async with local_transfer(service.patient(deadline)) as client:
        stub.plan = always(fault, of)
        with trio.fail_after(5), pytest.raises(InfinitfsError) as met:
            await client.get("a")
        assert met.value.passing
        stub.plan = healthy
        assert await client.get("a") == b"1"


async def test_names_that_do_not_resolve_for_a_while(stub: S3Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.start(healthy)
    resolve, away = socket.getaddrinfo, 5

    def stub_resolver(host: str, port: int, *arguments: int, **options: int) -> object:
        nonlocal away
        if host != "stub.example":
            return resolve(host, port, *arguments, **options)
        if away:
            away -= 1
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve("127.0.0.1", port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", stub_resolver)
    storage = S3Storage(record(stub.port, "stub.example"), KEYS)
    with pytest.raises(StorageUnreachable):
        await storage.put("a", b"1")
    patient = Service(stub, storage).patient()
    await patient.put("a", b"1")
    assert away == 0
    assert stub.objects == {"blocks/a": b"1"}
    await patient.aclose()


@pytest.mark.parametrize("connections", [1, 5, 32])
async def test_connections_are_never_more(connections: int, service: Service, stub: S3Stub, tmp_path: Path) -> None:
    stub.start(healthy)
    stub.busiest, stub.latency = 0, 0.002
    try:
        storage = service.patient(connections=connections)
        async with local_transfer(storage, connections=connections) as client:
            await work(client, tmp_path)
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(client.put, f"small/{number}", b"1")
                    nursery.start_soon(client.upload, f"big/{number}", tmp_path / "down0")
        assert 1 <= stub.busiest <= connections
    finally:
        stub.latency = 0
