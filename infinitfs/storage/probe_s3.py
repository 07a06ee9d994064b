"""Whether a bucket can be a storage: the words of its record, the service, the key's rights, the service's manners.

Above: `storage create`, `storage check`, `credentials check`. Below: `s3`, and `probe` for what every storage must do.
Invariant: what can be told without asking is told before anybody is asked; and that of `probe`.
"""

import re
import secrets
import socket
import ssl
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from http.client import BadStatusLine, HTTPConnection, HTTPException
from typing import Literal
from urllib.parse import urlsplit

import msgspec
import trio

from infinitfs.config.model import S3StorageRecord
from infinitfs.errors import (
    AccessDenied,
    InfinitfsError,
    NotS3,
    ObjectNotFound,
    RightMissing,
    StorageRejected,
    StorageUnreachable,
    UsageError,
)
from infinitfs.storage.account import Account
from infinitfs.storage.naming import is_key
from infinitfs.storage.policy import RIGHTS
from infinitfs.storage.probe import check
from infinitfs.storage.regions import check_region
from infinitfs.storage.s3 import Bucket, S3Storage, custom_endpoint

_GLANCE = 5  # seconds
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # GLACIER_IR is read at once, these after hours
_CLASSES = frozenset(
    {"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"}
)

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET_ELSEWHERE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


async def check_s3(record: S3StorageRecord, account: Account) -> tuple[S3StorageRecord, list[str]]:
    """Try everything a volume will need of the bucket, within `record.path`.

    Returns the record, `conditional` and `addressing` as the service really behaves, and warnings for the user.
    Raises UsageError (region, bucket's name, path, storage class, endpoint, a bucket that is elsewhere),
    BucketNotFound, AccessDenied by what is amiss, StorageUnreachable, StorageRejected, NotFound (a profile).
    """
    await trio.to_thread.run_sync(check_words, record)
    # Whatever an earlier check said of conditions is asked again.
    record = msgspec.structs.replace(record, conditional=True)
    first: InfinitfsError | None = None
    for addressing in _addressings(record):
        tried = msgspec.structs.replace(record, addressing=addressing)
        try:
            bucket, conditional = await _survey(tried, account)
            break
        except StorageUnreachable as error:
            raise first or await _diagnosed(record, error) from error
        except InfinitfsError as error:
            first = first or error
    else:
        assert first is not None
        raise first
    return msgspec.structs.replace(tried, conditional=conditional), _warnings(record.bucket, bucket, conditional)


def _addressings(record: S3StorageRecord) -> tuple[Literal["", "path", "virtual"], ...]:
    """Where to try the bucket's name: a service at an endpoint may want it in the path, or in the host's name."""
    host = urlsplit(custom_endpoint(record)).hostname or ""
    if record.addressing or not host or host == "localhost" or ":" in host or _ADDRESS.fullmatch(host):
        return (record.addressing,)
    return ("", "virtual")


async def _survey(record: S3StorageRecord, account: Account) -> tuple[Bucket, bool]:
    storage = await trio.to_thread.run_sync(partial(S3Storage, record, account, connections=4))
    try:
        bucket = await storage.describe()
        if bucket.region and bucket.region != record.region:
            problem = f'The bucket "{record.bucket}" is in the region {bucket.region}, not in {record.region}'
            raise UsageError(problem=f"{problem}: use --region {bucket.region}.")
        try:
            return bucket, await check(storage)
        except AccessDenied as error:
            raise _right_missing(error) from error
        except StorageRejected as error:
            if record.storage_class and await _without_class(record, account):
                problem = f'The service does not take the storage class "{record.storage_class}"'
                raise UsageError(problem=f"{problem}: leave out --storage-class, or name one that it has.") from error
            if error.__cause__ is None and custom_endpoint(record):  # no answer of its own, but a finding of ours
                raise NotS3(endpoint=custom_endpoint(record), reason=error.fields["reason"]) from error
            raise
    finally:
        await storage.aclose()


def _right_missing(error: AccessDenied) -> AccessDenied:
    """A plain refusal, by the right that would have allowed it."""
    right = RIGHTS.get(error.fields.get("action", "").partition(" ")[0])
    if type(error) is not AccessDenied or right is None:
        return error
    return RightMissing(storage=error.fields["storage"], action=error.fields["action"].partition(" ")[0], right=right)


async def _without_class(record: S3StorageRecord, account: Account) -> bool:
    """Whether all is well where no storage class is asked for."""
    try:
        await _survey(msgspec.structs.replace(record, storage_class=""), account)
    except InfinitfsError:
        return False
    return True


def _warnings(name: str, bucket: Bucket, conditional: bool) -> list[str]:
    warnings = []
    if bucket.versioned:
        expire = "have a lifecycle rule expire noncurrent versions"
        warnings.append(f'The bucket "{name}" keeps old versions, so deleting frees nothing: {expire}.')
    if bucket.locked:
        other = "use a bucket without it"
        warnings.append(f'The bucket "{name}" has object lock, so deleting may free nothing: {other}.')
    if not conditional:
        careful = "never mount a volume of it on two machines at once"
        warnings.append(f"The service ignores If-None-Match, so a second writer cannot be kept out: {careful}.")
    return warnings


