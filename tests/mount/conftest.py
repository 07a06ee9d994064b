"""Homes for real mounts. The first one's records are made once by the program and copied for every test."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.mounted import STORAGE, USER, VOLUME, Home
from tests.support.s3_server import S3Server


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a home, and in `store` its storage with a new volume."""
    folder = tmp_path_factory.mktemp("template")
    home = Home(folder)
    home.run("user", "create", USER)
    home.run("storage", "create", "--filesystem", STORAGE, "--path", str(folder / "store"))
    home.run("volume", "create", VOLUME, "--storage", STORAGE)
    return folder


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Callable[[str], Home]]:
    """Makes an empty home; ends everything in it after the test."""
    with ExitStack() as stack:

        def make(name: str) -> Home:
            home = Home(tmp_path / name)
            stack.callback(home.close)
            return home

        yield make


@pytest.fixture
def home(tmp_path: Path, template: Path, new_home: Callable[[str], Home]) -> Home:
    """A home with USER, STORAGE (in the folder `store`) and VOLUME."""
    made = new_home("machine")
    shutil.copytree(template / "home" / "config", made.root / "config")
    shutil.copytree(template / "store", tmp_path / "store")
    record = made.root / "config" / "storages" / f"{STORAGE}.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"path": str(tmp_path / "store")}))
    return made


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of the storage of `home`."""
    return tmp_path / "store"


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Where to mount."""
    return tmp_path / "drive"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def long() -> bool:
    """Whether to run the long forms: MOUNT_TESTS=long."""
    return os.environ.get("MOUNT_TESTS") == "long"
