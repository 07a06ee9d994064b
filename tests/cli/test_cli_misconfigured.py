"""What can be wrong with a storage on S3: each is one sentence that names the cause and what to do, and leaves nothing.

The service is a real one wherever one can be made to behave like that; else a stub answers what S3 documents.
"""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result

from infinitfs.storage.account import StaticKeys
from tests.support.listeners import banner, make_certificate, web_server
from tests.support.mounts import Run
from tests.support.s3_server import S3Server
from tests.support.s3_stub import BUCKET, Fault, Refuse, Request, S3Stub, always

REGION = "eu-central-1"
STATIC = StaticKeys(access_key_id="AKIAEXAMPLE", secret_access_key="example")  # noqa: S106


@dataclass
class World:
    """A home without credentials or storages, and the services that its storage could be on."""

    run: Run
    home: Path
    s3: S3Server
    bucket: str
    secure: S3Server
    certificate: Path
    stub: S3Stub

    def add(self, *arguments: str, keys: StaticKeys = STATIC, input: str | None = None) -> Result:
        """`credentials add`, of `keys` where no source is named."""
        lines = f"{keys.access_key_id}\n{keys.secret_access_key}\n" if input is None else input
        return self.run("credentials", "add", "--aws", "s3-user", *arguments, input=lines)

    def create(self, *arguments: str, environ: dict[str, str] | None = None, **changed: str | None) -> Result:
        """`storage create` with good options but for what is `changed` (None leaves one out) and added, after `add`
        where there are no credentials."""
        if not (self.home / "config" / "credentials").exists():
            self.add(keys=self.s3.account)
        good = {"account": "s3-user", "region": REGION, "bucket": self.bucket, "endpoint": self.s3.endpoint}
        given = {option: value for option, value in (good | changed).items() if value is not None}
        words = (word for option, value in given.items() for word in (f"--{option}", value))
        return self.run("storage", "create", "--s3", "remote", *words, *arguments, **(environ or {}))

    def create_as(self, keys: StaticKeys) -> Result:
        self.add(keys=keys)
        return self.create()

    def create_from(self, *source: str, **environ: str) -> Result:
        """With credentials that nothing is stored of."""
        self.add(*source)
        return self.create(environ=environ)

    def create_where(self, plan: Callable[[Request], Fault | None]) -> Result:
        """On a service that answers by a plan."""
        self.stub.plan = plan
        return self.create(bucket=BUCKET, region="us-east-1", endpoint=self.stub.endpoint)


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.create_bucket(region=REGION)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def secure(s3: S3Server, certificate: tuple[Path, Path]) -> Iterator[S3Server]:
    """The same buckets and users as those of `s3`, over TLS."""
    with S3Server(certificate) as server:
        yield server


