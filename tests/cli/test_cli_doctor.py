"""`infinitfs doctor`: each check well and unwell."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infinitfs import __version__
from infinitfs.cli import doctor
from infinitfs.cli.doctor import (
    check_allow_other,
    check_clock,
    check_device,
    check_folder,
    check_fusermount,
    check_limits,
    check_mounts,
    check_permissions,
    check_state,
    check_unit,
    check_units,
    mountpoints,
    units,
)
from infinitfs.errors import MountSilent
from tests.support.mounts import Mounts, Run, status_of

VOLUME = "6472697665".ljust(32, "0")

MOUNTINFO = (
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "40 22 0:50 / /home/a/my\\040drive rw,nosuid - fuse.infinitfs drive rw,user_id=0\n"
    "41 22 0:51 / /mnt/other rw,nosuid - fuse.sshfs host: rw\n"
    "42 22 0:52 / /mnt/plain rw,nosuid shared:5 - fuse infinitfs rw\n"
)


def test_the_device(tmp_path: Path) -> None:
    device = tmp_path / "fuse"
    missing = check_device(device)
    assert (missing.outcome, missing.remedy) == ("failed", "load the module: modprobe fuse")
    device.touch()
    assert check_device(device).outcome == "ok"


def test_the_mount_helper(tmp_path: Path) -> None:
    helper = tmp_path / "fusermount3"
    helper.touch(mode=0o755)
    assert check_fusermount(str(helper), root=True).outcome == "ok"
    plain = check_fusermount(str(helper), root=False)
    assert (plain.outcome, plain.remedy) == ("failed", f"chmod u+s {helper}, as root")
    helper.chmod(0o4755)
    assert check_fusermount(str(helper), root=False).outcome == "ok"
    for root in (True, False):
        assert check_fusermount(None, root=root).outcome == "failed"


@pytest.mark.parametrize(
    ("text", "outcome"), [("user_allow_other\n", "ok"), ("#user_allow_other\n", "warning"), ("", "warning")]
)
def test_mounts_for_others(tmp_path: Path, text: str, outcome: str) -> None:
    configuration = tmp_path / "fuse.conf"
    assert check_allow_other(configuration).outcome == "warning"
    configuration.write_text(text)
    assert check_allow_other(configuration).outcome == outcome


@pytest.mark.parametrize(
    ("limited", "soft", "remedy"),
    [
        (resource.RLIMIT_NOFILE, 256, "ulimit -n 4096, then mount"),
        (resource.RLIMIT_FSIZE, 2**40, "ulimit -f unlimited, then mount"),
        (resource.RLIMIT_AS, 2**28, "ulimit -v unlimited, then mount"),
        (resource.RLIMIT_NOFILE, 1024, ""),
        (resource.RLIMIT_AS, 2**33, ""),
    ],
)
def test_limits_of_a_process(limited: int, soft: int, remedy: str) -> None:
    def limit(what: int) -> tuple[int, int]:
        return (soft if what == limited else resource.RLIM_INFINITY), resource.RLIM_INFINITY

    finding = check_limits(limit)
    assert (finding.outcome, finding.remedy) == ("warning" if remedy else "ok", remedy)


def test_the_clock() -> None:
    assert check_clock(0).outcome == "ok"
    unkept = check_clock(5)
    assert unkept.outcome == "warning" and unkept.remedy


def test_permissions_of_records(run: Run, home: Path) -> None:
    run("user", "create", "alice")
    assert check_permissions(home / "config").outcome == "ok"
    record = home / "config" / "users" / "alice.json"
    record.chmod(0o644)
    finding = check_permissions(home / "config")
    assert finding.outcome == "failed"
    assert str(record) in finding.detail
    assert finding.remedy == f"chmod -R go= {home / 'config'}"


def test_records_of_another_user(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("user", "create", "alice")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    finding = check_permissions(home / "config")
    assert finding.outcome == "failed"
    assert "belongs to another user" in finding.detail and finding.remedy


def test_space_and_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_folder("state", tmp_path / "not" / "there").outcome in ("ok", "warning")
    monkeypatch.setattr(doctor, "_ENOUGH_SPACE", 2**62)
    assert check_folder("cache", tmp_path).outcome == "warning"
    monkeypatch.setattr(doctor, "_ENOUGH_SPACE", 0)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=9, f_frsize=4096, f_files=1000, f_favail=3))
    assert check_folder("cache", tmp_path).detail == f"3 more files fit in {tmp_path}"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert check_folder("cache", tmp_path).outcome == "failed"


def test_our_mounts_are_found_with_their_spaces(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    assert mountpoints(tmp_path / "mountinfo") == ["/home/a/my drive", "/mnt/plain"]


def test_a_dead_and_a_hanging_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    assert check_mounts([]).detail == "none"
    assert check_mounts([str(tmp_path)]).outcome == "ok"
    gone = check_mounts([str(tmp_path / "gone")])
    assert gone.outcome == "failed"
    assert gone.remedy.startswith(f"fusermount3 -u -z {tmp_path / 'gone'}")
    # A `stat` that never answers, as one on a hanging mount does.
    slow = tmp_path / "stat"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "_PATIENCE", 0.2)
    assert "does not answer" in check_mounts([str(tmp_path)]).detail
    # What waits for a mount that took its question cannot even be killed.
    left: list[subprocess.Popen[str]] = []
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: left.append(process))
    assert "does not answer" in check_mounts([str(tmp_path)]).detail
    for process in left:
        process.terminate()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.usefixtures("healthy")
def test_records_that_cannot_be_read_end_no_examination(run: Run, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "storages").touch()  # as unreadable to root as the folder of another user is to others
    result = run("doctor")
    assert result.exit_code == 1 and "Unexpected" not in result.stderr
    assert "failed   records: one cannot be read" in result.stdout
    assert "mounts: " in result.stdout


# --- mounts ---


def test_a_mount_s_own_account() -> None:
    state = status_of(VOLUME, "/d")
    well = check_state({**state, "version": __version__})
    assert (well.check, well.outcome, well.detail) == ("mount drive", "ok", f"ready at /d, version {__version__}")
    other = check_state({**state, "version": "0.0.1"})
    assert (other.outcome, other.remedy) == ("warning", "infinitfs unmount /d, then mount again")
    older = {name: value for name, value in state.items() if name != "version"}
    assert check_state(older).detail == f"runs version an older one, installed is {__version__}"
    away = check_state({**state, "state": "offline", "trouble": "It cannot be reached: check the network."})
    assert (away.outcome, away.detail, away.remedy) == ("failed", "offline", "It cannot be reached: check the network.")


@pytest.mark.usefixtures("healthy")
def test_mounts_are_asked(run: Run, mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts.mountpoints[VOLUME] = "/d"
    assert "mount drive: " in run("doctor").stdout

    def silent(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        raise MountSilent(reason="nothing came in 10 s")

    monkeypatch.setattr(sys.modules["infinitfs.mount.control"], "ask", silent)
    result = run("doctor")
    assert result.exit_code == 1
    assert f"failed   mount {VOLUME}: says nothing\n         what to do: The mount does not answer" in result.stdout


def test_units() -> None:
    shown = (
        "Id=infinitfs@a.service\nActiveState=active\nSubState=running\nNeedDaemonReload=no\n\n"
        "Id=infinitfs@b.service\nActiveState=failed\nSubState=failed\nNeedDaemonReload=no\n\n"
        "Id=infinitfs@c.service\nActiveState=activating\nSubState=auto-restart\nNeedDaemonReload=no\n\n"
        "Id=infinitfs@d.service\nActiveState=active\nSubState=running\nNeedDaemonReload=yes\n"
    )
    well, failed, again, changed = (check_unit(unit) for unit in units(shown))
    assert (well.check, well.outcome, well.detail) == ("unit infinitfs@a.service", "ok", "active")
    assert failed.remedy.startswith("journalctl -u infinitfs@b.service")
    assert (again.outcome, again.detail) == ("failed", "it fails again and again")
    assert (changed.outcome, changed.remedy) == ("warning", "systemctl daemon-reload")
    assert check_unit(units(shown)[3], "--user").remedy == "systemctl --user daemon-reload"
    assert units("") == []


def test_without_systemd_nothing_is_said_of_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert list(check_units(root=True)) == []


# --- all of it ---


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with FUSE, whichever this is."""
    machine = ("check_device", "check_fusermount", "check_allow_other", "check_limits", "check_clock")
    for name in (*machine, "check_folder", "check_mounts"):
        monkeypatch.setattr(doctor, name, lambda *_, name=name, **__: doctor.Finding(name, "ok", "fine"))
    monkeypatch.setattr(doctor, "check_units", lambda **_: ())


