"""`infinitfs mount`, `unmount`, `status` and `quickstart`, over a `mount/` that only records what it is
asked."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from infinitfs.cli.quickstart import valid_name
from infinitfs.errors import MountFailed, NotDrained, VolumeOwned
from infinitfs.mount.request import MountRequest
from infinitfs.storage.account import StaticKeys
from tests.support.console import Console
from tests.support.mounts import Mounts, Run, status_of


@pytest.fixture
def drive(run: Run, mounts: Mounts, tmp_path: Path) -> Path:
    """A volume "drive", and the folder to mount it at."""
    run("user", "create", "alice")
    run("storage", "create", "--filesystem", "local", "--path", str(tmp_path / "blocks"))
    assert run("volume", "create", "drive", "--storage", "local").exit_code == 0
    return tmp_path / "drive"


@pytest.mark.parametrize("form", ["{name} {dir}", "--name {name} {dir}", "--name {name} --mountpoint {dir}"])
def test_mount_takes_the_volume_and_the_folder(run: Run, mounts: Mounts, drive: Path, form: str) -> None:
    result = run("mount", *form.format(name="drive", dir=drive).split())
    assert result.stdout == f'Mounted volume "drive" at {drive}.\n', result.stderr
    asked = mounts.call("mount")
    assert asked["request"] == MountRequest(volume="drive", directory=str(drive))
    assert (asked["foreground"], asked["account"]) == (False, None)
    assert asked["identity"].public.fingerprint in run("user", "show", "alice").stdout


def test_every_option_reaches_the_request(run: Run, mounts: Mounts, drive: Path, tmp_path: Path) -> None:
    options = (
        "--foreground --read-only --fsync remote --cache-size 5GB --memory 128MiB --backlog 1GiB"
        " --upload-limit 1MB --download-limit 2MB --connections 8 --allow-other --uid 1000 --gid 100"
        f" --umask 027 --take-over --debug --cache-dir {tmp_path}/cache --log-file {tmp_path}/log"
    )
    result = run("mount", "drive", str(drive), *options.split())
    assert (result.exit_code, result.stdout) == (0, "")
    expected: dict[str, Any] = {
        "read_only": True,
        "fsync": "remote",
        "cache_size": 5 * 10**9,
        "cache_dir": f"{tmp_path}/cache",
        "memory": 128 * 2**20,
        "upload_limit": 10**6,
        "download_limit": 2 * 10**6,
        "connections": 8,
        "allow_other": True,
        "uid": 1000,
        "gid": 100,
        "umask": 0o027,
        "take_over": True,
        "log_file": f"{tmp_path}/log",
        "debug": True,
        "backlog": 2**30,
    }
    assert mounts.call("mount")["foreground"] is True
    assert mounts.call("mount")["request"] == MountRequest(volume="drive", directory=str(drive), **expected)


@pytest.mark.parametrize("option", ["--uid", "--gid"])
def test_an_owner_is_a_number_that_somebody_can_have(run: Run, mounts: Mounts, drive: Path, option: str) -> None:
    for wrong in ("-1", str(2**32 - 1), "alice"):
        result = run("mount", "drive", str(drive), f"{option}={wrong}")
        assert result.exit_code == 2 and option in result.stderr
    assert run("mount", "drive", str(drive), f"{option}={2**32 - 2}").exit_code == 0
    assert getattr(mounts.call("mount")["request"], option[2:]) == 2**32 - 2


def test_mount_makes_paths_absolute(run: Run, mounts: Mounts, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(drive.parent)
    assert run("mount", "drive", "here").exit_code == 0
    assert mounts.call("mount")["request"].directory == str(drive.parent / "here")


def test_mount_opens_the_account_of_an_s3_storage(run: Run, mounts: Mounts, tmp_path: Path) -> None:
    run("user", "create", "alice")
    run("credentials", "add", "--aws", "s3-user", input="ID\nsecret\n")
    run(
        *[
            "storage",
            "create",
            "--s3",
            "far",
            "--account",
            "s3-user",
            "--region",
            "eu-west-1",
            "--bucket",
            "bbb",
            "--no-check",
        ]
    )
    assert run("volume", "create", "drive", "--storage", "far").exit_code == 0
    assert run("mount", "drive", str(tmp_path / "d")).exit_code == 0
    account = mounts.call("mount")["account"]
    assert isinstance(account, StaticKeys)
    assert (account.access_key_id, account.secret_access_key) == ("ID", "secret")


def test_the_user_given_must_be_the_volume_s(run: Run, mounts: Mounts, drive: Path) -> None:
    refused = run("mount", "drive", str(drive), "--as", "bob")
    assert (refused.exit_code, mounts.mountpoints) == (2, {})
    assert 'belongs to the user "alice", not to "bob"' in refused.stderr
    assert run("mount", "drive", str(drive), "--as", "alice").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Volume name unspecified (use --name)"),
        (["drive"], "Mountpoint unspecified (use --mountpoint)"),
        (["drive", "d", "--umask", "999"], "Invalid value for '--umask'"),
        (["drive", "d", "--fsync", "never"], "Invalid value for '--fsync'"),
        (["drive", "d", "--connections", "0"], "Invalid value for '--connections'"),
    ],
)
def test_what_is_missing_or_wrong_is_told(
    run: Run, mounts: Mounts, drive: Path, arguments: list[str], sentence: str
) -> None:
    result = run("mount", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(sentence)
    assert [name for name, _ in mounts.calls] == ["create_volume"]


@pytest.mark.parametrize(
    ("failure", "exit_code"),
    [
        (MountFailed(mountpoint="/d", reason="no fuse"), 16),
        (VolumeOwned(volume="drive", user="bob", host="h", mountpoint="/d", since="now"), 11),
    ],
)
def test_a_failed_mount_exits_with_its_code(
    run: Run, mounts: Mounts, drive: Path, failure: Any, exit_code: int
) -> None:
    mounts.failure = failure
    result = run("mount", "drive", str(drive))
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", f"{failure}\n")


def test_unmount_waits_for_the_end(run: Run, mounts: Mounts, drive: Path) -> None:
    run("mount", "drive", str(drive))
    assert run("unmount", str(drive)).stdout == f"Unmounted {drive}.\n"
    assert mounts.mountpoints == {}
    assert run("unmount", str(drive)).exit_code == 10


def test_unmount_says_what_was_asked_of_the_storage(
    run: Run, mounts: Mounts, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("mount", "drive", str(drive))
    (volume_id,) = mounts.mountpoints
    usage = {"put": {"count": 12, "bytes": 14_000_000, "failed": 1}, "get": {"count": 3, "bytes": 5000, "failed": 0}}
    last = status_of(volume_id, str(drive)) | {"requests": usage, "cost": 0.00123}
    monkeypatch.setattr(sys.modules["infinitfs.mount.control"], "ask", lambda paths, volume, command: iter([{}, last]))
    assert run("unmount", str(drive)).stdout == (
        f"Unmounted {drive}.\n"
        "Asked of the storage: 12 put (1 failed), 3 get; 4.00 KB up, 5.00 KB down, "
        "about $0.0012 at the prices of S3 Standard.\n"
    )
    answer = json.loads(run("unmount", str(drive), "--json").stdout)
    assert (answer["requests"], answer["cost"]) == (usage, 0.00123)


def test_unmount_says_what_could_not_be_stored(run: Run, mounts: Mounts, drive: Path) -> None:
    run("mount", "drive", str(drive))
    mounts.failure = NotDrained(bytes="5 KB", reason="offline")
    result = run("unmount", str(drive))
    assert result.exit_code == 13
    assert result.stderr.startswith("5 KB are not in the storage yet (offline)")
    assert result.stdout == ""


def test_unmount_shows_progress_at_a_terminal(environ: dict[str, str], tmp_path: Path) -> None:
    program = (
        "import sys; from types import ModuleType\n"
        "control = sys.modules['infinitfs.mount.control'] = ModuleType('control')\n"
        "control.find_mount = lambda paths, directory: 'v'\n"
        "control.ask = lambda paths, volume, command: iter(\n"
        "    {'state': 'draining', 'backlog_bytes': left, 'backlog_packs': 1} for left in (4000, 1000, 0))\n"
        "from infinitfs.cli.main import run; run()\n"
    )
    environ.update(TERM="xterm", NO_COLOR="1", COLUMNS="100")
    with Console(["-c", program, "unmount", str(tmp_path)], environ) as console:
        assert console.exit_code() == 0
        assert "Storing" in console.seen
        assert "kB" in console.seen
        assert f"Unmounted {tmp_path}." in console.seen
        assert "\x1b[3" not in console.seen  # no colour where NO_COLOR asks for none


# --- quickstart ---


def test_quickstart_makes_everything_and_says_where(run: Run, mounts: Mounts, home: Path, tmp_path: Path) -> None:
    where = tmp_path / "drive"
    result = run("quickstart", str(where))
    assert result.stdout == f"Your drive is at {where}.\n", result.stderr
    data = home / "data" / "local"
    assert data.is_dir()
    for told in (
        f"stored, encrypted, in {data}.",
        f"Stop: infinitfs unmount {where}",
        str(home / "config" / "users" / "tester.json"),
        "infinitfs user export tester --full --output tester.json",
    ):
        assert told in result.stderr
    assert mounts.call("mount")["request"] == MountRequest(volume="drive", directory=str(where))


def test_quickstart_again_mounts_again_or_finds_it_mounted(run: Run, mounts: Mounts, tmp_path: Path) -> None:
    where = tmp_path / "drive"
    run("quickstart", str(where))
    assert run("quickstart", str(where)).exit_code == 0
    assert [name for name, _ in mounts.calls] == ["create_volume", "mount"]
    other = run("quickstart", str(tmp_path / "other"))
    assert other.exit_code == 11
    assert f"it is mounted at {where}" in other.stderr
    run("unmount", str(where))
    assert run("quickstart", str(where)).exit_code == 0
    assert [name for name, _ in mounts.calls] == ["create_volume", "mount", "unmount", "mount"]


def test_quickstart_goes_on_where_it_was_interrupted(run: Run, mounts: Mounts, tmp_path: Path) -> None:
    mounts.failure = MountFailed(mountpoint="x", reason="no fuse")
    assert run("quickstart", str(tmp_path / "drive")).exit_code == 16
    assert run("user", "list", "--json").stdout.count("\n") == 1
    mounts.failure = None
    assert run("quickstart", str(tmp_path / "drive")).exit_code == 0
    assert run("user", "list", "--json").stdout.count("\n") == 1
    assert run("storage", "list", "--json").stdout.count("\n") == 1


def test_quickstart_uses_the_user_there_is(run: Run, mounts: Mounts, tmp_path: Path) -> None:
    run("user", "create", "alice")
    assert run("quickstart", str(tmp_path / "drive")).exit_code == 0
    assert mounts.call("create_volume")["user"].name == "alice"


@pytest.mark.parametrize(
    ("login", "name"),
    [
        ("alice", "alice"),
        ("DOM\\Ann Lee", "dom-ann-lee"),
        (".hidden", "hidden"),
        ("", "user"),
        ("é" * 200, "-" * 128),
    ],
)
def test_a_login_name_becomes_a_valid_user_name(login: str, name: str) -> None:
    assert valid_name(login) == name
