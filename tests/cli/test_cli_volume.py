"""`infinitfs volume` and `infinitfs gc`, over a `mount/` that only records what it is asked."""

import json
from pathlib import Path

import msgspec
import pytest

from infinitfs.errors import InvalidName, NotMember, StorageUnreachable
from infinitfs.volume.descriptor import Parameters
from tests.support.console import Console
from tests.support.mounts import Mounts, Run, volume_record

CREATE = ("volume", "create", "drive", "--storage", "local")


@pytest.fixture(autouse=True)
def local(run: Run, tmp_path: Path) -> None:
    assert run("user", "create", "alice").exit_code == 0
    created = run("storage", "create", "--filesystem", "local", "--path", str(tmp_path / "blocks"))
    assert created.exit_code == 0


def test_create_keeps_the_record_and_tells_of_the_key(run: Run, mounts: Mounts) -> None:
    result = run(*CREATE, "--as", "alice", "--description", "Mine.")
    assert result.stdout == 'Created volume "drive".\n', result.stderr
    assert "infinitfs user export alice --full --output alice.json" in result.stderr
    asked = mounts.call("create_volume")
    assert (asked["name"], asked["user"].name, asked["storage"].name) == ("drive", "alice", "local")
    assert (asked["account"], asked["description"]) == (None, "Mine.")
    assert asked["identity"].public.to_public_record() == asked["user"].public
    assert json.loads(run("volume", "show", "drive", "--json").stdout)["storage"] == "local"
    assert "drive" in run("volume", "list").stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], Parameters()),
        (["--chunking", "fixed"], Parameters(cutting="fixed")),
        (["--block-size", "128KiB"], Parameters(minimum=2**15, target=2**17, maximum=2**19)),
        (
            ["--chunking", "fixed", "--block-size", "64MiB"],
            Parameters(cutting="fixed", minimum=2**26, target=2**26, maximum=2**26),
        ),
    ],
)
def test_create_passes_how_files_are_cut(run: Run, mounts: Mounts, options: list[str], expected: Parameters) -> None:
    assert run(*CREATE, *options).exit_code == 0
    assert mounts.call("create_volume")["parameters"] == expected


@pytest.mark.parametrize("options", [["--block-size", "8KiB"], ["--chunking", "fixed", "--block-size", "65MiB"]])
def test_a_block_size_out_of_bounds_is_refused(run: Run, mounts: Mounts, options: list[str]) -> None:
    result = run(*CREATE, *options)
    assert result.exit_code == 2
    assert "--block-size is from" in result.stderr
    assert mounts.calls == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["--storage", "local"], 2, "Volume name unspecified (use --name)"),
        (["drive"], 2, "Storage unspecified (use --storage)"),
        (["drive", "--storage", "other"], 10, 'There is no storage "other"'),
        (["Drive", "--storage", "local"], 2, '"Drive" is not a valid volume name'),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(
    run: Run, mounts: Mounts, arguments: list[str], exit_code: int, sentence: str
) -> None:
    result = run("volume", "create", *arguments)
    assert result.exit_code == exit_code
    assert result.stderr.startswith(sentence)
    assert mounts.calls == []


def test_a_failed_create_leaves_no_record(run: Run, mounts: Mounts) -> None:
    mounts.failure = StorageUnreachable(storage="local", reason="gone")
    assert run(*CREATE).exit_code == 13
    assert run("volume", "list").stdout == ""


def test_a_taken_name_is_refused_before_any_work(run: Run, mounts: Mounts) -> None:
    run(*CREATE)
    assert run(*CREATE).exit_code == 11
    assert len(mounts.calls) == 1