@pytest.mark.usefixtures("healthy")
def test_all_is_well_then_a_storage_goes(run: Run, tmp_path: Path) -> None:
    run("user", "create", "alice")
    folder = tmp_path / "blocks"
    run("storage", "create", "--filesystem", "local", "--path", str(folder))
    well = run("doctor")
    assert well.exit_code == 0, well.stdout
    assert "storage local" in well.stdout
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    unwell = run("doctor", "--json")
    assert unwell.exit_code == 1
    (bad,) = [row for row in map(json.loads, unwell.stdout.splitlines()) if row["outcome"] != "ok"]
    assert (bad["check"], bad["outcome"]) == ("storage local", "failed")
    assert bad["remedy"]


@pytest.mark.usefixtures("healthy")
def test_a_key_that_needs_a_passphrase_is_not_asked_for(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("x")
    run("user", "create", "alice", "--passphrase-file", str(file))
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
    result = run("doctor")
    assert result.exit_code == 0
    assert "not checked" in result.stdout


@pytest.mark.usefixtures("healthy")
def test_a_damaged_record_is_a_finding_among_others(run: Run, home: Path) -> None:
    run("user", "create", "alice")
    (home / "config" / "users" / "alice.json").write_text("{")
    result = run("doctor", "--json")
    assert result.exit_code == 1
    rows = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert rows["records"]["outcome"] == "failed"
    assert "alice.json" in rows["records"]["remedy"]
    assert rows["permissions"]["outcome"] == "ok"


@pytest.mark.usefixtures("healthy")
def test_a_key_that_may_not_write(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def rights(*_: Any) -> dict[str, bool]:
        return {"list": True, "read": True, "write": False, "delete": False}

    monkeypatch.setattr("infinitfs.storage.probe_s3.rights", rights)
    run("user", "create", "alice")
    run("credentials", "add", "--aws", "s3-user", input="ID\nsecret\n")
    where = ("--account", "s3-user", "--region", "eu-west-1", "--bucket", "bbb")
    run("storage", "create", "--s3", "far", *where, "--no-check")
    result = run("doctor")
    assert result.exit_code == 1
    assert "failed   storage far: the key may not write, delete" in result.stdout
    assert "`infinitfs storage policy far` prints" in result.stdout
