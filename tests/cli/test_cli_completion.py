"""Completion: what can be typed next, and that a shell asks for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from infinitfs.cli.completion import VARIABLE
from infinitfs.cli.main import root
from infinitfs.cli.words import Word
from tests.cli.test_cli_main import ALL
from tests.support.mounts import Run

SHARE = Path(__file__).resolve().parents[2] / "infinitfs" / "share"


@pytest.fixture
def records(run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("user", "create", "alice")
    run("user", "create", "bob")
    run("storage", "create", "--filesystem", "attic", "--path", str(tmp_path / "blocks"))
    monkeypatch.setenv("INFINITFS_HOME", str(home))


def offered(*words: str) -> list[str]:
    """What may be typed in the place of the last word: what to look for among folders and files, or values."""
    *before, incomplete = words
    found = ShellComplete(root, {}, "infinitfs", VARIABLE).get_completions(before, incomplete)
    return [item.value if item.type == "plain" else item.type for item in found]


@pytest.mark.usefixtures("records")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stor"], ["storage"]),
        (["user", "show", ""], ["alice", "bob"]),
        (["user", "show", "b"], ["bob"]),
        (["user", "create", ""], []),
        (["storage", "check", "a"], ["attic"]),
        (["volume", "create", "new", "--storage", ""], ["attic"]),
        (["volume", "create", "new", "--as", "a"], ["alice"]),
        (["volume", "show", ""], []),
        (["volume", "fetch", "--local-name", ""], []),
        (["mount", ""], []),
        (["mount", "drive", ""], ["dir"]),
        (["mount", "drive", "/mnt", "--log-file", ""], ["file"]),
        (["mount", "drive", "/mnt", "--fsync", "r"], ["remote"]),
        (["unmount", ""], ["dir"]),
        (["status", ""], ["dir"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_what_can_be_typed_next(words: list[str], expected: list[str]) -> None:
    assert offered(*words) == expected


def test_a_configuration_that_is_not_there_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("INFINITFS_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert offered("user", "show", "") == []


def test_every_folder_and_file_completes() -> None:
    for path, command in ALL.items():
        for parameter in command.params:
            if (parameter.metavar or "").strip("[]") in ("DIR", "FILE"):
                assert isinstance(parameter.type, Word), (path, parameter.name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(run: Run, shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_INFINITFS_COMPLETE" in script and "_infinitfs_completion" in script


@pytest.fixture
def program(tmp_path: Path, environ: dict[str, str]) -> dict[str, str]:
    """An environment in which `infinitfs` is found."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "infinitfs").write_text(f'#!/bin/sh\nexec {sys.executable} -m infinitfs.cli.main "$@"\n')
    (binaries / "infinitfs").chmod(0o755)
    return {**environ, "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(SHARE.parents[1])}


@pytest.mark.parametrize(
    ("shell", "script"),
    [
        (
            "bash",
            '. "$1"; COMP_WORDS=(infinitfs vol); COMP_CWORD=1; _infinitfs_completion infinitfs; echo "${COMPREPLY[@]}"',
        ),
        ("fish", 'source $argv[1]; complete -C "infinitfs vol" | string split -f1 \\t'),
    ],
)
def test_a_shell_that_loads_the_installed_file_completes(shell: str, script: str, program: dict[str, str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = next((SHARE / shell).iterdir())
    words = [shell, "-c", script, *(["x"] if shell == "bash" else []), str(file)]
    done = subprocess.run(words, capture_output=True, text=True, env=program, timeout=60)
    assert (done.stdout, done.stderr) == ("volume\n", "")
