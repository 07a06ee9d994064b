"""The keys that the transfer process signs with: replaced while it works, those of a role; and the way they take."""

from collections.abc import Iterator

import msgspec
import pytest
import trio
import trio.testing

from infinitfs.config.model import S3StorageRecord
from infinitfs.errors import KeyRefused
from infinitfs.storage.account import Role, StaticKeys
from infinitfs.transfer.client import open_transfer
from infinitfs.transfer.protocol import Open
from tests.support.listeners import forwarding_proxy
from tests.support.s3_server import HOME, S3Server
from tests.support.s3_stub import BUCKET, S3Stub

KEYS = StaticKeys(access_key_id="AKIAEXAMPLE", secret_access_key="example")  # noqa: S106


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as made:
        yield made


@pytest.fixture
def record(server: S3Server) -> S3StorageRecord:
    return S3StorageRecord(
        name="s",
        account="a",
        region=HOME,
        bucket=server.create_bucket(),
        path="p",
        endpoint=server.endpoint,
        created="",
    )


async def test_new_keys_are_used_at_once_and_no_request_is_lost(server: S3Server, record: S3StorageRecord) -> None:
    first, second = server.add_user("s3:*"), server.add_user("s3:*")
    with trio.fail_after(60):
        async with open_transfer(Open(record=record, account=first, deadline=1)) as client:
            await client.put("a", b"1")
            server.remove(first)
            with pytest.raises(KeyRefused):
                await client.put("b", b"2")
            client.renew(second)
            await client.put("b", b"2")
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(client.put, f"c{number}", bytes(100_000))
                await trio.testing.wait_all_tasks_blocked()
                client.renew(second)
            assert len(await client.list("c")) == 8
            assert client.stats.restarts == 0


async def test_a_role_is_assumed_by_the_transfer_process(
    server: S3Server, record: S3StorageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = server.add_user("sts:AssumeRole")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", source.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", source.secret_access_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.endpoint)
    server.requests.clear()
    with trio.fail_after(60):
        async with open_transfer(Open(record=record, account=Role(server.add_role("s3:*")))) as client:
            await client.put("a", b"1")
    assert server.requests[-1].access_key_id.startswith("ASIA")


async def test_it_goes_through_the_environment_s_proxy(
    record: S3StorageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = msgspec.structs.replace(record, bucket=BUCKET, endpoint="http://s3.nowhere.invalid")
    opening = Open(record=nowhere, account=KEYS, deadline=0.1)
    with S3Stub() as stub, forwarding_proxy(stub.endpoint) as (proxy, told), trio.fail_after(60):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", "")
        async with open_transfer(opening) as client:
            await client.put("a", b"1")
            assert await client.get("a") == b"1"
        assert set(told) == {"s3.nowhere.invalid"}
        assert stub.objects == {"p/a": b"1"}
