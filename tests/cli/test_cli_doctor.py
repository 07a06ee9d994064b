"""`infinitfs doctor`: each check well and unwell."""

import json
import os
import stat
from pathlib import Path

import pytest

from infinitfs.cli import doctor
from infinitfs.cli.doctor import (
    check_allow_other,
    check_device,
    check_folder,
    check_fusermount,
    check_mounts,
    check_permissions,
    mountpoints,
)
from tests.support.mounts import Run

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


def test_the_mount_helper() -> None:
    assert check_fusermount("/usr/bin/fusermount3", root=False).outcome == "ok"
    assert check_fusermount(None, root=False).outcome == "failed"
    assert check_fusermount(None, root=True).outcome == "warning"


@pytest.mark.parametrize(
    ("text", "outcome"), [("user_allow_other\n", "ok"), ("#user_allow_other\n", "warning"), ("", "warning")]
)
def test_mounts_for_others(tmp_path: Path, text: str, outcome: str) -> None:
    configuration = tmp_path / "fuse.conf"
    assert check_allow_other(configuration).outcome == "warning"
    configuration.write_text(text)
    assert check_allow_other(configuration).outcome == outcome


def test_permissions_of_records(run: Run, home: Path) -> None:
    run("user", "create", "alice")
    assert check_permissions(home / "config").outcome == "ok"
    record = home / "config" / "users" / "alice.json"
    record.chmod(0o644)
    finding = check_permissions(home / "config")
    assert finding.outcome == "failed"
    assert str(record) in finding.detail
    assert finding.remedy == f"chmod -R go= {home / 'config'}"


def test_space_and_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_folder("state", tmp_path / "not" / "there").outcome in ("ok", "warning")
    monkeypatch.setattr(doctor, "_ENOUGH_SPACE", 2**62)
    assert check_folder("cache", tmp_path).outcome == "warning"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert check_folder("cache", tmp_path).outcome == "failed"


def test_our_mounts_are_found_with_their_spaces() -> None:
    assert mountpoints(MOUNTINFO) == ["/home/a/my drive", "/mnt/plain"]


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


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with FUSE, whichever this is."""
    for name in ("check_device", "check_fusermount", "check_allow_other", "check_folder", "check_mounts"):
        monkeypatch.setattr(doctor, name, lambda *_, name=name, **__: doctor.Finding(name, "ok", "fine"))


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
