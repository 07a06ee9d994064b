"""The program as a whole: start-up, help, and how failures leave it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from infinitfs.cli.base import Command, sentence_of
from infinitfs.cli.main import root
from infinitfs.errors import InfinitfsError, NotFound
from tests.support.mounts import Run

HEAVY = ("boto3", "botocore", "trio", "pyfuse3", "apsw", "cryptography", "Crypto", "rich", "msgspec")


def commands(group: click.Group, path: str = "infinitfs") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ALL = dict(commands(root))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["volume", "--help"], ["mount", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str], environ: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from infinitfs.cli.main import run\n"
        "try:\n"
        "    run()\n"
        "except SystemExit as end:\n"
        f"    print(end.code, [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, env=environ, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_it_runs_as_a_module(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infinitfs.cli.main", "user", "show", "nobody"],
        capture_output=True,
        env=environ,
        text=True,
        timeout=60,
    )
    assert done.returncode == 10
    assert done.stdout == ""
    assert done.stderr == ('There is no user "nobody" on this machine: `infinitfs user list` shows those there are.\n')


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_an_example_that_parses_and_json(path: str) -> None:
    command = ALL[path]
    assert isinstance(command, Command)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--debug"} <= options
    shown = command.get_help(click.Context(command, info_name=path))
    for line in command.example.splitlines():
        assert line in shown
        assert line == path or line.startswith(f"{path} ")
        words = line.removeprefix(path).split()
        command.make_context(path, words, resilient_parsing=True)
        known = {word for word in words if word.startswith("--")}
        assert known <= options


def test_the_root_lists_every_command_there_is(run: Run) -> None:
    shown = run("--help").stdout
    for name in (
        "user",
        "credentials",
        "storage",
        "volume",
        "mount",
        "unmount",
        "status",
        "gc",
        "doctor",
        "quickstart",
    ):
        assert f"\n  {name} " in shown


def test_a_noun_alone_shows_its_verbs(run: Run) -> None:
    result = run("volume")
    assert result.exit_code == 2
    assert "  fetch " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["user", "show"], "User name unspecified (use --name)"),
        (["user", "show", "a", "--name", "b"], 'Two user names given, "a" and "b": give one.'),
        (["usr"], "No such command 'usr'."),
        (["user", "list", "--jsno"], "No such option '--jsno'."),
        (["storage", "create", "--capacity", "much"], '"much" is not a size'),
        (["mount", "drive", "a", "b"], '"b" is one argument too many'),
    ],
)
def test_usage_errors_are_one_line_and_exit_with_2(run: Run, arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["quickstart", "/tmp/m\udcff"],
        ["user", "create", "alice", "--description", "\udcff"],
        ["storage", "create", "--filesystem", "local", "--path", "/tmp/\udcff"],
        ["mount", "drive", "/tmp/m\udcff"],
        ["systemd", "install", "drive", "--at", "/srv/drive", "-o", "log-file=\udcff"],
    ],
)
def test_bytes_that_are_no_text_are_refused_before_anything_is_made(run: Run, home: Path, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.endswith('\\xff" is not text in UTF-8: use another name or text.\n')
    assert not home.exists()


def test_a_folder_counts_from_where_the_command_runs(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "\udcff"
    here.mkdir()
    monkeypatch.chdir(here)
    assert run("quickstart", "drive").exit_code == 2
    assert not home.exists()
    created = run("storage", "create", "--filesystem", "local", "--path", "blocks")
    assert (created.exit_code, list(here.iterdir())) == (2, [])


@pytest.mark.parametrize("variable", ["INFINITFS_PASSPHRASE", "INFINITFS_HOME"])
def test_a_variable_that_is_no_text_is_refused(run: Run, tmp_path: Path, variable: str) -> None:
    before = list(tmp_path.iterdir())
    result = run("user", "create", "alice", **{variable: f"{tmp_path}/\udcff"})
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, before)
    assert "is not text in UTF-8" in result.stderr and result.stderr.count("\n") == 1


def test_names_of_files_may_have_any_bytes(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "\udcff.json"
    program = [sys.executable, "-m", "infinitfs.cli.main"]

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        strict = {**environ, "PYTHONIOENCODING": "utf-8:strict"}  # what most locales mean
        return subprocess.run([*program, *arguments], env=strict, capture_output=True, timeout=60)

    run("user", "create", "alice")
    exported = run("user", "export", "alice", "--output", str(file))
    assert (exported.returncode, exported.stdout) == (0, b'Exported user "alice" to "%b".\n' % os.fsencode(file))
    assert b"exists already" in run("user", "import", str(file)).stderr, "it was read"
    copied = run("copy", f"{file}\udcfe", str(file))
    assert b"could not be copied (No such file" in copied.stderr


def test_with_json_an_error_is_an_object_on_standard_output(run: Run) -> None:
    result = run("user", "show", "nobody", "--json")
    error = json.loads(result.stdout)
    assert error["exit_code"] == result.exit_code == 10
    assert error["error"].startswith('There is no user "nobody"')
    assert result.stderr == ""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """`infinitfs user list` raises the exception put in here."""
    failure: list[BaseException] = []

    def fail(*_: object) -> None:
        raise failure[0]

    monkeypatch.setattr("infinitfs.config.store.Collection.list", fail)
    yield failure


def test_an_unexpected_failure_is_a_sentence(run: Run, failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError("a\nb"))
    result = run("user", "list")
    assert result.exit_code == 1
    assert result.stderr == "Unexpected failure: ZeroDivisionError: a b (--debug shows where).\n"


@pytest.mark.parametrize("failure", [ZeroDivisionError("x"), NotFound(what="It", remedy="look")])
def test_debug_shows_the_traceback(run: Run, failing: list[BaseException], failure: Exception) -> None:
    failing.append(failure)
    result = run("user", "list", "--debug")
    assert "Traceback (most recent call last)" in result.stderr
    assert result.exit_code == sentence_of(failure)[1]


def test_an_interrupt_exits_with_130(run: Run, failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())
    result = run("user", "list")
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


def test_every_error_of_the_tree_keeps_its_exit_code() -> None:
    pending = [InfinitfsError]
    while pending:
        kind = pending.pop()
        error = kind.__new__(kind)
        Exception.__init__(error, "A sentence.")
        assert sentence_of(error) == ("A sentence.", kind.exit_code)
        pending.extend(kind.__subclasses__())


def test_a_closed_pipe_is_no_traceback(environ: dict[str, str]) -> None:
    program = [sys.executable, "-m", "infinitfs.cli.main", "--help"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


@pytest.mark.parametrize(
    ("closed", "arguments", "exit_code"),
    [(0, ["user", "create", "alice"], 0), (1, ["user", "list"], 0), (1, ["user", "show", "nobody", "--json"], 10)],
)
def test_a_standard_stream_may_be_closed(
    closed: int, arguments: list[str], exit_code: int, environ: dict[str, str]
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", sys.executable, "-m", "infinitfs.cli.main", *arguments],
        stderr=subprocess.PIPE,
        env=environ,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Unexpected" in done.stderr) == (exit_code, False), done.stderr


@pytest.mark.parametrize("arguments", [["user", "list"], ["user", "show", "nobody", "--json"]])
def test_a_reader_may_go(arguments: list[str], environ: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-m", "infinitfs.cli.main"]
    subprocess.run([*program, "user", "create", "alice"], env=environ, capture_output=True, timeout=60)
    with os.fdopen(writer, "w") as gone:
        done = subprocess.run(
            [*program, *arguments], stdout=gone, stderr=subprocess.PIPE, env=environ, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "")
