"""What `storage create` finds out about a bucket, against a real server."""

import msgspec
import pytest

from infinitfs.config.model import S3StorageRecord
from infinitfs.errors import AccessDenied, BucketNotFound, NotS3, RightMissing, StorageUnreachable, UsageError
from infinitfs.storage.account import StaticKeys
from infinitfs.storage.policy import RIGHTS, smallest_policy
from infinitfs.storage.probe_s3 import check_bucket_name, check_s3, check_words, rights
from infinitfs.storage.regions import check_region
from tests.support.s3_faults import KEYS as STUB_KEYS
from tests.support.s3_faults import record as stub_record
from tests.support.s3_server import S3Server
from tests.support.s3_stub import Page, S3Stub


async def test_a_good_bucket(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    assert await check_s3(s3_record, s3_server.account) == (s3_record, [])
    marked = msgspec.structs.replace(s3_record, conditional=False)
    assert await check_s3(marked, s3_server.account) == (s3_record, [])
    found = s3_server.client().list_objects_v2(Bucket=s3_record.bucket, Prefix=s3_record.path)
    assert found["KeyCount"] == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"region": "Frankfurt"}, "did you mean eu-central-1?"),
        ({"region": "eu west"}, "identifier"),
        (
            {"region": "eu-central-1"},
            "is in the region us-east-1, not in eu-central-1: use --region us-east-1",
        ),
        ({"bucket": "no/bucket"}, "cannot be the name"),
        ({"path": "../up"}, "not a folder's path"),
        ({"path": "/top"}, "not a folder's path"),
        ({"storage_class": "GLACIER"}, "archive"),
        ({"storage_class": "DEEP_ARCHIVE"}, "archive"),
    ],
)
async def test_a_record_that_cannot_be(
    changes: dict[str, str], text: str, s3_server: S3Server, s3_record: S3StorageRecord
) -> None:
    with pytest.raises(UsageError) as caught:
        await check_s3(msgspec.structs.replace(s3_record, **changes), s3_server.account)
    assert text in str(caught.value)
    assert caught.value.exit_code == 2


async def test_an_unknown_region_of_aws_is_found_without_the_network(s3_record: S3StorageRecord) -> None:
    keys = StaticKeys(access_key_id="A", secret_access_key="B" * 8)
    with pytest.raises(UsageError, match="There is no region"):
        await check_s3(msgspec.structs.replace(s3_record, endpoint="", region="eu-central-9"), keys)


