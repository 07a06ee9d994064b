"""Who a storage service takes us for.

Above: `mount/` and `cli/` make an Account from a credentials record, the transfer protocol carries it to the
process that opens the storage. Below: botocore, imported only when a session is made.
Invariant: no secret appears in a repr, so none reaches a log or a traceback.
"""

from typing import TYPE_CHECKING

import msgspec

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


def session(account: Account) -> "Session":
    """A session with the account's credentials. Not thread-safe. Raises botocore's errors."""
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        CredentialProvider,
        DeferredRefreshableCredentials,
    )
    from botocore.exceptions import NoCredentialsError
    from botocore.session import Session

    class AssumedRole(CredentialProvider):
        METHOD = "assume-role"

        def __init__(self, arn: str) -> None:
            super().__init__()
            self._arn = arn

        def load(self) -> DeferredRefreshableCredentials:
            base = Session()

            def refresh() -> dict[str, str]:
                source = base.get_credentials()
                if source is None:
                    raise NoCredentialsError
                return AssumeRoleCredentialFetcher(base.create_client, source, self._arn).fetch_credentials()

            return DeferredRefreshableCredentials(refresh, self.METHOD)

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
            made = Session()
            made.get_component("credential_provider").providers[:] = [AssumedRole(account.arn)]
            return made
