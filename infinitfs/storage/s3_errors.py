"""What a failed request to S3 means.

Above: `storage/s3.py` and `storage/probe.py`. Below: the exceptions of botocore and urllib3.
Invariant: StorageUnreachable and its kind are exactly what may pass by itself; `retry` repeats only those.
Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from infinitfs.errors import (
    AccessDenied,
    BucketNotFound,
    InfinitfsError,
    NoSpace,
    ObjectExists,
    ObjectNotFound,
    StorageFailed,
    StorageRejected,
    StorageUnreachable,
    UsageError,
)

_DENIED = {
    "InvalidAccessKeyId": "the access key id is not known there",
    "SignatureDoesNotMatch": "the secret access key is not the one of this access key id",
    "AccessDenied": "the credentials are right but not allowed to",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid there",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "AccountProblem": "the account has a problem, ask the provider",
    "AllAccessDisabled": "the provider has disabled all access to it",
    "403": "the service gave no reason: a wrong key, or one that is not allowed to",
}
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307"}
_PASSING = {"RequestTimeout", "SlowDown", "Throttling"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "507"}
_WITHOUT_KEYS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
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
    if isinstance(error, _WITHOUT_KEYS):
        return AccessDenied(storage=storage, action=action, reason=reason)
    if isinstance(error, _AWAY):
        return StorageUnreachable(storage=storage, reason=reason)
    return StorageRejected(storage=storage, action=action, reason=reason)


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
    if code in ("NoSuchKey", "404"):
        return ObjectNotFound(key=key, storage=storage)
    if code == "PreconditionFailed" or status == 412:
        return ObjectExists(key=key, storage=storage)
    if code in _DENIED:
        return AccessDenied(storage=storage, action=action, reason=_DENIED[code])
    if code in _ELSEWHERE or status in (301, 307):
        where = bucket_region(error)
        hint = f"use --region {where}" if where else "find out where it is"
        return UsageError(problem=f'The bucket "{bucket}" is not in the region {region}: {hint}.')
    if code in _FULL or status == 507:
        return NoSpace(what=storage, remedy="raise the bucket's quota or delete something")
    if code == "InvalidObjectState":
        gone = "it is archived: restore it with the provider's tools and end the rule that archives it"
        return StorageRejected(storage=storage, action=action, reason=gone)
    if code in _PASSING or status in (408, 409, 429) or (status >= 500 and status != 501):
        return StorageFailed(storage=storage, action=action, reason=reason)
    if status in (401, 403):
        return AccessDenied(storage=storage, action=action, reason=reason)
    return StorageRejected(storage=storage, action=action, reason=reason)


def bucket_region(error: boto.ClientError) -> str:
    """The region an answer says the bucket is in, empty where it does not."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", "") or error.response.get("Error", {}).get("Region", ""))