def test_a_sealed_key_needs_its_passphrase(run: Run, mounts: Mounts, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("correct horse")
    wrong.write_text("battery")
    run("user", "create", "carol", "--passphrase-file", str(right))
    create = ("volume", "create", "hers", "--as", "carol", "--storage", "local")
    without = run(*create)
    assert without.exit_code == 12
    assert 'The private key of user "carol" needs its passphrase' in without.stderr
    assert run(*create, "--passphrase-file", str(wrong)).exit_code == 12
    assert mounts.calls == []
    assert run(*create, "--passphrase-command", f"cat {right}").exit_code == 0


def test_fetch_adds_what_this_user_can_open(run: Run, mounts: Mounts) -> None:
    mounts.elsewhere = [volume_record("photos", "alice", "local"), volume_record("music", "alice", "local")]
    one = run("volume", "fetch", "--storage", "local", "--name", "music")
    assert one.stdout == 'Fetched volume "music".\n'
    rest = run("volume", "fetch", "--storage", "local")
    assert rest.stdout == 'Fetched volume "photos".\n'
    assert 'The volume "music" is known here already' in rest.stderr
    assert [line.split()[0] for line in run("volume", "list").stdout.splitlines()] == [
        "NAME",
        "music",
        "photos",
    ]


def test_a_name_that_is_taken_here_does_not_keep_others_from_being_fetched(run: Run, mounts: Mounts) -> None:
    run(*CREATE)
    other = msgspec.structs.replace(volume_record("drive", "alice", "local"), volume="ab" * 16)
    invalid = msgspec.structs.replace(volume_record("odd", "alice", "local"), name="../odd")
    mounts.elsewhere = [other, invalid, volume_record("music", "alice", "local")]
    result = run("volume", "fetch", "--storage", "local")
    assert (result.exit_code, result.stdout) == (11, 'Fetched volume "music".\n')
    assert result.stderr.splitlines() == [
        str(InvalidName(kind="volume", name="../odd")),
        'The volume name "drive" is in use: '
        f"`--name {other.volume} --local-name NAME` fetches this one under another name.",
    ]
    for name in ("drive", other.volume):
        assert run("volume", "fetch", "--storage", "local", "--name", name).exit_code == 11


def test_fetch_under_another_name(run: Run, mounts: Mounts) -> None:
    run(*CREATE)
    other = msgspec.structs.replace(volume_record("drive", "alice", "local"), volume="ab" * 16)
    mounts.elsewhere = [other]
    fetch = ("volume", "fetch", "--storage", "local", "--local-name", "attic")
    assert run(*fetch).stderr == "Volume name unspecified (use --name)\n"
    for name, code in (("drive", 11), ("../attic", 2)):
        assert run(*fetch[:-1], name, "--name", "drive").exit_code == code
    mounts.elsewhere = [other, volume_record("drive", "alice", "local")]
    assert "Several volumes" in run(*fetch, "--name", "drive").stderr
    fetched = run(*fetch, "--name", other.volume)
    assert fetched.stdout == 'Fetched volume "drive" as "attic".\n', fetched.stderr
    shown = json.loads(run("volume", "show", "attic", "--json").stdout)
    assert (shown["name"], shown["volume"]) == ("attic", other.volume)
    assert 'is known here already, as "attic"' in run("volume", "fetch", "--storage", "local").stderr


def test_fetch_of_nothing_says_so(run: Run, mounts: Mounts) -> None:
    mounts.elsewhere = [volume_record("photos", "alice", "local")]
    result = run("volume", "fetch", "--storage", "local", "--name", "music")
    assert result.exit_code == 10
    assert 'The volume "music" not found' in result.stderr


def test_an_error_of_the_storage_reaches_the_user(run: Run, mounts: Mounts) -> None:
    mounts.failure = NotMember(user="alice", volume="v")
    assert run("volume", "fetch", "--storage", "local").exit_code == 12


def test_delete_forgets_the_record_only(run: Run, mounts: Mounts) -> None:
    run(*CREATE)
    assert run("volume", "delete", "drive").stdout == 'Deleted volume "drive".\n'
    assert [name for name, _ in mounts.calls] == ["create_volume"]
    assert run("volume", "delete", "drive").exit_code == 10


def test_delete_is_refused_while_mounted(run: Run, mounts: Mounts, tmp_path: Path) -> None:
    run(*CREATE)
    run("mount", "drive", str(tmp_path / "drive"))
    result = run("volume", "delete", "drive", "--data", input="drive\n")
    assert result.exit_code == 11
    assert "unmount it first" in result.stderr
    assert run("volume", "show", "drive").exit_code == 0


def test_deleting_data_takes_the_typed_name(run: Run, mounts: Mounts) -> None:
    run(*CREATE)
    for answer in ("", "driv\n", "y\n"):
        refused = run("volume", "delete", "drive", "--data", input=answer)
        assert refused.exit_code == 2
    assert run("volume", "show", "drive").exit_code == 0
    assert run("volume", "delete", "drive", "--data", input="drive\n").exit_code == 0
    assert mounts.call("delete_volume")["record"].name == "drive"
    assert run("volume", "show", "drive").exit_code == 10


def test_deleting_data_asks_at_a_terminal(run: Run, mounts: Mounts, environ: dict[str, str], tmp_path: Path) -> None:
    run(*CREATE)
    program = (
        "import sys; from types import ModuleType\n"
        "for part in ('control', 'admin'):\n"
        "    sys.modules[f'infinitfs.mount.{part}'] = ModuleType(part)\n"
        "sys.modules['infinitfs.mount.control'].mounted = lambda paths: []\n"
        "sys.modules['infinitfs.mount.admin'].delete_volume = lambda *arguments: print('gone')\n"
        "from infinitfs.cli.main import run; run()\n"
    )
    for answer, exit_code in (("other\n", 2), ("drive\n", 0)):
        with Console(["-c", program, "volume", "delete", "drive", "--data"], environ) as console:
            console.expect("Type the volume's name to go on: ")
            console.type(answer)
            assert console.exit_code() == exit_code
            assert ("gone\n" in console.seen) == (exit_code == 0)


def test_a_storage_and_a_user_with_a_volume_are_in_use(run: Run, mounts: Mounts) -> None:
    run(*CREATE)
    storage = run("storage", "delete", "local")
    assert storage.exit_code == 11
    assert 'the volume "drive" is on it' in storage.stderr
    user = run("user", "delete", "alice")
    assert user.exit_code == 11
    assert 'the volume "drive" belongs to it' in user.stderr


def test_status_is_that_of_the_mount(run: Run, mounts: Mounts, tmp_path: Path) -> None:
    run(*CREATE)
    missing = run("volume", "status", "drive")
    assert missing.exit_code == 10
    assert "infinitfs mount drive DIR" in missing.stderr
    run("mount", "drive", str(tmp_path / "drive"))
    assert json.loads(run("volume", "status", "drive", "--json").stdout)["backlog_bytes"] == 1_500_000
    assert "1.50 MB, 12 s left" in run("volume", "status", "drive").stdout


def test_gc_collects_itself_or_asks_the_mount(run: Run, mounts: Mounts, tmp_path: Path) -> None:
    run(*CREATE)
    assert run("gc", "drive").stdout == 'Freed 3 packs, 24.0 MB, of volume "drive".\n'
    assert mounts.call("collect_garbage")["record"].name == "drive"
    run("mount", "drive", str(tmp_path / "drive"))
    freed = run("gc", "--name", "drive", "--json").stdout
    assert json.loads(freed) == {"volume": "drive", "packs": 2, "bytes": 2048}
