"""What README says of the code is so: the hops of a write and of a read, the exit codes, the folders."""

import ast
import re
from pathlib import Path

import pytest

from infinitfs import errors
from infinitfs.cli.base import INTERRUPTED, USAGE
from infinitfs.errors import InfinitfsError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
HOPS = re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.py)` `(\w+)\.(\w+)`", README)


def section(title: str) -> str:
    """The text under a heading of README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(("file", "owner", "function"), HOPS)
def test_a_hop_is_in_the_code(file: str, owner: str, function: str) -> None:
    module = ast.parse((ROOT / "infinitfs" / file).read_text())
    (found,) = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == owner]
    assert function in {node.name for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}, (
        f"{owner} has no {function}"
    )


@pytest.mark.parametrize("life", ["The life of a write", "The life of a read"])
def test_every_line_of_a_life_is_a_hop(life: str) -> None:
    lines = re.findall(r"^\d+\. .*", section(life), re.MULTILINE)
    assert len(lines) > 10
    assert all(re.match(r"\d+\. `[a-z]+/[a-z0-9_]+\.py` `\w+\.\w+`", line) for line in lines)


def test_the_exit_codes_are_those_of_the_program() -> None:
    listed = {int(code) for code in re.findall(r"\| (\d+) \|", section("Exit codes"))}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, InfinitfsError)]
    assert listed == {0, USAGE, INTERRUPTED} | {kind.exit_code for kind in kinds}


def test_the_folders_are_those_of_the_project() -> None:
    listed = re.findall(r"^(\w[\w/]*)/  ", section("The tree"), re.MULTILINE)
    inner = {str(path.relative_to(ROOT)) for path in ROOT.glob("infinitfs/[a-z]*") if path.is_dir()}
    assert set(listed) == {"native", "infinitfs", "tests", "benchmarks"} | inner
    assert all((ROOT / folder).is_dir() for folder in listed)
