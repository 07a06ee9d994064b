"""A home of its own for every test, and a `mount/` that is only pretended.

Invariant: nothing outside the test's folder is read or written; the fake mounts record what they were asked.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infinitfs.cli.main import root
from tests.support.mounts import Mounts, Run
from tests.support.s3_server import S3Server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environ(home: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a program under test."""
    foreign = ("INFINIT", "AWS_", "XDG_", "CREDENTIALS_DIRECTORY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **kept,
        "INFINITFS_HOME": str(home),
        "HOME": str(tmp_path),
        "LOGNAME": "tester",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONWARNINGS": "error",
    }


@pytest.fixture
def run(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("user", "list", input="...")`: the program in this process, without a terminal."""
    for name in [name for name in os.environ if name.startswith(("INFINIT", "AWS_", "XDG_", "CREDENTIALS_"))]:
        monkeypatch.delenv(name)
    added = {name: value for name, value in environ.items() if os.environ.get(name) != value}

    def run_(*arguments: str, input: str = "", **extra: str) -> Result:
        return CliRunner().invoke(root, list(arguments), input=input, env={**added, **extra}, prog_name="infinitfs")

    return run_


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Mounts:
    """In the place of `infinitfs.mount`."""
    fake = Mounts()
    parts: dict[str, dict[str, Any]] = {
        "daemon": {"mount": fake.mount},
        "control": {"find_mount": fake.find_mount, "mounted": fake.mounted, "ask": fake.ask},
        "mountpoint": {"is_mounted": fake.is_mounted},
        "admin": {
            "create_volume": fake.create_volume,
            "fetch_volumes": fake.fetch_volumes,
            "delete_volume": fake.delete_volume,
            "collect_garbage": fake.collect_garbage,
        },
    }
    for part, members in parts.items():
        module = ModuleType(f"infinitfs.mount.{part}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return fake


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server