async def test_storage_classes_that_can_be_read_at_once(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    for name in ("GLACIER_IR", "STANDARD_IA", "REDUCED_REDUNDANCY"):
        record = msgspec.structs.replace(s3_record, storage_class=name)
        assert await check_s3(record, s3_server.account) == (record, [])


async def test_an_unknown_storage_class(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    with pytest.raises(UsageError, match='does not take the storage class "GOLD"'):
        await check_s3(msgspec.structs.replace(s3_record, storage_class="GOLD"), s3_server.account)
    for name in ("GOLD", "standard_ia", "OUTPOSTS"):
        with pytest.raises(UsageError, match="There is no storage class"):
            check_words(msgspec.structs.replace(s3_record, storage_class=name, endpoint=""))


async def test_a_missing_bucket(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    with pytest.raises(BucketNotFound) as caught:
        await check_s3(msgspec.structs.replace(s3_record, bucket="there-is-none"), s3_server.account)
    assert caught.value.exit_code == 10


async def test_an_endpoint_that_is_not_there(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    with pytest.raises(StorageUnreachable) as caught:
        await check_s3(msgspec.structs.replace(s3_record, endpoint="http://127.0.0.1:1"), s3_server.account)
    assert caught.value.exit_code == 13


async def test_keys_the_service_refuses(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    wrong = msgspec.structs.replace(s3_server.account, secret_access_key="x" * 8)
    unknown = StaticKeys(access_key_id="UNKNOWN", secret_access_key="x" * 8)
    for account, text in ((wrong, "secret access key"), (unknown, "access key id")):
        with pytest.raises(AccessDenied, match=text) as caught:
            await check_s3(s3_record, account)
        assert caught.value.exit_code == 14


NEEDED = {
    "s3:ListBucket": "list",
    "s3:PutObject": "write",
    "s3:GetObject": "read",
    "s3:DeleteObject": "delete",
}


@pytest.mark.parametrize("missing", NEEDED)
async def test_every_missing_permission_is_named(missing: str, s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    account = s3_server.add_user(*(NEEDED.keys() - {missing}))
    with pytest.raises(RightMissing, match=f"may not {NEEDED[missing]} in .* lacks {missing} "):
        await check_s3(s3_record, account)
    client = s3_server.client()
    assert client.list_objects_v2(Bucket=s3_record.bucket, Prefix=s3_record.path)["KeyCount"] == 0


async def test_no_other_permission_is_needed(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    assert await check_s3(s3_record, s3_server.add_user(*NEEDED)) == (s3_record, [])


async def test_the_guide_s_policy_and_the_smallest_are_enough(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    arn = f"arn:aws:s3:::{s3_record.bucket}"
    guide = {"Effect": "Allow", "Action": "s3:*", "Resource": [arn, f"{arn}/*"]}
    for policy in (
        {"Version": "2012-10-17", "Statement": [guide]},
        smallest_policy(s3_record.bucket, s3_record.path, s3_record.region),
    ):
        account = s3_server.add_user_with(policy)
        assert await check_s3(s3_record, account) == (s3_record, [])
        assert await rights(s3_record, account) == dict.fromkeys(RIGHTS, True)


async def test_a_login_page_allows_nothing() -> None:
    with S3Stub() as stub:
        stub.plan = lambda request: Page() if request.method == "PUT" else None
        with pytest.raises(NotS3):
            await rights(stub_record(stub.port), STUB_KEYS)


async def test_buckets_that_keep_what_is_deleted(s3_server: S3Server, s3_record: S3StorageRecord) -> None:
    versioned = s3_server.create_bucket()
    configuration: dict[str, str] = {"Status": "Enabled"}
    s3_server.client().put_bucket_versioning(Bucket=versioned, VersioningConfiguration=configuration)  # type: ignore[arg-type]
    record = msgspec.structs.replace(s3_record, bucket=versioned)
    _, warnings = await check_s3(record, s3_server.account)
    assert [versioned in text and "old versions" in text for text in warnings] == [True]
    assert (await check_s3(record, s3_server.add_user(*NEEDED)))[1] == []

    locked = s3_server.create_bucket(object_lock=True)
    _, warnings = await check_s3(msgspec.structs.replace(s3_record, bucket=locked), s3_server.account)
    assert any("object lock" in text for text in warnings)


@pytest.mark.parametrize(
    ("region", "meant"),
    [
        ("Frankfurt", "eu-central-1"),
        ("ireland", "eu-west-1"),
        ("N. Virginia", "us-east-1"),
        ("Virginia", "us-east-1"),
        ("Europe (London)", "eu-west-2"),
        ("US West (Oregon)", "us-west-2"),
        ("eu-centrl-1", "eu-central-1"),
        ("useast1", "us-east-1"),
    ],
)
def test_regions_meant(region: str, meant: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean {meant}\?"):
        check_region(region, custom=False)


@pytest.mark.parametrize("region", ["eu-central-1", "us-east-1", "cn-north-1", "us-gov-west-1", "ap-southeast-2"])
def test_regions_there_are(region: str) -> None:
    check_region(region, custom=False)
    check_region(region, custom=True)


def test_regions_of_other_services() -> None:
    for region in ("garage", "fr-par", "default", "auto", "RegionOne"):
        check_region(region, custom=True)
        with pytest.raises(UsageError):
            check_region(region, custom=False)
    for region in ("Frankfurt", "", "eu central", "eu/central", "-"):
        with pytest.raises(UsageError):
            check_region(region, custom=True)


@pytest.mark.parametrize(
    "bucket",
    [
        "ab",
        "a" * 64,
        "Upper",
        "under_score",
        "-a-",
        "abc-",
        ".abc",
        "a..b",
        "192.168.0.1",
        "xn--abc",
        "abc-s3alias",
    ],
)
def test_illegal_bucket_names(bucket: str) -> None:
    with pytest.raises(UsageError, match="name of a bucket"):
        check_bucket_name(bucket, custom=False)


def test_legal_bucket_names() -> None:
    for bucket in ("abc", "my-bucket", "a.b.c", "1bucket9", "a" * 63):
        check_bucket_name(bucket, custom=False)
        check_bucket_name(bucket, custom=True)
    check_bucket_name("Old_Bucket", custom=True)
    for bucket in ("a/b", "", "..", "a b"):
        with pytest.raises(UsageError):
            check_bucket_name(bucket, custom=True)
