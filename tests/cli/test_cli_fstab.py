"""`-o`: mount options as fstab writes them, and the helper of mount(8) that passes them on."""

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from infinitfs import systemd
from tests.support.mounts import Mounts, Run


@pytest.fixture
def drive(run: Run, mounts: Mounts, tmp_path: Path) -> Path:
    run("user", "create", "alice")
    run("storage", "create", "--filesystem", "local", "--path", str(tmp_path / "blocks"))
    assert run("volume", "create", "drive", "--storage", "local").exit_code == 0
    return tmp_path / "drive"


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ("ro", "--read-only"),
        ("ro,rw", ""),
        ("read-only", "--read-only"),
        ("cache-size=50GB,allow_other", "--cache-size 50GB --allow-other"),
        ("uid=1000,gid=100,umask=027", "--uid 1000 --gid 100 --umask 027"),
        ("fsync=remote,connections=8", "--fsync remote --connections 8"),
        ("rw,auto,noauto,user,nofail,_netdev,defaults,relatime,x-systemd.automount,X-own=1,comment=mine", ""),
        ("nodev,nosuid,exec", ""),
        ("user=alice,upload_limit=1MB", "--upload-limit 1MB"),
        ("", ""),
        ("log-file=/a\\,b", "--log-file /a,b"),
    ],
)
def test_an_option_is_its_long_option(run: Run, mounts: Mounts, drive: Path, options: str, same: str) -> None:
    for arguments in (["-o", options], [f"-o{options}"] if options else [], same.split()):
        run("mount", "drive", str(drive), *arguments)
    first, *others = [arguments["request"] for name, arguments in mounts.calls if name == "mount"]
    assert len(others) == 2
    if options:
        assert first == others[0]
    assert first == others[1]


def test_flags_of_the_kernel(run: Run, mounts: Mounts, drive: Path) -> None:
    assert run("mount", "-o", "dev,suid,noexec,ro", "drive", str(drive)).exit_code == 0
    request = mounts.call("mount")["request"]
    assert (sorted(request.flags), request.read_only) == (["dev", "noexec", "suid"], True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("ro,remount", 'There is no mount option "remount"'),
        ("cache-size", 'The mount option "cache-size" needs a value'),
        ("allow-other=yes", 'The mount option "allow-other" takes no value'),
        ("umask=9", "Invalid value for '--umask'"),
        ("name=other", 'There is no mount option "name"'),
    ],
)
def test_what_is_not_understood_is_refused(run: Run, mounts: Mounts, drive: Path, options: str, sentence: str) -> None:
    result = run("mount", "drive", str(drive), "-o", options)
    assert result.exit_code == 2 and result.stderr.startswith(sentence), result.stderr


# --- the helper ---


def call_helper(tmp_path: Path, *arguments: str, **environ: str) -> tuple[int, list[str]]:
    """The exit code of the helper and what it called: the home folder, then the arguments."""
    program = tmp_path / "a program"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$HOME" "$@"\n')
    program.chmod(0o755)
    helper = tmp_path / systemd.HELPER
    helper.write_text(systemd.helper([str(program)]))
    done = subprocess.run(
        ["sh", str(helper), *arguments], env={"PATH": os.environ["PATH"], **environ}, capture_output=True, text=True
    )
    return done.returncode, done.stdout.splitlines()


def test_the_helper_calls_mount(tmp_path: Path) -> None:
    asked = call_helper(tmp_path, "infinitfs:drive", "/my drive", "-n", "-o", "rw,_netdev,uid=1", HOME="/home/alice")
    assert asked == (0, ["/home/alice", "mount", "-o", "rw,_netdev,uid=1", "--", "drive", "/my drive"])
    assert call_helper(tmp_path, "drive", "/d", "-sv", "-t", "fuse.infinitfs", HOME="/h")[1][1:] == [
        *["mount", "-o", "defaults", "--", "drive", "/d"]
    ]


def test_the_helper_finds_the_home_that_systemd_does_not_name(tmp_path: Path) -> None:
    code, (home, *_) = call_helper(tmp_path, "drive", "/d")
    assert (code, home) == (0, pwd.getpwuid(os.getuid()).pw_dir)


def test_the_helper_fakes_and_refuses(tmp_path: Path) -> None:
    assert call_helper(tmp_path, "drive", "/d", "-f", HOME="/h") == (0, [])
    assert call_helper(tmp_path, "drive", "/d", "-N", "/proc/1/ns/mnt", HOME="/h") == (2, [])
