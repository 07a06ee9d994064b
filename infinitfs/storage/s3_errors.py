"""What a failed request to S3 means.

Above: `s3` and `caller`. Below: the exceptions of botocore and urllib3.
Invariant: what may pass by itself, and only that, is a `passing` error; `retry` repeats only those.
Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from infinitfs.errors import (
    AccessDenied,
    BucketElsewhere,
    BucketNotFound,
    CertificateRefused,
    ClockWrong,
    InfinitfsError,
    KeyExpired,
    KeyRefused,
    NoKey,
    NoSpace,
    NotFound,
    NotS3,
    ObjectExists,
    ObjectNotFound,
    RoleRefused,
    StorageBusy,
    StorageFailed,
    StorageRejected,
    StorageUnreachable,
    UsageError,
)

FAILURES = (boto.BotoCoreError, boto.ClientError, ResponseParserError, HTTPError, OSError, ValueError)
"""What a call of botocore raises where something is wrong, here or there."""

_DENIED = {
    "AccessDenied": "the credentials are right but not allowed to",
    "AccountProblem": "the account has a problem, ask the provider",
    "AllAccessDisabled": "the provider has disabled all access to it",
    "403": "the service gave no reason: a wrong key, or one that is not allowed to",
}
_KEY_REFUSED = {
    "InvalidAccessKeyId": "the access key id is not known there, or it is disabled",
    "SignatureDoesNotMatch": "the secret access key is not the one of this access key id",
    "InvalidToken": "the session token is not valid there",
    "InvalidClientTokenId": "the access key id is not known there, or it is disabled",  # STS's word for it
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"}
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"}
_PASSING = {"RequestTimeout", "BadDigest", "XAmzContentChecksumMismatch"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "507"}
_WITHOUT_KEYS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
)
_SILENCE: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "no host is known by the name in {place}"),
    (ConnectionRefusedError, "nothing listens at {place}"),
    (TimeoutError, "no answer from {place} in time"),
    (ConnectionResetError, "{place} hung up"),
)
_AWAY = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.CredentialRetrievalError,
    boto.MetadataRetrievalError,
    boto.IncompleteReadError,
    HTTPError,
    OSError,
)


def explain(
    error: Exception, *, storage: str, action: str, bucket: str, region: str, endpoint: str, key: str = ""
) -> InfinitfsError:
    """The error of the tree for `error`, met while about to `action` (an infinitive: `read "x"`)."""
    if isinstance(error, boto.ClientError):
        return _explain_answer(error, storage, action, bucket, region, endpoint, key)
    reason = str(error).strip().rstrip(".:") or type(error).__name__
    if "Invalid header" in reason:  # and then what it is: a token
        return NoKey(storage=storage, reason="it holds a line break or another control character")
    if isinstance(error, boto.ProfileNotFound):
        where = "write it into ~/.aws/config, or name another one with `infinitfs credentials add --profile`"
        return NotFound(what=f'The AWS profile "{error.kwargs["profile"]}"', remedy=where)
    if isinstance(error, boto.ConfigParseError):
        return UsageError(
            problem=f'The file "{error.kwargs["path"]}" is not in the form that AWS has for it: correct it.'
        )
    if isinstance(error, _WITHOUT_KEYS):
        return NoKey(storage=storage, reason=reason)
    if isinstance(error, ResponseParserError):
        return NotS3(endpoint=endpoint, reason="its answer is not XML")
    if isinstance(error, _AWAY):
        return _explain_silence(error, storage, endpoint, reason)
    return StorageRejected(storage=storage, action=action, reason=reason)


def _explain_silence(error: Exception, storage: str, endpoint: str, reason: str) -> InfinitfsError:
    """For a request without an answer: the innermost error says it best."""
    if isinstance(error, boto.ProxyConnectionError):
        return StorageUnreachable(storage=storage, reason=reason)
    place = urlsplit(endpoint).netloc or endpoint
    for inner in _innermost_last(error)[::-1]:
        if isinstance(inner, ssl.SSLCertVerificationError):
            return CertificateRefused(endpoint=endpoint, reason=inner.verify_message.rstrip("."))
        for kind, text in _SILENCE:
            if isinstance(inner, kind):
                return StorageUnreachable(storage=storage, reason=text.format(place=place))
    return StorageUnreachable(storage=storage, reason=reason)


def forget(error: Exception) -> None:
    """Drop the tracebacks of `error` and of those it was made of: botocore's calls are in them, with the body among
    their variables, and the error is, so that all of it would stay until the collector of cycles comes by."""
    for inner in _innermost_last(error):
        inner.__traceback__ = None


def _innermost_last(error: BaseException) -> list[BaseException]:
    """The exceptions that `error` was made of, as botocore, urllib3 and Python keep them."""
    found: list[BaseException] = [error]
    for outer in found:
        inside = (getattr(outer, "kwargs", {}).get("error"), getattr(outer, "reason", None), *outer.args)
        for inner in (*inside, outer.__cause__, outer.__context__):
            if isinstance(inner, BaseException) and inner not in found:
                found.append(inner)
    return found


def _explain_answer(
    error: boto.ClientError, storage: str, action: str, bucket: str, region: str, endpoint: str, key: str
) -> InfinitfsError:
    answer = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    code, status = answer.get("Code", ""), metadata.get("HTTPStatusCode", 0)
    text = answer.get("Message", "").strip().rstrip(".")
    reason = f"{code}: {text}" if text else code or f"status {status}"
    if code == "NoSuchBucket":
        return BucketNotFound(bucket=bucket, endpoint=endpoint)
    if code == "NoSuchKey" or (code == "404" and error.operation_name.startswith("Head")):
        return ObjectNotFound(key=key, storage=storage)
    if code == "PreconditionFailed" or status == 412:
        return ObjectExists(key=key, storage=storage)
    if error.operation_name.startswith("AssumeRole") and status in (400, 403):
        return RoleRefused(role="of the profile", reason=reason)
    if code in _EXPIRED:
        return KeyExpired(storage=storage, reason="the session token has expired")
    if code in _KEY_REFUSED:
        return KeyRefused(storage=storage, reason=_KEY_REFUSED[code])
    if code == "RequestTimeTooSkewed":
        return ClockWrong(storage=storage, action=action, off=_clock_error(metadata.get("HTTPHeaders", {})))
    if code in _DENIED:
        return AccessDenied(storage=storage, action=action, reason=_DENIED[code])
    wordless = code.isdecimal() or not code
    where = bucket_region(error)
    if 300 <= status < 400 and wordless and not where:
        return NotS3(endpoint=endpoint, reason="it redirects elsewhere")
    if code in _ELSEWHERE or status in (301, 307):
        hint = f"use --region {where}" if where else "find out where it is"
        return BucketElsewhere(bucket=bucket, region=region, remedy=hint)
    if code in _FULL or status == 507:
        return NoSpace(what=storage, remedy="raise the bucket's quota or delete something")
    if code == "InvalidObjectState":
        gone = "it is archived: restore it with the provider's tools and end the rule that archives it"
        return StorageRejected(storage=storage, action=action, reason=gone)
    if code in _BUSY or status in (429, 503):
        # https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3: seconds, or a date, which no S3 is known to send.
        after = metadata.get("HTTPHeaders", {}).get("retry-after", "")
        return StorageBusy(storage=storage, action=action, reason=reason, retry_after=after)
    if code in _PASSING or status in (408, 409) or (status >= 500 and status != 501):
        return StorageFailed(storage=storage, action=action, reason=reason)
    if status in (401, 403):
        return AccessDenied(storage=storage, action=action, reason=reason)
    if wordless and not error.operation_name.startswith("Head"):  # S3 has a word for everything
        return NotS3(endpoint=endpoint, reason=f"it answers {status} and says no more")
    return StorageRejected(storage=storage, action=action, reason=reason)


def _clock_error(headers: dict[str, str]) -> str:
    """By how much this machine's clock differs from that of an answer."""
    try:
        ahead = datetime.now(UTC) - parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return "wrong"
    minutes = round(ahead.total_seconds() / 60)
    return f"{abs(minutes)} minutes {'ahead' if minutes > 0 else 'behind'}"


def bucket_region(error: boto.ClientError) -> str:
    """The region an answer says the bucket is in, empty where it does not."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", "") or error.response.get("Error", {}).get("Region", ""))
