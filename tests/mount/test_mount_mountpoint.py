"""The folder of a mount, and why it cannot be unmounted: fusermount3 in the test's words."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infinitfs.cli.mount import mountpoint_of
from infinitfs.errors import InUse, MountFailed, UnmountFailed
from infinitfs.mount import mountpoint
from infinitfs.mount.mountinfo import Mount, on_top

Fusermount = Callable[[str], None]


@pytest.fixture
def fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fusermount:
    """`fusermount("script")`: what fusermount3 does from now on."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")

    def does(script: str) -> None:
        (folder / "fusermount3").write_text(f"#!/bin/sh\necho \"$@\" >>'{tmp_path}/calls'\n{script}\n")
        (folder / "fusermount3").chmod(0o755)

    return does


def mounted_by(monkeypatch: pytest.MonkeyPatch, answers: list[bool]) -> None:
    monkeypatch.setattr(mountpoint, "is_mounted", lambda directory: answers.pop(0))


def test_a_program_that_uses_the_folder(fusermount: Fusermount, monkeypatch: pytest.MonkeyPatch) -> None:
    fusermount("echo 'fusermount3: failed to unmount /d: Device or resource busy' >&2; exit 1")
    mounted_by(monkeypatch, [True])
    with pytest.raises(InUse, match="close what uses it") as error:
        mountpoint.unmount(Path("/d"))
    assert "(failed to unmount /d: Device or resource busy)" in str(error.value)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'fusermount3: failed to unmount /d: Operation not permitted' >&2; exit 1", "Operation not permitted"),
        ("exit 7", "exit status 7"),
    ],
)
def test_what_else_goes_wrong_is_not_called_busy(
    fusermount: Fusermount, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    fusermount(script)
    mounted_by(monkeypatch, [True])
    with pytest.raises(UnmountFailed, match=reason) as error:
        mountpoint.unmount(Path("/d"))
    assert error.value.exit_code == 16


def test_no_fusermount3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnmountFailed, match="apt install fuse3"):
        mountpoint.unmount(tmp_path)


def test_what_is_unmounted_already_is_done(fusermount: Fusermount, tmp_path: Path) -> None:
    fusermount("echo 'fusermount3: entry for /d not found in /etc/mtab' >&2; exit 1")
    mountpoint.unmount(tmp_path)
    mountpoint.unmount(tmp_path, lazy=True)
    assert (tmp_path / "calls").read_text() == f"-u -- {tmp_path}\n-u -z -- {tmp_path}\n"


def test_killed_mounts_are_cleared_layer_by_layer(
    fusermount: Fusermount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fusermount("exit 0")
    looks = iter([errno.ENOTCONN, errno.ENOTCONN, None])
    scandir = os.scandir

    def look(path: Path) -> "os._ScandirIterator[str]":
        code = next(looks)
        if code is not None:
            raise OSError(code, os.strerror(code))
        return scandir(str(path))

    monkeypatch.setattr("infinitfs.mount.mountpoint.os.scandir", look)
    mountpoint.prepare(tmp_path / "new" / "drive")
    assert (tmp_path / "new" / "drive").is_dir()
    assert (tmp_path / "calls").read_text().count("-z") == 2


def test_what_a_folder_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MountFailed, match=r"File exists|Not a directory"):
            mountpoint.prepare(path)
    mounted_by(monkeypatch, [True, True])
    with pytest.raises(InUse, match="something is mounted there"):
        mountpoint.prepare(tmp_path)


def test_the_kernel_s_table_decides(tmp_path: Path) -> None:
    assert mountpoint.is_mounted(Path("/proc"))
    assert not mountpoint.is_mounted(tmp_path)
    (tmp_path / "to").symlink_to("/")
    assert mountpoint.is_mounted(tmp_path / "to" / "proc")


def test_an_automount_that_waits_is_no_mount(tmp_path: Path) -> None:
    table = (
        "31 24 0:41 / /mnt/my\\040drive rw - autofs systemd-1 rw,direct\n"
        "32 24 0:42 / /mnt/other rw shared:3 master:1 - fuse.infinitfs infinitfs:drive rw\n"
        "33 24 0:42 / /mnt/other rw - autofs systemd-1 rw\n"
    )
    (tmp_path / "mountinfo").write_text(table)
    assert on_top("/mnt/my drive", tmp_path / "mountinfo") == Mount("/mnt/my drive", "0:41", "autofs", "systemd-1")
    last = on_top("/mnt/other", tmp_path / "mountinfo")
    assert last is not None and last.type == "autofs", "the last one is on top"
    assert on_top("/mnt/my", tmp_path / "mountinfo") is None


def test_without_a_connection_nothing_is_connected(tmp_path: Path) -> None:
    assert not mountpoint.is_connected()
    mountpoint.write_back(tmp_path)
    mountpoint.write_back(tmp_path / "missing")


def test_links_are_followed_to_what_is_mounted_and_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "second").symlink_to("folder")
    (tmp_path / "first").symlink_to(tmp_path / "folder" / ".." / "second")
    assert mountpoint_of(str(tmp_path / "first")) == tmp_path / "folder"
    monkeypatch.setattr(mountpoint, "is_mounted", lambda directory: directory == tmp_path / "second")
    assert mountpoint_of(str(tmp_path / "first")) == tmp_path / "second"
    (tmp_path / "itself").symlink_to("itself")
    assert mountpoint_of(str(tmp_path / "itself")) == tmp_path / "itself"
