"""The sources of a passphrase, their order and their errors."""

import shlex
import sys
from pathlib import Path

import pytest

from infinitfs.errors import UsageError
from infinitfs.keys.passphrase import PassphraseOptions, find_passphrase


def never() -> str:
    raise AssertionError("the prompt was used")


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("data", "passphrase"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"secret\n\n", "secret\n"),
        (b" secret \n", " secret "),
        ("geheimnis é\n".encode(), "geheimnis é"),
    ],
)
def test_one_trailing_newline_is_not_part_of_it(tmp_path: Path, data: bytes, passphrase: str) -> None:
    path = write(tmp_path / "p", data)
    assert find_passphrase(PassphraseOptions(file=path), {}, never) == passphrase


def test_command() -> None:
    command = python("print('from command')")
    assert find_passphrase(PassphraseOptions(command=command), {}, never) == "from command"


def test_a_command_runs_without_a_shell(tmp_path: Path) -> None:
    command = f"echo '$HOME; touch {tmp_path}/made'"
    assert find_passphrase(PassphraseOptions(command=command), {}, never) == f"$HOME; touch {tmp_path}/made"
    assert not (tmp_path / "made").exists()


def test_environment(tmp_path: Path) -> None:
    path = write(tmp_path / "p", b"from file\n")
    options = PassphraseOptions()
    assert find_passphrase(options, {"INFINITFS_PASSPHRASE": "from variable"}, never) == "from variable"
    assert find_passphrase(options, {"INFINITFS_PASSPHRASE_FILE": path}, never) == "from file"
    command = python("print('from command')")
    assert find_passphrase(options, {"INFINITFS_PASSPHRASE_COMMAND": command}, never) == "from command"


def test_order(tmp_path: Path) -> None:
    write(tmp_path / "passphrase", b"from systemd\n")
    path = write(tmp_path / "p", b"from option\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "INFINITFS_PASSPHRASE": "from variable"}
    assert find_passphrase(PassphraseOptions(file=path), environ, never) == "from option"
    assert find_passphrase(PassphraseOptions(), environ, never) == "from variable"
    del environ["INFINITFS_PASSPHRASE"]
    assert find_passphrase(PassphraseOptions(), environ, never) == "from systemd"
    (tmp_path / "passphrase").unlink()
    assert find_passphrase(PassphraseOptions(), environ, lambda: "from prompt") == "from prompt"
    assert find_passphrase(PassphraseOptions(), environ, lambda: "") is None
    assert find_passphrase(PassphraseOptions(), environ, None) is None


def test_empty_variables_are_unset() -> None:
    assert find_passphrase(PassphraseOptions(), {"INFINITFS_PASSPHRASE": ""}, lambda: "asked") == "asked"


def test_two_sources_are_refused() -> None:
    with pytest.raises(UsageError, match="Two passphrase sources"):
        find_passphrase(PassphraseOptions(file="f", command="c"), {}, never)
    environ = {"INFINITFS_PASSPHRASE": "x", "INFINITFS_PASSPHRASE_COMMAND": "c"}
    with pytest.raises(UsageError, match="unset either INFINITFS_PASSPHRASE or INFINITFS_PASSPHRASE_COMMAND"):
        find_passphrase(PassphraseOptions(), environ, never)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", b"\n")
    binary = write(tmp_path / "binary", b"\xff\xfe")
    large = write(tmp_path / "large", b"x" * 70000)
    for options, problem in (
        (PassphraseOptions(file=str(tmp_path / "missing")), "No such file"),
        (PassphraseOptions(file=str(tmp_path)), "directory"),
        (PassphraseOptions(file=empty), "is empty"),
        (PassphraseOptions(file=binary), "not text"),
        (PassphraseOptions(file=large), "longer"),
        (PassphraseOptions(command=""), "is empty"),
        (PassphraseOptions(command="'"), "malformed"),
        (PassphraseOptions(command=str(tmp_path / "missing")), "cannot be run"),
        (PassphraseOptions(command="true"), "is empty"),
        (PassphraseOptions(command="false"), r"failed \(1\)"),
    ):
        with pytest.raises(UsageError, match=problem):
            find_passphrase(options, {}, never)


def test_a_command_that_hangs_is_ended() -> None:
    """Left alone, the command would end by itself without an output, which is another error."""
    command = python("import select; select.select([], [], [], 20)")
    with pytest.raises(UsageError, match=r"took over 0\.05 s"):
        find_passphrase(PassphraseOptions(command=command), {}, never, timeout=0.05)