@pytest.fixture
def world(
    run: Run,
    home: Path,
    s3: S3Server,
    bucket: str,
    secure: S3Server,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    resolve = socket.getaddrinfo

    def offline(host: Any, *arguments: Any, **more: Any) -> Any:
        """No name is looked up outside this machine; those that end in .test are its own."""
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve("127.0.0.1" if str(host).endswith(".test") else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    assert run("user", "create", "alice").exit_code == 0
    with S3Stub() as stub:
        yield World(run, home, s3, bucket, secure, certificate[0], stub)


# --- what is wrong -----------------------------------------------------------------------------------------------


def without(right: str) -> Callable[[World], Result]:
    needed = {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"}
    return lambda world: world.create_as(world.s3.add_user(*(needed - {right})))


def a_removed_key(world: World) -> Result:
    keys = world.s3.add_user("s3:*")
    world.s3.remove(keys)
    return world.create_as(keys)


def a_wrong_secret(world: World) -> Result:
    return world.create_as(msgspec.structs.replace(STATIC, access_key_id=world.s3.access_key_id))


def a_secret_of_two_lines(world: World) -> Result:
    file = world.home.parent / "secret"
    file.write_text("first\nsecond\n")
    return world.add("--access-key-id", "AKIA", "--secret-access-key-file", str(file))


def a_secret_that_ends_in_a_newline(world: World) -> Result:
    secret = f"{world.s3.secret_access_key}\n"
    return world.create_from("--environment", AWS_ACCESS_KEY_ID=world.s3.access_key_id, AWS_SECRET_ACCESS_KEY=secret)


def a_token_that_ends_in_a_newline(world: World) -> Result:
    keys = {"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "tokentoken\n"}
    return world.create_from("--environment", **keys)


def a_damaged_configuration(world: World) -> Result:
    """Of AWS's own tools, beside keys that are stored here."""
    folder = world.home.parent / ".aws"
    folder.mkdir()
    (folder / "config").write_text("[default\nregion")
    return world.create()


def a_role_of_others(world: World) -> Result:
    keys = world.s3.account
    return world.create_from(
        *("--role-arn", "arn:aws:iam::123456789012:role/theirs"),
        AWS_ENDPOINT_URL_STS=world.s3.endpoint,
        AWS_ACCESS_KEY_ID=keys.access_key_id,
        AWS_SECRET_ACCESS_KEY=keys.secret_access_key,
    )


def a_wrong_clock(world: World) -> Result:
    there = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    return world.create_where(always(Refuse(403, "RequestTimeTooSkewed", (("Date", there),))))


def a_full_bucket(world: World) -> Result:
    return world.create_where(always(Refuse(507, "QuotaExceeded"), lambda request: request.method == "PUT"))


def a_website(status: int) -> Callable[[World], Result]:
    def create(world: World) -> Result:
        with web_server(status) as endpoint:
            return world.create(endpoint=endpoint)

    return create


def a_redirect(world: World) -> Result:
    return world.create_where(always(Refuse(302, headers=(("Location", "https://login.invalid/"),))))


def another_protocol(world: World) -> Result:
    with banner(b"SSH-2.0-OpenSSH_9.2\r\n") as endpoint:
        return world.create(endpoint=endpoint)


def bad_certificates(text: str | None) -> Callable[[World], Result]:
    def create(world: World) -> Result:
        file = world.home.parent / "authority.pem"
        if text is not None:
            file.write_text(text)
        return world.create("--ca-bundle", str(file), endpoint=world.secure.endpoint)

    return create


def a_name_that_is_taken(world: World) -> Result:
    folder = str(world.home.parent / "folder")
    world.run("storage", "create", "--filesystem", "remote", "--path", folder)
    result = world.create()
    world.run("storage", "delete", "remote")
    return result


WRONG: list[tuple[str, Callable[[World], Result], int, str, str]] = [
    # what, how, exit code, the cause and the remedy that its sentence names
    ("no region", lambda w: w.create(region=None), 2, "region unspecified", "--region"),
    ("no bucket given", lambda w: w.create(bucket=None), 2, "bucket unspecified", "--bucket"),
    ("a place for a region", lambda w: w.create(region="Frankfurt"), 2, "identifier", "did you mean eu-central-1?"),
    (
        "a misspelt region",
        lambda w: w.create(region="eu-centrl-1", endpoint=None),
        2,
        'no region "eu-centrl-1"',
        "did you mean eu-central-1?",
    ),
    ("a region of the wrong form", lambda w: w.create(region="eu/central"), 2, "identifier", "use one like"),
    (
        "a bucket in another region",
        lambda w: w.create(region="us-west-2"),
        2,
        "is in the region eu-central-1, not in us-west-2",
        "use --region eu-central-1",
    ),
    ("a missing bucket", lambda w: w.create(bucket="there-is-none"), 10, 'no bucket "there-is-none"', "create it"),
    ("an illegal bucket", lambda w: w.create(bucket="My Bucket"), 2, "cannot be the name of a bucket", "3 to 63"),
    ("a bucket as a URL", lambda w: w.create(bucket="s3://mine"), 2, "cannot be the name of a bucket", "3 to 63"),
    (
        "a bucket of another account",
        lambda w: w.create_where(always(Refuse(403, "AccessDenied"))),
        14,
        "may not list",
        "of another account",
    ),
    ("no right to list", without("s3:ListBucket"), 14, "may not list", "lacks s3:ListBucket"),
    ("no right to read", without("s3:GetObject"), 14, "may not read", "lacks s3:GetObject"),
    ("no right to write", without("s3:PutObject"), 14, "may not write", "lacks s3:PutObject"),
    ("no right to delete", without("s3:DeleteObject"), 14, "may not delete", "lacks s3:DeleteObject"),
    ("a disabled key", a_removed_key, 14, "not known there, or it is disabled", "credentials rotate"),
    ("a wrong secret", a_wrong_secret, 14, "the secret access key is not the one", "credentials rotate"),
    ("a secret of two lines", a_secret_of_two_lines, 2, "secret access key is not usable", "spaces, control"),
    ("an empty secret", lambda w: w.add(input="AKIA\n\n"), 2, "secret access key is not usable", "empty"),
    ("a secret with a newline", a_secret_that_ends_in_a_newline, 14, "the secret access key is not the one", "check"),
    ("a token with a newline", a_token_that_ends_in_a_newline, 14, "line break", "set it up"),
    ("a temporary key alone", lambda w: w.add(input="ASIAX\ns\n"), 2, "ASIAX is a temporary key", "--session-token"),
    (
        "an expired token",
        lambda w: w.create_where(always(Refuse(400, "ExpiredToken"))),
        14,
        "session token has expired",
        "credentials rotate",
    ),
    ("no keys in the environment", lambda w: w.create_from("--environment"), 14, "no key to open", "set it up"),
    ("no instance", lambda w: w.create_from("--instance-role"), 14, "no key to open", "set it up"),
    ("a missing profile", lambda w: w.create_from("--profile", "work"), 10, 'profile "work" not found', "--profile"),
    ("a damaged configuration", a_damaged_configuration, 2, '/.aws/config" is not in the form', "correct it"),
    ("a role of others", a_role_of_others, 14, "role/theirs cannot be assumed", "trust policy"),
    ("missing credentials", lambda w: w.create(account="others"), 10, 'no credentials "others"', "credentials list"),
    ("a wrong clock", a_wrong_clock, 14, "clock is 60 minutes behind", "timedatectl"),
    ("a plain endpoint", lambda w: w.create(endpoint="s3.example.com"), 2, "not an endpoint", "https://s3.example"),
    (
        "an endpoint with the bucket",
        lambda w: w.create(endpoint=f"{w.s3.endpoint}/{w.bucket}"),
        2,
        "no part of the endpoint",
        "use --endpoint http://127.0.0.1:",
    ),
    (
        "http where https is needed",
        lambda w: w.create(endpoint=w.secure.endpoint.replace("https", "http")),
        2,
        "wants TLS",
        "use --endpoint https://127.0.0.1:",
    ),
    (
        "https where there is http",
        lambda w: w.create(endpoint=w.s3.endpoint.replace("http", "https")),
        2,
        "has no TLS",
        "use --endpoint http://127.0.0.1:",
    ),
    (
        "a self-signed certificate",
        lambda w: w.create(endpoint=w.secure.endpoint),
        13,
        "not trusted (self-signed certificate)",
        "--ca-bundle",
    ),
    ("no certificates", bad_certificates(None), 2, "cannot be read (No such file", "PEM"),
    ("other certificates", bad_certificates("no PEM"), 2, "no certificates in it", "PEM"),
    ("a website", a_website(404), 13, "is no S3 service", "check --endpoint and its port"),
    ("a page for everything", a_website(200), 13, "is no S3 service", "check --endpoint and its port"),
    ("a redirect", a_redirect, 13, "is no S3 service (it redirects elsewhere)", "check --endpoint and its port"),
    ("another protocol", another_protocol, 13, "does not speak HTTP", "check --endpoint and its port"),
    (
        "a wrong port",
        lambda w: w.create(endpoint="http://127.0.0.1:1"),
        13,
        "nothing listens at 127.0.0.1:1",
        "check the network and the endpoint",
    ),
    (
        "a name that does not exist",
        lambda w: w.create(endpoint="http://s3.nowhere.invalid"),
        13,
        "no host is known by the name in s3.nowhere.invalid",
        "check the network and the endpoint",
    ),
    (
        "a proxy that is not there",
        lambda w: w.create(environ={"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": ""}),
        13,
        "Failed to connect to proxy",
        "check the network",
    ),
    ("an archive", lambda w: w.create("--storage-class", "DEEP_ARCHIVE"), 2, "is an archive", "use GLACIER_IR"),
    ("a misspelt class", lambda w: w.create("--storage-class", "standard_ia"), 2, "no storage class", "STANDARD_IA"),
    (
        "a class that the service does not have",
        lambda w: w.create("--storage-class", "GOLD"),
        2,
        'does not take the storage class "GOLD"',
        "leave out --storage-class",
    ),
    (
        "two classes",
        lambda w: w.create("--storage-class", "STANDARD_IA", "--reduced-redundancy"),
        2,
        "exclude each other",
        "give one",
    ),
    ("a path upwards", lambda w: w.create(path="blocks/../../up"), 2, "not a folder's path", "use letters"),
    ("a capacity of no unit", lambda w: w.create("--capacity", "10x"), 2, '"10x" is not a size', "such as 2TB"),
    ("a full bucket", a_full_bucket, 1, "No space left", "raise the bucket's quota"),
    ("a name that is taken", a_name_that_is_taken, 11, "exists already", "choose another name"),
]


@pytest.mark.parametrize(
    ("wrong", "code", "cause", "remedy"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_one_sentence_says_what_is_wrong(
    wrong: Callable[[World], Result], code: int, cause: str, remedy: str, world: World
) -> None:
    result = wrong(world)
    sentence = result.stderr
    assert (result.exit_code, result.stdout) == (code, ""), sentence
    assert cause in sentence and remedy in sentence, sentence
    assert sentence.count("\n") == 1 and "Traceback" not in sentence, sentence
    assert "tokentoken" not in sentence
    folder = world.home / "config" / "storages"
    assert not folder.exists() or list(folder.iterdir()) == []


# --- what is worth a warning, and what is well ---------------------------------------------------------------------


def a_versioned_bucket(world: World) -> Result:
    bucket = world.s3.create_bucket(region=REGION)
    client = world.s3.client(REGION)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    return world.create(bucket=bucket)


def a_forgetful_service(world: World) -> Result:
    def forget(request: Request) -> None:
        request.headers.pop("if-none-match", None)

    return world.create_where(forget)


@pytest.mark.parametrize(
    ("odd", "warning"),
    [
        (a_versioned_bucket, "keeps old versions, so deleting frees nothing: have a lifecycle rule"),
        (a_forgetful_service, "ignores If-None-Match, so a second writer cannot be kept out: never mount"),
    ],
)
def test_what_is_no_error_is_a_warning(odd: Callable[[World], Result], warning: str, world: World) -> None:
    result = odd(world)
    assert (result.exit_code, result.stdout) == (0, 'Created storage "remote".\n'), result.stderr
    assert warning in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_secret_from_a_file_that_ends_in_a_newline_is_right(world: World) -> None:
    file = world.home.parent / "secret"
    file.write_text(f"{world.s3.secret_access_key}\r\n\n")
    world.add("--access-key-id", world.s3.access_key_id, "--secret-access-key-file", str(file))
    assert world.create().exit_code == 0


def test_an_authority_of_one_s_own_is_trusted(world: World) -> None:
    result = world.create("--ca-bundle", str(world.certificate), endpoint=world.secure.endpoint)
    assert result.exit_code == 0, result.stderr
    assert str(world.certificate) in world.run("storage", "show", "remote").stdout


def test_where_the_bucket_s_name_goes_is_found_by_trying(world: World) -> None:
    def by_name_only(request: Request) -> Fault | None:
        named = request.headers["host"].startswith(f"{BUCKET}.s3.test")
        return None if named else Refuse(403, "SecondLevelDomainForbidden")

    world.stub.plan = by_name_only
    endpoint = f"http://s3.test:{world.stub.port}"
    result = world.create(bucket=BUCKET, region="us-east-1", endpoint=endpoint)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "virtual" in world.run("storage", "show", "remote").stdout
    assert world.run("storage", "check", "remote").exit_code == 0

    world.run("storage", "delete", "remote")
    world.stub.plan = lambda request: None
    assert world.create(bucket=BUCKET, region="us-east-1", endpoint=endpoint).exit_code == 0
    assert "virtual" not in world.run("storage", "show", "remote").stdout


def test_no_traceback_shows_a_secret(world: World) -> None:
    wrong = StaticKeys(access_key_id=world.s3.access_key_id, secret_access_key="wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY")  # noqa: S106
    world.add(keys=wrong)
    result = world.create("--debug")
    assert result.exit_code == 14
    assert "Traceback" in result.stderr
    assert wrong.secret_access_key not in result.stderr + result.stdout
