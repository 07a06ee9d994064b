"""The manual pages: current, one a command, and without a fault that groff finds."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from infinitfs.cli.main import COMMANDS
from infinitfs.cli.manual import PAGES, pages
from infinitfs.config.paths import Paths
from tests.cli.test_cli_main import ALL

ROOT = Path(__file__).resolve().parents[2]


def shown(text: str) -> str:
    """A page without the escapes of groff."""
    return re.sub(r"\\f[BIR]", "", text).replace(r"\-", "-").replace(r"\(ti", "~").replace(r"\(aq", "'")


def test_the_manual_is_current() -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.1")}
    assert kept == pages(), "make it anew: python -m infinitfs.cli.manual"


def test_every_command_and_every_noun_has_a_page() -> None:
    nouns = {f"infinitfs-{name}.1" for name in COMMANDS}
    assert set(pages()) == {"infinitfs.1"} | nouns | {f"{path.replace(' ', '-')}.1" for path in ALL}


@pytest.mark.parametrize("path", ALL)
def test_a_page_has_all_that_help_has(path: str) -> None:
    page = shown(pages()[f"{path.replace(' ', '-')}.1"])
    for parameter in ALL[path].params:
        if parameter.opts[0].startswith("-"):
            assert re.search(rf"^{re.escape(', '.join(parameter.opts))}\b", page, re.MULTILINE), parameter.name
    assert f"\n{ALL[path].example}\n" in page  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_finds_no_fault() -> None:
    files = sorted(map(str, PAGES.glob("*.1")))
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", *files], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_installed_beside_the_program_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for folder, patterns in project["tool"]["setuptools"]["data-files"].items():
        assert folder.startswith("share/")
        for pattern in patterns:
            assert list(ROOT.glob(pattern)), pattern


def test_the_folders_are_those_of_the_program() -> None:
    paths = Paths.from_environment({"HOME": "/h"})
    places = (paths.config, paths.state, paths.cache, paths.runtime)
    page = shown(pages()["infinitfs.1"])
    assert all(f"\n~/{place.relative_to('/h')}\n" in page for place in places)
