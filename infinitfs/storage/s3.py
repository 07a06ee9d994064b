"""A storage in a folder of an S3 bucket.

Above: the decorators and `transfer/`. Below: boto3's core, one client, its calls in threads.
Invariant: a call is one request and is never repeated in here (boto3's own retries are off: they would hide
that a create-only PUT answered by 412 may have met its own success; `retry` knows). Reading a body belongs
to its GET.

Two answers are followed at once: that the bucket is in another region, by botocore; and that the service knows no
checksums, which then are left out. Every PUT carries one (CRC32, as a header: a trailer is what older servers take
for a part of the body), so that bytes that changed on their way are refused instead of stored.
A success must look like one of S3: a network that wants a login first, or a gateway, answers 200 to everything.
A cancelled call returns at once and its thread ends by itself: a cancelled `put` may still be applied.
"""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import trio
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header

from infinitfs.config.model import S3StorageRecord
from infinitfs.errors import (
    BucketNotFound,
    DamagedObject,
    InfinitfsError,
    NotS3,
    ObjectExists,
    ObjectNotFound,
    StorageFailed,
    StorageRejected,
    UsageError,
)
from infinitfs.storage.account import Account, session
from infinitfs.storage.base import Buffer, ObjectInfo, Storage
from infinitfs.storage.body import Body, checksum
from infinitfs.storage.naming import check_key, check_prefix, is_key
from infinitfs.storage.s3_errors import FAILURES, bucket_region, explain, forget

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, ListObjectsV2OutputTypeDef

_CONNECT_TIMEOUT = 10  # seconds; also without a piece of a body sent
_READ_TIMEOUT = 15  # seconds without a byte
_CLASSED = "/packs/"
_UNEXPLAINED = {"400", "403"}
_FIRST_REGIONS = {"None": "us-east-1", "EU": "eu-west-1"}
"""https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketLocation.html: what it says of the two oldest."""

T = TypeVar("T")


def custom_endpoint(record: S3StorageRecord) -> str:
    """The URL of a service other than AWS's own that the record or the environment names, else empty."""
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return record.endpoint or environment or ""


def open_client(record: S3StorageRecord, account: Account, connections: int) -> "S3Client":
    """A client for the storage's endpoint. Blocking, 0.2 s. Raises botocore's errors and ValueError."""
    custom = custom_endpoint(record)
    client = session(account, record.region).create_client(
        "s3",
        region_name=record.region,
        endpoint_url=custom or None,
        verify=record.ca_bundle or None,
        config=Config(
            max_pool_connections=connections,
            parameter_validation=False,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            tcp_keepalive=True,
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={
                "payload_signing_enabled": False,
                "addressing_style": record.addressing or ("path" if custom else "auto"),
            },
        ),
    )
    # `Expect: 100-continue` costs every PUT another round trip.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    client.meta.events.register("before-call.s3.HeadBucket", _keep_from_following)
    return cast("S3Client", client)


def _keep_from_following(context: dict[str, Any], **_: Any) -> None:
    """Where a redirect names no region, botocore asks for it by HEAD on the bucket, and were that answered by another
    such redirect, again, until Python's stack is full."""
    context.setdefault("s3_redirect", {})["redirected"] = True


@dataclass(frozen=True)
class Bucket:
    """What a bucket says of itself; what it does not tell these credentials is empty or False."""

    region: str
    versioned: bool
    locked: bool


