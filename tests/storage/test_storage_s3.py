"""What is particular to S3: signatures, headers on the wire, and what its answers mean."""

import gc
import re
import socket
import threading
import weakref
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from secrets import token_hex
from zlib import crc32

import msgspec
import pytest
import trio

from infinitfs.config.model import S3StorageRecord
from infinitfs.errors import (
    AccessDenied,
    BucketElsewhere,
    BucketNotFound,
    ClockWrong,
    DamagedObject,
    InfinitfsError,
    KeyExpired,
    KeyRefused,
    NoSpace,
    NotS3,
    ObjectExists,
    ObjectNotFound,
    StorageBusy,
    StorageFailed,
    StorageRejected,
    StorageUnreachable,
    UsageError,
)
from infinitfs.storage.account import StaticKeys
from infinitfs.storage.retry import RetryStorage
from infinitfs.storage.s3 import S3Storage
from tests.support.s3_server import S3Server

KEYS = StaticKeys(access_key_id="AKIAEXAMPLE", secret_access_key=token_hex(8))


class Stub:
    """An HTTP server that gives each request the next canned answer and closes; None hangs up without one."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.heads: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                lines = list(iter(stream.readline, b"\r\n"))
                head = b"".join(lines).decode()
                self.heads.append(head)
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                stream.read(int(length[1]) if length else 0)
                answer = self.answers.pop(0)
                if answer is not None:
                    connection.sendall(answer)


def answer(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [
        f"HTTP/1.1 {status} Because",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


TAG = 'ETag: "1"'
STORED = answer(200, b"", TAG)


def refusal(status: int, code: str, extra: str = "") -> bytes:
    return answer(status, f"<Error><Code>{code}</Code><Message>Told so.</Message>{extra}</Error>".encode())


def named(refused: bytes) -> str:
    found = re.search(rb"<Code>(.*)</Code>", refused)
    return (found[1] if found else refused.split()[1]).decode()


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.close()


@pytest.fixture
def faked(stub: Stub) -> S3Storage:
    return S3Storage(record(stub.endpoint), KEYS)


def record(endpoint: str, **changes: str | bool) -> S3StorageRecord:
    made = S3StorageRecord(
        name="s",
        account="a",
        region="eu-west-1",
        bucket="bucket",
        path="s_blocks",
        endpoint=endpoint,
        created="",
    )
    return msgspec.structs.replace(made, **changes)


async def test_signatures_are_checked(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    right = s3_server.account
    cases = [
        (msgspec.structs.replace(right, secret_access_key=token_hex(8)), "secret access key is not the one"),
        (msgspec.structs.replace(right, access_key_id="UNKNOWN"), "access key id is not known"),
        (s3_server.add_user("s3:GetObject"), "not allowed to"),
    ]
    for account, reason in cases:
        storage = S3Storage(s3_record, account)
        with pytest.raises(AccessDenied, match=reason):
            await storage.put("a", b"1")
        await storage.aclose()
    storage = S3Storage(s3_record, right)
    with pytest.raises(ObjectNotFound):
        await storage.get("a")
    await storage.aclose()


async def test_a_missing_bucket(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    storage = S3Storage(msgspec.structs.replace(s3_record, bucket="there-is-none"), s3_server.account)
    with pytest.raises(BucketNotFound, match="there-is-none"):
        await storage.put("a", b"1")
    with pytest.raises(BucketNotFound, match=s3_server.endpoint):
        await storage.describe()
    await storage.aclose()


async def test_nothing_outside_the_folder_is_touched(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    client = s3_server.client()
    bucket, path = s3_record.bucket, s3_record.path
    foreign = [f"{path}-other/x", f"{path}x", f"{path}/", f"{path}/.hidden"]
    for key in foreign:
        client.put_object(Bucket=bucket, Key=key, Body=b"theirs")
    storage = S3Storage(s3_record, s3_server.account)
    await storage.put("v/journal/1", b"1")
    assert [info.key async for info in storage.list("")] == ["v/journal/1"]
    found = client.list_objects_v2(Bucket=bucket, Prefix=path)
    assert {entry["Key"] for entry in found["Contents"]} == {*foreign, f"{path}/v/journal/1"}
    await storage.aclose()


async def test_a_storage_at_the_top_of_a_bucket(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    bucket = s3_server.create_bucket()
    storage = S3Storage(msgspec.structs.replace(s3_record, bucket=bucket, path=""), s3_server.account)
    await storage.put("a", b"1")
    assert storage.name == f"s3://{bucket}"
    assert [info.key async for info in storage.list("")] == ["a"]
    assert s3_server.client().list_objects_v2(Bucket=bucket)["Contents"][0]["Key"] == "a"
    await storage.aclose()


async def test_the_storage_class_is_that_of_packs_only(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    cheap = msgspec.structs.replace(s3_record, storage_class="REDUCED_REDUNDANCY")
    storage = S3Storage(cheap, s3_server.account)
    for key in ("v/packs/aa/x", "v/journal/1"):
        await storage.put(key, b"1")
    found = s3_server.client().list_objects_v2(Bucket=cheap.bucket, Prefix=cheap.path)["Contents"]
    assert [entry["StorageClass"] for entry in found] == ["STANDARD", "REDUCED_REDUNDANCY"]
    await storage.aclose()


async def test_the_endpoint_of_the_environment(
    s3_server: S3Server, s3_record: S3StorageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    storage = S3Storage(msgspec.structs.replace(s3_record, endpoint=""), s3_server.account)
    await storage.put("a", b"1")
    assert await storage.get("a") == b"1"
    await storage.aclose()


async def test_a_put_on_the_wire(stub: Stub, faked: S3Storage) -> None:
    stub.answers = [STORED]
    await faked.put("v/journal/1", b"12345", create=True)
    head = stub.heads[0].lower()
    assert head.startswith("put /bucket/s_blocks/v/journal/1 http/1.1")
    assert "if-none-match: *" in head
    assert "content-length: 5" in head
    assert f"x-amz-checksum-crc32: {b64encode(crc32(b'12345').to_bytes(4, 'big')).decode()}".lower() in head
    for absent in ("expect:", "x-amz-trailer", "x-amz-sdk-checksum", "transfer-encoding", "content-md5"):
        assert absent not in head


async def test_a_service_that_knows_no_checksums_gets_none(stub: Stub, faked: S3Storage) -> None:
    """As Backblaze B2 answers."""
    unsupported = refusal(400, "InvalidArgument")
    stub.answers = [unsupported, STORED, STORED]
    await faked.put("a", b"1")
    await faked.put("b", b"2")
    assert ["x-amz-checksum" in head.lower() for head in stub.heads] == [True, False, False]


async def test_a_refusal_for_another_reason_keeps_the_checksums(stub: Stub, faked: S3Storage) -> None:
    stub.answers = [*[refusal(400, "InvalidStorageClass")] * 2, STORED]
    with pytest.raises(StorageRejected):
        await faked.put("a", b"1")
    await faked.put("a", b"1")
    assert ["x-amz-checksum" in head.lower() for head in stub.heads] == [True, False, True]


async def test_an_unconditional_service_is_looked_at_first(stub: Stub) -> None:
    storage = S3Storage(record(stub.endpoint, conditional=False), KEYS)
    stub.answers = [answer(404), STORED, STORED]
    await storage.put("a", b"1", create=True)
    with pytest.raises(ObjectExists):
        await storage.put("a", b"2", create=True)
    assert [head.split()[0] for head in stub.heads] == ["HEAD", "PUT", "HEAD"]
    assert "if-none-match" not in stub.heads[1].lower()


async def test_a_whole_object_is_asked_for_without_a_range(stub: Stub, faked: S3Storage) -> None:
    stub.answers = [answer(200, b"0123456789", TAG), answer(200, b"012345", TAG, length=10), answer(200, b"login")]
    assert await faked.get_whole("a", 10) == b"0123456789"
    for _ in range(2):
        with pytest.raises((StorageUnreachable, NotS3)):
            await faked.get_whole("a", 10)
    stub.answers = [refusal(416, "InvalidRange"), answer(200, b"", TAG, length=5)]
    with pytest.raises(DamagedObject, match="ends at byte 5"):
        await faked.get_whole("a", 10)
    assert not any("range:" in head.lower() for head in stub.heads)


async def test_a_service_that_ignores_ranges(stub: Stub, faked: S3Storage) -> None:
    stub.answers = [answer(200, b"0123456789", TAG)] * 2
    assert await faked.get("a", 3, 4) == b"3456"
    assert await faked.get("a", 8) == b"89"
    assert "range: bytes=3-6" in stub.heads[0].lower()


@pytest.mark.parametrize(
    "broken",
    [
        None,
        answer(200, b"012345", TAG, length=10),
        answer(206, b"012345", "Content-Range: bytes 0-9/10", length=10),
        answer(206, b"012345", "Content-Range: bytes 0-9/10"),
        b"HTTP/1.1 200 OK\r\nETag: 1\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n0123",
        b"SSH-2.0-something-else\r\n",
    ],
    ids=["no answer", "cut body", "cut range", "short range", "cut chunk", "another protocol"],
)
async def test_an_answer_that_breaks_off_may_pass(broken: bytes | None, stub: Stub, faked: S3Storage) -> None:
    stub.answers = [broken]
    with pytest.raises(StorageUnreachable):
        await faked.get("a", 0, 10)
    assert len(stub.heads) == 1


@pytest.mark.parametrize("page", [b"<html>Log in</html>", b"<p>Log in", b""], ids=["XHTML", "HTML", "nothing"])
async def test_a_success_that_is_not_of_s3_is_none_and_may_pass(page: bytes, stub: Stub, faked: S3Storage) -> None:
    """A network that wants a login first, or a gateway, answers so in the service's place."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: faked.put("a", b"1"),
        lambda: faked.put("a", b"1", create=True),
        lambda: faked.get("a"),
        lambda: faked.get("a", 0, 5),
        lambda: faked.size("a"),
        lambda: faked.delete("a"),
        lambda: anext(faked.list("")),
    ]
    stub.answers = [answer(200, page)] * len(calls)
    for call in calls:
        with pytest.raises((NotS3, StorageFailed)) as caught:
            await call()
        assert caught.value.passing
        # What is no XML is taken for a 500 by botocore.
        assert isinstance(caught.value, NotS3) or page.startswith(b"<p>")
    assert len(stub.heads) == len(calls)


