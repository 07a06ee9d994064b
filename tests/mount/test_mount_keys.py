"""The key of a bucket: what it must be allowed to do, how it is replaced under a running mount, and where it is not.

On moto, which looks at actions and signatures, and on a server that was not made for tests, which looks at folders too.
"""

import base64
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infinitfs.storage.account import StaticKeys
from infinitfs.storage.policy import smallest_policy
from tests.support.mounted import STORAGE, USER, VOLUME, Home, Mounted, needs_fuse, wait_until
from tests.support.real_server import REGION, needs_server, real_server
from tests.support.s3_server import HOME, S3Server

pytestmark = needs_fuse

FOLDER = "blocks/of mine"


@dataclass
class Service:
    """An S3 service with a bucket. `add_user` makes a key with a policy, `remove` ends it."""

    endpoint: str
    region: str
    bucket: str
    add_user: Callable[[dict[str, Any]], StaticKeys]
    remove: Callable[[StaticKeys], None]
    client: Any
    moto: S3Server | None = None

    def smallest(self) -> StaticKeys:
        """A key that may do what `storage policy` prints."""
        return self.add_user(smallest_policy(self.bucket, FOLDER))


@pytest.fixture
def moto(s3_server: S3Server) -> Service:
    bucket = s3_server.create_bucket()
    return Service(
        s3_server.endpoint, HOME, bucket, s3_server.add_user_with, s3_server.remove, s3_server.client(), s3_server
    )


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "server").mkdir()
    with real_server(tmp_path / "server") as server:
        bucket = server.create_bucket()

        def add_user(policy: dict[str, Any]) -> StaticKeys:
            return server.add_user(bucket, policy)

        yield Service(server.endpoint, REGION, bucket, add_user, server.remove_user, server.client())


@pytest.fixture(params=["moto", pytest.param("real", marks=needs_server)])
def service(request: pytest.FixtureRequest) -> Service:
    made: Service = request.getfixturevalue(request.param)
    return made


def add_storage(home: Home, service: Service, keys: StaticKeys) -> tuple[int, str, str]:
    home.run("credentials", "add", "--aws", "keys", input=f"{keys.access_key_id}\n{keys.secret_access_key}\n")
    place = ("--region", service.region, "--bucket", service.bucket, "--path", FOLDER, "--endpoint", service.endpoint)
    return home.attempt("storage", "create", "--s3", STORAGE, "--account", "keys", *place)


def rotate(home: Home, keys: StaticKeys) -> tuple[int, str, str]:
    lines = f"{keys.access_key_id}\n{keys.secret_access_key}\n"
    return home.attempt("credentials", "rotate", "keys", input=lines)


def forms(secret: str) -> list[bytes]:
    """A secret as it is, and as base64 and hex would have it; of the former the part that does not depend on what
    follows."""
    plain = secret.encode()
    return [plain, base64.b64encode(plain).rstrip(b"=")[:-1], plain.hex().encode()]


def processes(mounted: Mounted) -> list[int]:
    transfer = mounted.transfer()
    assert transfer is not None
    return [mounted.pid, transfer]


def test_the_smallest_policy_is_enough_and_a_new_key_needs_no_new_mount(
    service: Service, new_home: Callable[[str], Home], drive: Path
) -> None:
    home = new_home("machine")
    home.run("user", "create", USER)
    first, second = service.smallest(), service.smallest()
    if service.moto is None:
        service.client.put_object(Bucket=service.bucket, Key="blocks/theirs", Body=b"not ours")
    assert add_storage(home, service, first) == (0, f'Created storage "{STORAGE}".\n', "")
    home.run("volume", "create", VOLUME, "--storage", STORAGE)

    mounted = home.mount(drive, "--debug")
    (drive / "before").write_bytes(os.urandom(100_000))
    mounted.stored()
    old_transfer = mounted.transfer()
    code, output, errors = rotate(home, second)
    assert (code, output) == (0, 'Locally replaced AWS credentials "keys".\n')
    assert errors == f'The mount of "{VOLUME}" uses the new key.\n'
    service.remove(first)
    asked = 0 if service.moto is None else len(service.moto.requests)
    data = os.urandom(100_000)
    (drive / "after").write_bytes(data)
    mounted.stored()
    assert mounted.transfer() not in (None, old_transfer)
    status = mounted.status()
    assert (status["state"], status["restarts"], status["trouble"]) == ("ready", 0, None)
    if service.moto is not None:
        later = {request.access_key_id for request in service.moto.requests[asked:]}
        assert second.access_key_id in later and first.access_key_id not in later

    for process in processes(mounted):
        limits = Path(f"/proc/{process}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        for what in ("cmdline", "environ"):
            shown = Path(f"/proc/{process}/{what}").read_bytes()
            assert not any(form in shown for keys in (first, second) for form in forms(keys.secret_access_key))
    mounted.unmount()
    files = [path for path in home.folder.rglob("*") if path.is_file()]
    assert any(path.name == "mount.log" for path in files) and any(path.name == "keys.json" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not any(form in content for keys in (first, second) for form in forms(keys.secret_access_key)), path

    home.run("volume", "delete", VOLUME, "--data", input=f"{VOLUME}\n")
    left = service.client.list_objects_v2(Bucket=service.bucket).get("Contents", [])
    assert [found["Key"] for found in left] == ([] if service.moto else ["blocks/theirs"])
    if service.moto is not None:
        only_in_the_folder(service.moto, service.bucket)


def only_in_the_folder(server: S3Server, bucket: str) -> None:
    """Every request about the bucket was one about an object in the folder, a listing of it, or a question about the
    bucket itself."""
    questions = {("HEAD", ""), ("GET", "versioning"), ("GET", "object-lock"), ("GET", "location")}
    about = [request for request in server.requests if request.path.split("/")[1] == bucket]
    about = [request for request in about if request.access_key_id != server.access_key_id]
    assert len(about) > 10
    for request in about:
        key = request.path.removeprefix(f"/{bucket}").removeprefix("/")
        if key:
            assert key.startswith(f"{FOLDER}/"), request
        elif "list-type" in request.query:
            assert "prefix=blocks%2Fof%20mine%2F" in request.query, request
        else:
            assert (request.method, request.query) in questions, request


def test_a_mount_that_was_not_told_looks_again_when_asked(
    moto: Service, new_home: Callable[[str], Home], drive: Path
) -> None:
    """SIGHUP, which is `systemctl reload`."""
    home = new_home("machine")
    home.run("user", "create", USER)
    first, second = moto.smallest(), moto.smallest()
    add_storage(home, moto, first)
    home.run("volume", "create", VOLUME, "--storage", STORAGE)
    mounted = home.mount(drive)
    (record,) = (home.root / "run").glob("*.json")
    hidden = record.rename(record.with_suffix(".hidden"))
    assert rotate(home, second)[2] == "", "the mount was not found"
    hidden.rename(record)
    moto.remove(first)
    mounted.signal(signal.SIGHUP)
    wait_until(lambda: "credentials that are configured now" in home.log, "looking again")
    (drive / "after").write_bytes(os.urandom(100_000))
    mounted.stored()
    assert mounted.status()["errors"] == 0
    mounted.unmount()
