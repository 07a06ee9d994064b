"""Who a storage service takes us for.

Above: `mount/` and `cli/` make an Account from a credentials record, the transfer protocol carries it to the
process that opens the storage. Below: botocore, imported only when a session is made.
Invariant: no secret appears in a repr, so none reaches a traceback, nor in a log, whatever its level.
"""

import logging
from typing import TYPE_CHECKING

import msgspec

from infinitfs.errors import RoleRefused

if TYPE_CHECKING:
    from botocore.session import Session


class StaticKeys(msgspec.Struct, frozen=True, kw_only=True, tag="static"):
    """An access key. `session_token` is set for temporary keys only."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return f"StaticKeys(access_key_id={self.access_key_id!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("access_key_id", self.access_key_id)]


class Profile(msgspec.Struct, frozen=True, tag="profile"):
    """A named profile of `~/.aws/config` and `~/.aws/credentials`."""

    name: str


class Environment(msgspec.Struct, frozen=True, tag="environment"):
    """What botocore's own chain finds: variables, the default profile, the machine's role."""


class InstanceRole(msgspec.Struct, frozen=True, tag="instance-role"):
    """The role of the machine or container we run on, and nothing from variables or files."""


class Role(msgspec.Struct, frozen=True, tag="role"):
    """A role assumed with what the chain of `Environment` finds, and assumed again before its keys end."""

    arn: str


Account = StaticKeys | Profile | Environment | InstanceRole | Role


def session(account: Account, region: str) -> "Session":
    """A session with the account's credentials. Not thread-safe. Raises botocore's errors.

    `region` is where the service is asked that gives out a role's keys (STS). Keys that end are replaced before they
    do, by whoever sends a request then; RoleRefused where that is not allowed.
    """
    from botocore.session import Session

    # At its lower levels botocore writes down session tokens, and the answers of STS with the keys in them.
    logging.getLogger("botocore").setLevel(logging.ERROR)
    match account:
        case StaticKeys():
            made = Session()
            made.set_credentials(account.access_key_id, account.secret_access_key, account.session_token or None)
            return made
        case Profile():
            return Session(profile=account.name)
        case Environment():
            return Session()
        case InstanceRole():
            made = Session()
            resolver = made.get_component("credential_provider")
            of_machine = ("container-role", "iam-role")
            resolver.providers[:] = [p for p in resolver.providers if p.METHOD in of_machine]
            return made
        case Role():
            return _assuming(account.arn, region)


def _assuming(arn: str, region: str) -> "Session":
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        CredentialProvider,
        DeferredRefreshableCredentials,
    )
    from botocore.exceptions import ClientError, NoCredentialsError
    from botocore.session import Session

    base = Session()
    base.set_config_variable("region", region)

    def assume() -> dict[str, str]:
        source = base.get_credentials()
        if source is None:
            raise NoCredentialsError
        try:
            return AssumeRoleCredentialFetcher(base.create_client, source, arn).fetch_credentials()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 403):
                raise RoleRefused(role=arn, reason=error.response["Error"].get("Code", "403")) from error
            raise

    class AssumedRole(CredentialProvider):
        METHOD = "assume-role"

        def load(self) -> DeferredRefreshableCredentials:
            return DeferredRefreshableCredentials(assume, self.METHOD)

    made = Session()
    made.get_component("credential_provider").providers[:] = [AssumedRole()]
    return made
