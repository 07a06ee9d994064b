"""What the options of a mount change, seen by programs and by other users of the machine."""

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import PATIENCE, VOLUME, Home, needs_fuse

pytestmark = needs_fuse

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that other users may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def open_drive(outside: Path) -> Path:
    """Where to mount so that other users find the way; to be asked for before `home`, so that it goes after it."""
    return outside / "drive"


def as_nobody(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return subprocess.run(
        [*become, "sh", "-c", script], cwd=directory.parent, capture_output=True, text=True, timeout=PATIENCE
    )


def test_read_only_and_what_df_shows(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)
    (drive / "file").write_bytes(b"content")
    space = os.statvfs(drive)
    assert space.f_namemax == 255 and space.f_bsize == 4096
    assert space.f_blocks * space.f_frsize == 2**50 and space.f_bavail == space.f_bfree <= space.f_blocks
    mounted.unmount()
    mounted = home.mount(drive, "--read-only")
    assert mounted.status()["state"] == "read-only"
    assert (drive / "file").read_bytes() == b"content"
    for change in (
        lambda: (drive / "file").open("r+b"),
        lambda: (drive / "file").unlink(),
        lambda: (drive / "folder").mkdir(),
        lambda: (drive / "file").chmod(0o600),
        lambda: os.setxattr(drive / "file", "user.mood", b"good"),
    ):
        with pytest.raises(OSError) as refusal:
            change()
        assert refusal.value.errno == errno.EROFS
    mounted.unmount()
    mounted = home.mount(drive)
    (drive / "file").unlink()
    mounted.unmount()


def test_uid_gid_and_umask_change_what_is_shown(home: Home, drive: Path) -> None:
    mounted = home.mount(drive, "--uid", "1234", "--gid", "5678", "--umask", "027")
    (drive / "file").touch()
    (drive / "file").chmod(0o4777)
    (drive / "folder").mkdir(mode=0o777)
    for path, mode in ((drive / "file", 0o4750), (drive / "folder", 0o750), (drive, 0o750)):
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 5678, mode), path
    mounted.unmount()
    mounted = home.mount(drive)
    status = (drive / "file").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.getuid(), 0o4777), "what is stored is what was meant"
    mounted.unmount()


@needs_root
def test_other_users_are_kept_out(open_drive: Path, home: Home) -> None:
    mounted = home.mount(open_drive)
    (open_drive / "file").write_text("mine")
    done = as_nobody("cat drive/file", open_drive)
    assert done.returncode != 0 and "Permission denied" in done.stderr and done.stdout == ""
    mounted.unmount()


@needs_root
def test_other_users_are_let_in_as_far_as_permissions_go(open_drive: Path, home: Home) -> None:
    mounted = home.mount(open_drive, "--allow-other")
    (open_drive / "public").write_text("for all")
    (open_drive / "private").write_text("mine")
    (open_drive / "private").chmod(0o600)
    (open_drive / "shared").mkdir()
    (open_drive / "shared").chmod(0o1777)
    assert as_nobody("cat drive/public", open_drive).stdout == "for all"
    assert "Permission denied" in as_nobody("cat drive/private", open_drive).stderr
    assert "Permission denied" in as_nobody("touch drive/new", open_drive).stderr
    done = as_nobody("umask 027; echo theirs > drive/shared/new && chmod 4750 drive/shared/new", open_drive)
    assert done.returncode == 0, done.stderr
    status = (open_drive / "shared" / "new").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (NOBODY, NOBODY, 0o4750)
    (open_drive / "shared" / "mine").touch()
    assert as_nobody("rm -f drive/shared/mine", open_drive).returncode != 0, "the sticky bit counts"
    mounted.unmount()


@needs_root
def test_a_change_by_another_user_clears_the_set_id_bits(open_drive: Path, home: Home) -> None:
    changes = {"emptied": ": >", "appended": "echo more >>", "truncated": "truncate -s 1"}
    mounted = home.mount(open_drive, "--allow-other")
    for name, change in changes.items():
        program = open_drive / name
        program.write_text("contents")
        program.chmod(0o6777)
        done = as_nobody(f"{change} drive/{name}", open_drive)
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE(program.stat().st_mode) == 0o777, name
    mounted.unmount()
    mounted = home.mount(open_drive)
    for name in changes:
        assert stat.S_IMODE((open_drive / name).stat().st_mode) == 0o777, name
    mounted.unmount()


def test_files_on_this_machine_are_private(home: Home, drive: Path, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        mounted = home.mount(drive, "--log-file", str(tmp_path / "log"))
    finally:
        os.umask(previous)
    (drive / "file").write_text("content")
    mounted.status()
    for folder in (home.root / "state", home.root / "cache", home.root / "run"):
        for path in (folder, *folder.rglob("*")):
            mode = stat.S_IMODE(path.lstat().st_mode)
            assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
    mounted.unmount()
    assert "is mounted at" in (tmp_path / "log").read_text()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_what_cannot_be_mounted(home: Home, drive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in home.refused(16, "mount", VOLUME, str(tmp_path / "file"))
    assert "no-such-volume" in home.refused(10, "mount", "no-such-volume", str(drive))