async def test_a_page_that_is_not_found_is_no_missing_object(stub: Stub, faked: S3Storage) -> None:
    """As a gateway answers while the service behind it starts."""
    stub.answers = [answer(404, b"404 page not found")] * 2
    with pytest.raises(NotS3, match="answers 404 and says no more"):
        await faked.get("a")
    with pytest.raises(NotS3, match="answers 404 and says no more"):
        await faked.delete("a")


async def test_a_service_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    storage = S3Storage(record(endpoint), KEYS)
    for call in (storage.get("a"), storage.put("a", b""), storage.size("a"), storage.delete("a")):
        with pytest.raises(StorageUnreachable, match="cannot be reached"):
            await call


async def test_a_failure_keeps_nothing_of_what_was_to_be_sent() -> None:
    """No cycle is left to the collector: packs are large, and fail by the dozen while a service is away."""

    class Body(bytearray):
        pass

    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    storage = RetryStorage(S3Storage(record(endpoint), KEYS), deadline=0.2, random=lambda: 0.5)
    gc.disable()
    try:
        body = Body(b"1")
        gone, token = trio.Event(), trio.lowlevel.current_trio_token()
        alive = weakref.ref(body, lambda _: token.run_sync_soon(gone.set))
        with suppress(StorageUnreachable):
            await storage.put("a", body)
        del body
        with trio.fail_after(10):  # the thread lets go of its last variables after it has answered
            await gone.wait()
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("refused", "expected", "text"),
    [
        (refusal(404, "NoSuchKey"), ObjectNotFound, '"a" is missing from s3://bucket/s_blocks'),
        (refusal(404, "NoSuchBucket"), BucketNotFound, 'no bucket "bucket"'),
        (refusal(412, "PreconditionFailed"), ObjectExists, '"a" exists already'),
        (refusal(409, "ConditionalRequestConflict"), StorageFailed, "Told so"),
        (refusal(409, "OperationAborted"), StorageFailed, "Told so"),
        (refusal(503, "SlowDown"), StorageBusy, "SlowDown"),
        (answer(503), StorageBusy, "503"),
        (refusal(400, "BadDigest"), StorageFailed, "BadDigest"),
        (refusal(400, "XAmzContentChecksumMismatch"), StorageFailed, "XAmzContentChecksumMismatch"),
        (refusal(500, "InternalError"), StorageFailed, "InternalError"),
        (refusal(400, "RequestTimeout"), StorageFailed, "RequestTimeout"),
        (answer(502, b"<html>Bad gateway</html>"), StorageFailed, "502"),
        (answer(429), StorageBusy, "429"),
        (refusal(403, "InvalidAccessKeyId"), KeyRefused, "access key id is not known"),
        (refusal(403, "SignatureDoesNotMatch"), KeyRefused, "secret access key"),
        (refusal(403, "AccessDenied"), AccessDenied, "not allowed"),
        (refusal(400, "ExpiredToken"), KeyExpired, "expired"),
        (refusal(403, "RequestTimeTooSkewed"), ClockWrong, "clock"),
        (refusal(403, "SomethingNew"), AccessDenied, "SomethingNew: Told so"),
        (refusal(403, "InvalidObjectState"), StorageRejected, "archived"),
        (refusal(507, "XMinioStorageFull"), NoSpace, "quota"),
        (refusal(501, "NotImplemented"), StorageRejected, "NotImplemented"),
        (refusal(400, "InvalidStorageClass"), StorageRejected, "InvalidStorageClass"),
    ],
    ids=lambda value: named(value) if isinstance(value, bytes) else "",
)
async def test_what_refusals_mean(
    refused: bytes, expected: type[InfinitfsError], text: str, stub: Stub, faked: S3Storage
) -> None:
    stub.answers = [refused, refused]
    with pytest.raises(expected, match=re.escape(text)) as caught:
        await faked.put("a", b"1", create=True)
    assert type(caught.value) is expected
    # Repeating is not done here, but without a checksum.
    assert len(stub.heads) == (2 if expected is StorageRejected else 1)


