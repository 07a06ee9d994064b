"""`infinitfs user`: key pairs made, shown, carried to another machine, deleted."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.console import Console
from tests.support.mounts import Run


@pytest.fixture
def passphrase(tmp_path: Path) -> str:
    file = tmp_path / "passphrase"
    file.write_text("correct horse\n")
    return str(file)


def test_create_says_where_the_key_is_and_how_to_export_it(run: Run, home: Path) -> None:
    result = run("user", "create", "alice")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == 'Locally generated user "alice".\n'
    record = home / "config" / "users" / "alice.json"
    assert str(record) in result.stderr
    assert "no passphrase" in result.stderr
    assert "infinitfs user export alice --full --output alice.json" in result.stderr
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


@pytest.mark.parametrize("arguments", [["alice"], ["--name", "alice"], ["alice", "--name", "alice"]])
def test_the_name_is_an_option_or_the_positional(run: Run, arguments: list[str]) -> None:
    assert json.loads(run("user", "create", *arguments, "--json").stdout)["name"] == "alice"


def test_create_takes_a_passphrase_and_seals_the_key(run: Run, home: Path, passphrase: str) -> None:
    result = run("user", "create", "alice", "--passphrase-file", passphrase)
    assert result.exit_code == 0, result.stderr
    assert "no passphrase" not in result.stderr
    assert json.loads(run("user", "show", "alice", "--json").stdout)["private_key"] == "sealed"


def test_create_asks_twice_at_a_terminal(environ: dict[str, str], home: Path) -> None:
    with Console(["-m", "infinitfs.cli.main", "user", "create", "alice"], environ) as console:
        console.expect("New passphrase (empty for none): ")
        console.type("first\n")
        console.expect("Repeat the passphrase: ")
        console.type("second\n")
        console.expect("The two passphrases differ.")
        console.expect("New passphrase (empty for none): ")
        console.type("correct horse\n")
        console.expect("Repeat the passphrase: ")
        console.type("correct horse\n")
        console.expect('Locally generated user "alice".')
        assert console.exit_code() == 0
        assert "horse" not in console.seen
    assert "unprotected" not in (home / "config" / "users" / "alice.json").read_text()


def test_an_empty_passphrase_at_a_terminal_means_none(environ: dict[str, str], home: Path) -> None:
    with Console(["-m", "infinitfs.cli.main", "user", "create", "alice"], environ) as console:
        console.expect("whoever reads its file can read all that it opens")
        console.expect("New passphrase (empty for none): ")
        console.type("\n")
        console.expect("It has no passphrase")
        assert console.exit_code() == 0
    assert "unprotected" in (home / "config" / "users" / "alice.json").read_text()


def test_a_taken_or_bad_name_is_refused(run: Run) -> None:
    run("user", "create", "alice")
    assert run("user", "create", "alice").exit_code == 11
    assert run("user", "create", "../alice").exit_code == 2


def test_list_is_a_table_or_json_lines(run: Run) -> None:
    assert run("user", "list").stdout == ""
    for name in ("bob", "alice"):
        run("user", "create", name)
    assert [line.split()[0] for line in run("user", "list").stdout.splitlines()] == ["NAME", "alice", "bob"]
    rows = [json.loads(line) for line in run("user", "list", "--json").stdout.splitlines()]
    assert [(row["name"], row["private_key"]) for row in rows] == [
        ("alice", "unprotected"),
        ("bob", "unprotected"),
    ]


def test_the_public_export_holds_no_private_key_and_imports(run: Run, home: Path, tmp_path: Path) -> None:
    run("user", "create", "alice")
    before = json.loads(run("user", "show", "alice", "--json").stdout)
    exported = run("user", "export", "alice").stdout
    assert "private" not in json.loads(exported)
    run("user", "delete", "alice")
    result = run("user", "import", "-", input=exported)
    assert result.stdout == 'Imported user "alice".\n'
    assert json.loads(run("user", "show", "alice", "--json").stdout) == {**before, "private_key": "none"}


def test_the_full_export_of_an_unprotected_key_is_sealed_first(
    run: Run, home: Path, tmp_path: Path, passphrase: str
) -> None:
    run("user", "create", "alice")
    seeds = json.loads((home / "config" / "users" / "alice.json").read_text())["private"]["unprotected"]
    refused = run("user", "export", "alice", "--full")
    assert refused.exit_code == 2
    assert "--passphrase-file or --passphrase-command" in refused.stderr
    assert refused.stdout == ""
    file = tmp_path / "alice.json"
    arguments = ["user", "export", "alice", "--full", "--output", str(file)]
    result = run(*arguments, "--passphrase-file", passphrase)
    assert result.stdout == f'Exported user "alice" to "{file}".\n'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert seeds not in file.read_text()
    assert run(*arguments, "--passphrase-file", passphrase).exit_code == 2  # it is there already
    run("user", "delete", "alice")
    assert run("user", "import", str(file)).exit_code == 0
    assert json.loads(run("user", "show", "alice", "--json").stdout)["private_key"] == "sealed"


def test_the_full_export_of_a_sealed_key_needs_no_passphrase(run: Run, passphrase: str) -> None:
    run("user", "create", "alice", "--passphrase-file", passphrase)
    exported = json.loads(run("user", "export", "alice", "--full").stdout)
    assert exported["private"]["kdf"] == "scrypt"


def test_the_full_export_of_a_key_that_is_elsewhere_says_so(run: Run) -> None:
    run("user", "create", "alice")
    exported = run("user", "export", "alice").stdout
    run("user", "delete", "alice")
    run("user", "import", "-", input=exported)
    result = run("user", "export", "alice", "--full")
    assert result.exit_code == 10
    assert 'The private key of user "alice" not found' in result.stderr


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"name": "a", "public": {"sign": "x"}, "created": ""}', '{"x":' + "[" * 9999]
)
def test_import_refuses_what_is_no_user(run: Run, text: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    result = run("user", "import", str(file))
    assert result.exit_code in (2, 15)
    assert result.stderr.count("\n") == 1
    assert run("user", "list", "--json").stdout == ""


@pytest.mark.parametrize(
    "change",
    [{"unprotected": "xx"}, {"n": 2**40}, {"r": 1, "n": 2**20}, {"salt": ""}, {"kdf": "argon2"}],
)
def test_import_refuses_a_private_key_that_could_not_be_used(
    run: Run, passphrase: str, change: dict[str, str | int]
) -> None:
    run("user", "create", "alice", "--passphrase-file", passphrase)
    exported = json.loads(run("user", "export", "alice", "--full").stdout)
    run("user", "delete", "alice")
    exported["private"] |= change
    result = run("user", "import", "-", input=json.dumps(exported))
    assert (result.exit_code, result.stderr.count("\n")) == (15, 1), result.stderr
    assert "restore the key from its export" in result.stderr
    assert run("user", "list", "--json").stdout == ""


def test_import_of_a_missing_file_is_a_sentence(run: Run, tmp_path: Path) -> None:
    result = run("user", "import", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "cannot be read (No such file or directory)" in result.stderr


def test_a_user_in_use_is_deleted_by_force_only(run: Run) -> None:
    run("user", "create", "alice")
    run("credentials", "add", "--aws", "s3-user", "--environment")
    result = run("user", "delete", "alice")
    assert result.exit_code == 11
    assert 'the credentials "s3-user" belong to it' in result.stderr
    assert run("user", "delete", "alice", "--force").stdout == 'Deleted user "alice".\n'
    assert run("user", "show", "alice").exit_code == 10


def test_two_passphrase_sources_are_refused(run: Run, passphrase: str) -> None:
    result = run("user", "create", "alice", "--passphrase-file", passphrase, "--passphrase-command", "echo x")
    assert result.exit_code == 2
    assert run("user", "list").stdout == ""


def test_an_export_that_fails_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("user", "create", "alice")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fail)
    result = run("user", "export", "alice", "--output", str(tmp_path / "alice.json"))
    assert (result.exit_code, list(tmp_path.glob("alice.json"))) == (2, [])
