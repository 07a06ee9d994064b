"""A whole tree goes in and comes out again on another machine that has nothing but the user's key and the storage.

With MOUNT_TESTS=long the tree is /usr/lib/python3.11 and /usr/share/doc beside the oddities.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infinitfs.storage.account import StaticKeys
from tests.support.mounted import STORAGE, USER, VOLUME, Home, needs_fuse
from tests.support.real_server import REGION, needs_server, real_server
from tests.support.s3_server import HOME, S3Server
from tests.support.trees import copy_tree, differences, make_tree

pytestmark = needs_fuse

MakeStorage = Callable[[Home], None]


@pytest.fixture(params=["filesystem", "s3", pytest.param("real_s3", marks=needs_server)])
def make_storage(request: pytest.FixtureRequest) -> MakeStorage:
    """Sets the storage up on a machine that has its user."""
    made: MakeStorage = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def filesystem(tmp_path: Path) -> MakeStorage:
    place = tmp_path / "shelf"
    return lambda home: _run(home, "storage create --filesystem", STORAGE, f"--path {place}")


@pytest.fixture
def s3(s3_server: S3Server) -> MakeStorage:
    bucket = s3_server.create_bucket()
    return lambda home: _make_s3(home, s3_server.account, s3_server.endpoint, HOME, bucket)


@pytest.fixture
def real_s3(tmp_path: Path) -> Iterator[MakeStorage]:
    (tmp_path / "server").mkdir()
    with real_server(tmp_path / "server") as server:
        bucket = server.create_bucket()
        yield lambda home: _make_s3(home, server.account, server.endpoint, REGION, bucket)


def _make_s3(home: Home, keys: StaticKeys, endpoint: str, region: str, bucket: str) -> None:
    lines = f"{keys.access_key_id}\n{keys.secret_access_key}\n"
    home.run("credentials", "add", "--aws", "--as", USER, "service", input=lines)
    place = f"--account service --region {region} --bucket {bucket} --path shelf --endpoint {endpoint}"
    _run(home, "storage create --s3", STORAGE, place)


def _run(home: Home, command: str, name: str, options: str) -> None:
    home.run(*command.split(), "--name", name, *options.split())


def sealed_with(file: Path) -> dict[str, str]:
    """The environment that names the file with the passphrase."""
    return {"INFINITFS_PASSPHRASE_FILE": str(file)}


@pytest.fixture
def tree(tmp_path: Path, long: bool) -> Path:
    made = tmp_path / "tree"
    make_tree(made, 2000 if long else 250)
    if long:
        for source in ("/usr/lib/python3.11", "/usr/share/doc"):
            copy_tree(Path(source), made)
    return made


def test_a_tree_comes_back_on_another_machine(
    new_home: Callable[[str], Home], make_storage: MakeStorage, tree: Path, tmp_path: Path
) -> None:
    here = new_home("here")
    here.run("user", "create", USER)
    make_storage(here)
    here.run("volume", "create", VOLUME, "--storage", STORAGE)
    mounted = here.mount(tmp_path / "drive")
    copy_tree(tree, mounted / "tree")
    assert differences(tree, mounted / "tree") == ""
    mounted.unmount()
    (tmp_path / "passphrase").write_text("correct horse")
    here.run("user", "export", USER, "--full", "--output", "key.json", **sealed_with(tmp_path / "passphrase"))

    there = new_home("there")
    shutil.copy(here.folder / "key.json", there.folder)
    shutil.rmtree(here.root)
    there.environ |= sealed_with(tmp_path / "passphrase")
    there.run("user", "import", "key.json")
    make_storage(there)
    assert there.run("volume", "fetch", "--storage", STORAGE) == f'Fetched volume "{VOLUME}".\n'
    mounted = there.mount(tmp_path / "elsewhere")
    assert differences(tree, mounted / "tree") == ""
    sparse = (mounted / "tree" / "oddities" / "sparse-with-islands").stat()
    assert sparse.st_size == 64 << 20 and sparse.st_blocks * 512 < 1 << 20
    mounted.unmount()
