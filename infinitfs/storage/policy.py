"""What a key must be allowed to do, in the words of AWS's policies.

Above: `storage policy`. Below: nothing; there is no I/O here.
Invariant: a key with this policy can do all that a storage needs, in its folder, and nothing else.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/list_amazons3.html
"""

from typing import Any

RIGHTS = {"list": "s3:ListBucket", "read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject"}
"""What a storage does, and the right that it takes."""


_PARTITIONS = (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov"))
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html"""


def smallest_policy(bucket: str, path: str, region: str = "") -> dict[str, Any]:
    """The policy for the folder `path` of `bucket`, as JSON's types; an empty path is the whole bucket."""
    partition = next((name for start, name in _PARTITIONS if region.startswith(start)), "aws")
    arn = f"arn:{partition}:s3:::{bucket}"
    objects = f"{path}/*" if path else "*"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": [RIGHTS["read"], RIGHTS["write"], RIGHTS["delete"]],
                "Resource": f"{arn}/{objects}",
            },
            {
                "Effect": "Allow",
                "Action": RIGHTS["list"],
                "Resource": arn,
                "Condition": {"StringLike": {"s3:prefix": objects}},
            },
            {"Effect": "Allow", "Action": "s3:GetBucketLocation", "Resource": arn},
        ],
    }