class S3Storage(Storage):
    """The folder `record.path` of a bucket. `connections` bounds the requests in flight.

    `record.storage_class` applies to packs (keys with `/packs/` in them) only: journal, checkpoints and
    descriptors are small, soon replaced and read at every mount, which is what cheaper classes charge for.
    Where `record.conditional` is False the service ignores `If-None-Match`, and `create` is a look before
    the PUT, not atomic.
    """

    def __init__(self, record: S3StorageRecord, account: Account, *, connections: int = 32) -> None:
        self.name = f"s3://{record.bucket}/{record.path}".rstrip("/")
        self._record = record
        self._folder = f"{record.path}/" if record.path else ""
        self._endpoint = record.endpoint or "AWS"
        self._limiter = trio.CapacityLimiter(connections)
        self._checksums = True
        try:
            self._client = open_client(record, account, connections)
        except ValueError as error:  # botocore's for a malformed region or URL, too
            reason = str(error).rstrip(".")
            problem = f'There is no way to "{self.name}" with this --region and --endpoint ({reason}).'
            raise UsageError(problem=problem) from error
        except BotoCoreError as error:
            raise self._explain(error, "open", "") from error
        self._endpoint = self._client.meta.endpoint_url

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        if length == 0:
            await self._check_end(key, start)
            return b""
        ranged: dict[str, Any] = {}
        if start or length is not None:
            ranged["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        return await self._get(key, start, length, ranged)

    async def get_whole(self, key: str, size: int) -> bytes:
        check_key(key)
        return await self._get(key, 0, size, {})

    async def _get(self, key: str, start: int, length: int | None, ranged: dict[str, Any]) -> bytes:
        def read() -> bytes:
            try:
                answer = self._client.get_object(Bucket=self._record.bucket, Key=self._folder + key, **ranged)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("InvalidRange", "416"):
                    raise _PastEnd from error
                raise
            with closing(answer["Body"]) as body:
                self._recognize(bool(answer.get("ETag") or answer.get("ContentRange")))
                return self._cut(key, answer, body.read(), start, length)

        try:
            return await self._run(f'read "{key}"', key, read)
        except _PastEnd:
            await self._check_end(key, start + (length or 0))
            return b""

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        check_key(key)
        extra: dict[str, Any] = {}
        if self._record.storage_class and _CLASSED in f"/{key}":
            extra["StorageClass"] = self._record.storage_class
        if create and self._record.conditional:
            extra["IfNoneMatch"] = "*"
        elif create:
            await self._check_absent(key)

        def write() -> None:
            if self._checksums:
                extra["ChecksumCRC32"] = checksum(data)
            body = cast("bytes", Body(data))
            answer = self._client.put_object(Bucket=self._record.bucket, Key=self._folder + key, Body=body, **extra)
            self._recognize("ETag" in answer)

        action = f'write "{key}"'
        try:
            await self._run(action, key, write)
        except StorageRejected as error:
            if error.passing or "ChecksumCRC32" not in extra:
                raise
            del extra["ChecksumCRC32"]
            self._checksums = False
            try:
                await self._run(action, key, write)
            except StorageRejected:  # it was something else
                self._checksums = True
                raise

    async def size(self, key: str) -> int:
        check_key(key)

        def measure() -> int:
            try:
                head = self._client.head_object(Bucket=self._record.bucket, Key=self._folder + key)
                self._recognize("ETag" in head)
                return head["ContentLength"]
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in _UNEXPLAINED:
                    raise
            # The answer to a HEAD has no body, where everybody else is told what is wrong.
            answer = self._client.get_object(Bucket=self._record.bucket, Key=self._folder + key, Range="bytes=0-0")
            with closing(answer["Body"]):
                self._recognize("ContentRange" in answer)
                return int(answer["ContentRange"].rpartition("/")[2])

        return await self._run(f'read "{key}"', key, measure)

    async def delete(self, key: str) -> None:
        check_key(key)

        def remove() -> None:
            answer = self._client.delete_object(Bucket=self._record.bucket, Key=self._folder + key)
            self._recognize(answer["ResponseMetadata"]["HTTPStatusCode"] == 204)

        try:
            await self._run(f'delete "{key}"', key, remove)
        except ObjectNotFound:  # AWS answers 204, some others 404
            return

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        check_prefix(prefix)
        page: dict[str, Any] = {"Bucket": self._record.bucket, "Prefix": self._folder + prefix}
        while True:
            answer = await self._run(f'list "{prefix}"', "", partial(self._list_page, page))
            for found in answer.get("Contents", ()):
                key = found["Key"].removeprefix(self._folder)
                if is_key(key):  # not the marker of a folder that a web console made
                    yield ObjectInfo(key, found["Size"])
            if not answer.get("IsTruncated"):
                return
            page["ContinuationToken"] = answer["NextContinuationToken"]

    async def describe(self) -> Bucket:
        """The bucket. Raises BucketNotFound and what else keeps the service from answering."""

        def look() -> Bucket:
            name = self._record.bucket
            try:
                region = self._client.head_bucket(Bucket=name).get("BucketRegion", "")
            except ClientError as error:
                code = error.response["Error"].get("Code")
                region = bucket_region(error)
                if not region and code != "403":
                    # The answer to a HEAD has no words. That to this has, and tells S3 from any web server.
                    self._list_page({"Bucket": name, "Prefix": self._folder, "MaxKeys": 1})
                if code == "404":
                    raise BucketNotFound(bucket=name, endpoint=self._endpoint) from error
            if not region and not custom_endpoint(self._record):
                with suppress(ClientError):
                    place = str(self._client.get_bucket_location(Bucket=name).get("LocationConstraint"))
                    region = _FIRST_REGIONS.get(place, place)
            versioned = locked = False
            with suppress(ClientError):
                versioned = self._client.get_bucket_versioning(Bucket=name).get("Status") == "Enabled"
            with suppress(ClientError):
                found = self._client.get_object_lock_configuration(Bucket=name)["ObjectLockConfiguration"]
                locked = found.get("ObjectLockEnabled") == "Enabled"
            return Bucket(region=region, versioned=versioned, locked=locked)

        return await self._run("find the bucket", "", look)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._client.close()

    def _list_page(self, page: dict[str, Any]) -> "ListObjectsV2OutputTypeDef":
        answer = self._client.list_objects_v2(**page)
        self._recognize("IsTruncated" in answer)
        return answer

    def _recognize(self, genuine: bool) -> None:
        """Raise NotS3 where an answer of success is not `genuine`: it lacks what every service says."""
        if not genuine:
            raise NotS3(endpoint=self._endpoint, reason="it answers as a web server does")

    async def _check_end(self, key: str, end: int) -> None:
        """Raise DamagedObject where an object ends before `end`."""
        size = await self.size(key)
        if size < end:
            raise DamagedObject(key=key, reason=f"it ends at byte {size}")

    async def _check_absent(self, key: str) -> None:
        try:
            await self.size(key)
        except ObjectNotFound:
            return
        raise ObjectExists(key=key, storage=self.name)

    def _cut(self, key: str, answer: "GetObjectOutputTypeDef", body: bytes, start: int, length: int | None) -> bytes:
        """What was asked for, out of the answer to it."""
        total = answer.get("ContentRange", "").rpartition("/")[2]
        if not total:  # no partial answer: the object from its beginning, whatever was asked
            total, body = str(len(body)), body[start : None if length is None else start + length]
        wanted = int(total) - start if length is None else length
        if start + wanted > int(total):
            raise DamagedObject(key=key, reason=f"it ends at byte {total}")
        if len(body) != wanted:
            reason = f"{len(body)} bytes came instead of {wanted}"
            raise StorageFailed(storage=self.name, action=f'read "{key}"', reason=reason)
        return body

    async def _run(self, action: str, key: str, function: Callable[[], T]) -> T:
        """Run `function` in a thread; what it raises becomes an error of the tree."""

        def guarded() -> T:
            try:
                return function()
            except FAILURES as error:
                try:
                    raise self._explain(error, action, key) from error
                finally:
                    forget(error)

        return await trio.to_thread.run_sync(guarded, limiter=self._limiter, abandon_on_cancel=True)

    def _explain(self, error: Exception, action: str, key: str) -> InfinitfsError:
        record = self._record
        return explain(
            error,
            storage=self.name,
            action=action,
            bucket=record.bucket,
            region=record.region,
            endpoint=self._endpoint,
            key=key,
        )


class _PastEnd(Exception):
    """A range that begins at or after the object's end."""