async def test_how_long_a_busy_service_wants_to_be_left_alone(stub: Stub, faked: S3Storage) -> None:
    stub.answers = [answer(503, b"", "Retry-After: 7"), answer(429)]
    for seconds in (7, 0):
        with pytest.raises(StorageBusy) as caught:
            await faked.get("a")
        assert caught.value.wait == seconds


async def test_a_bucket_that_is_elsewhere(stub: Stub, faked: S3Storage) -> None:
    wrong = refusal(400, "AuthorizationHeaderMalformed", "<Region>ap-south-1</Region>")
    moved = answer(301, b"", "x-amz-bucket-region: ap-south-1")
    # botocore follows such an answer by itself; it is still answered the same.
    stub.answers = [wrong, wrong, wrong, moved, moved, moved]
    with pytest.raises(BucketElsewhere, match="--region ap-south-1") as caught:
        await faked.put("a", b"1")
    assert caught.value.exit_code == 2
    stub.answers = [moved] * 6
    assert (await faked.describe()).region == "ap-south-1"


async def test_a_redirect_that_names_no_region_is_not_of_s3(stub: Stub, faked: S3Storage) -> None:
    for status in (301, 302, 307, 308):
        stub.answers = [answer(status, b"", "Location: https://login.invalid/")] * 9
        for call in (faked.get, faked.size, faked.delete):
            with pytest.raises(NotS3, match="redirects elsewhere") as caught:
                await call("a")
            assert caught.value.passing
        with pytest.raises(NotS3, match="redirects elsewhere"):
            await faked.describe()


async def test_delete_of_what_is_not_there_by_a_service_that_minds(stub: Stub, faked: S3Storage) -> None:
    stub.answers = [refusal(404, "NoSuchKey"), refusal(404, "NoSuchBucket")]
    await faked.delete("a")
    with pytest.raises(BucketNotFound):
        await faked.delete("a")


@pytest.mark.parametrize(
    "make", [lambda: record("not a url"), lambda: record("http://127.0.0.1:1", region="no such region")]
)
def test_a_client_that_cannot_be_made(make: Callable[[], S3StorageRecord]) -> None:
    with pytest.raises(UsageError):
        S3Storage(make(), KEYS)
