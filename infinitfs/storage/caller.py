"""Whom a service takes the holder of a key for.

Above: `credentials check`. Below: STS of AWS, which some other services speak too, where their S3 is.
Invariant: nothing is changed, and one signed request is all that is sent.
https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html: it needs no permission.
"""

from typing import Any, cast

import trio
from botocore.config import Config

from infinitfs.config.model import S3StorageRecord
from infinitfs.errors import NotS3
from infinitfs.storage.account import Account, session
from infinitfs.storage.s3 import custom_endpoint
from infinitfs.storage.s3_errors import FAILURES, explain

_PATIENCE = 10  # seconds to connect, and without a byte


async def caller(account: Account, storage: S3StorageRecord | None) -> str:
    """The ARN that the service of `storage`, or else AWS, knows the account by. Raises what `explain` makes of a
    service that does not tell."""
    endpoint = custom_endpoint(storage) if storage else ""
    where = endpoint or "AWS STS"
    region = storage.region if storage else "us-east-1"

    def ask() -> str:
        try:
            client = session(account, region).create_client(
                "sts",
                region_name=region,
                endpoint_url=endpoint or None,
                verify=(storage.ca_bundle if storage else "") or None,
                config=Config(connect_timeout=_PATIENCE, read_timeout=_PATIENCE, retries={"total_max_attempts": 2}),
            )
            return str(cast("Any", client).get_caller_identity()["Arn"])
        except KeyError as error:  # a page that a network or a gateway answers with, in STS's place
            raise NotS3(endpoint=where, reason="it answers as a web server does") from error
        except FAILURES as error:
            raise explain(
                error, storage=where, action="say whose the key is", bucket="", region=region, endpoint=where
            ) from error

    return await trio.to_thread.run_sync(ask)