async def rights(record: S3StorageRecord, account: Account) -> dict[str, bool]:
    """Of each action of RIGHTS, whether the account may do it in the storage's folder.

    A small object of a random name is written for that, where it may be deleted again. Raises what keeps all of them
    from being tried: KeyRefused, ClockWrong, BucketNotFound, StorageUnreachable ...
    """
    storage = await trio.to_thread.run_sync(partial(S3Storage, record, account, connections=4))
    key = f"probe-{secrets.token_hex(8)}/packs/probe"

    async def list_() -> None:
        async for _ in storage.list(f"{key}/"):
            break

    async def may(attempt: Awaitable[object]) -> bool:
        try:
            await attempt
        except AccessDenied as error:
            if type(error) is not AccessDenied:
                raise
            return False
        except ObjectNotFound:
            return True
        return True

    try:
        found = {"list": await may(list_()), "read": await may(storage.get(key)), "write": False}
        found["delete"] = await may(storage.delete(key))
        if found["delete"]:
            found["write"] = await may(storage.put(key, b"probe"))
            await storage.delete(key)
        return found
    finally:
        await storage.aclose()


async def _diagnosed(record: S3StorageRecord, error: StorageUnreachable) -> InfinitfsError:
    """A better word for silence: what listens there may speak another protocol."""
    return await trio.to_thread.run_sync(_other_protocol, custom_endpoint(record)) or error


def _other_protocol(endpoint: str) -> InfinitfsError | None:
    parts = urlsplit(endpoint)
    if not parts.hostname:
        return None
    place = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    with suppress(OSError, HTTPException):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection(place, _GLANCE) as plain, context.wrap_socket(plain) as _:
                speaks_tls = True
        except ssl.SSLError:
            speaks_tls = False
        if speaks_tls and parts.scheme == "http":
            return UsageError(problem=f"The service at {endpoint} wants TLS: use --endpoint https://{parts.netloc}.")
        if speaks_tls:
            return None
        connection = HTTPConnection(*place, timeout=_GLANCE)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except BadStatusLine:
            return NotS3(endpoint=endpoint, reason="it does not speak HTTP")
        finally:
            connection.close()
        if parts.scheme == "https":
            return UsageError(problem=f"The service at {endpoint} has no TLS: use --endpoint http://{parts.netloc}.")
    return None


def check_words(record: S3StorageRecord) -> None:
    """Raise UsageError for what no service could make sense of, without asking one."""
    custom = bool(custom_endpoint(record))
    check_endpoint(record.endpoint, record.bucket)
    check_region(record.region, custom=custom)
    check_bucket_name(record.bucket, custom=custom)
    if record.path and not is_key(record.path):
        raise UsageError(problem=f'"{record.path}" is not a folder\'s path in a bucket: use letters, digits and "/".')
    check_storage_class(record.storage_class, custom=custom)
    if record.ca_bundle:
        try:
            ssl.create_default_context(cafile=record.ca_bundle)
        except OSError as error:  # ssl.SSLError is one
            reason = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror or str(error)
            problem = f'The certificates in "{record.ca_bundle}" cannot be read ({reason})'
            raise UsageError(problem=f"{problem}: give --ca-bundle a file in PEM form.") from None


def check_endpoint(endpoint: str, bucket: str) -> None:
    """Raise UsageError where `endpoint` is no URL of a service; empty is AWS's own."""
    try:
        parts = urlsplit(endpoint)
        well = not endpoint or (parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0)
    except ValueError:
        well = False
    if not well or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(problem=f'"{endpoint}" is not an endpoint: write it like https://s3.example.com:9000.')
    if endpoint and bucket == parts.path.strip("/"):
        without = f"{parts.scheme}://{parts.netloc}"
        raise UsageError(problem=f"The bucket is no part of the endpoint: use --endpoint {without}.")


def check_storage_class(name: str, *, custom: bool) -> None:
    """Raise UsageError for a storage class that blocks cannot be read from at once, or, on AWS, that is none."""
    if name in _ARCHIVES:
        problem = f"The storage class {name} is an archive that cannot be read at once"
        raise UsageError(problem=f"{problem}: use GLACIER_IR or another class.")
    if name and name not in _CLASSES and (not custom or name.upper() in _CLASSES | _ARCHIVES):
        raise UsageError(problem=f'There is no storage class "{name}": use one of {", ".join(sorted(_CLASSES))}.')


def check_bucket_name(bucket: str, *, custom: bool) -> None:
    """Raise UsageError where no bucket can have this name. Services other than AWS (`custom`) allow more."""
    if custom:
        legal = _BUCKET_ELSEWHERE.fullmatch(bucket) is not None
    else:
        legal = _BUCKET.fullmatch(bucket) is not None and ".." not in bucket and not _ADDRESS.fullmatch(bucket)
        legal = legal and not bucket.startswith(_RESERVED_STARTS) and not bucket.endswith(_RESERVED_ENDS)
    if not legal:
        rule = 'buckets have 3 to 63 of a-z, 0-9, "-" and "."'
        raise UsageError(problem=f'"{bucket}" cannot be the name of a bucket: {rule}.')
