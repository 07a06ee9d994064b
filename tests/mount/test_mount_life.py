"""The life of a mount: started, asked, unmounted in every way there is, killed, started again."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from infinitfs.config.paths import Paths
from infinitfs.errors import InUse
from infinitfs.mount import mountpoint
from infinitfs.mount.control import ask, find_mount
from tests.support.mounted import PATIENCE, PROGRAM, STORAGE, VOLUME, Home, needs_fuse, wait_until

pytestmark = needs_fuse


def test_mount_status_unmount(home: Home, drive: Path, store: Path) -> None:
    mounted = home.mount(drive)
    (drive / "hello").write_text("world")
    status = mounted.status()
    assert (status["volume"], status["mountpoint"], status["pid"]) == (VOLUME, str(drive), mounted.pid)
    assert status["state"] == "ready"
    mounted.unmount()
    assert not drive.is_mount() and list(drive.iterdir()) == []
    assert list(store.glob("*/packs/*/*")), "a pack is in the storage when unmount returns"
    assert home.run("status") == ""
    mounted = home.mount(drive)
    assert (drive / "hello").read_text() == "world"
    mounted.unmount()


def test_a_volume_under_another_name_here(
    home: Home, drive: Path, store: Path, tmp_path: Path, new_home: Callable[[str], Home]
) -> None:
    """This machine has a volume of the same name."""
    mounted = home.mount(drive)
    (drive / "hello").write_text("world")
    mounted.unmount()
    here, other = new_home("here"), "other-drive"
    shutil.copytree(home.root / "config", here.root / "config")
    record = here.root / "config" / "volumes" / f"{VOLUME}.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"volume": "ab" * 16}))
    here.refused(11, "volume", "fetch", "--storage", STORAGE)
    here.run("volume", "fetch", "--storage", STORAGE, "--name", VOLUME, "--local-name", other)

    mounted = here.mount(drive, volume=other)
    assert (drive / "hello").read_text() == "world"
    assert mounted.status()["volume"] == other
    assert json.loads(here.run("volume", "status", other, "--json"))["mountpoint"] == str(drive)
    assert f'"{other}" is already open' in here.refused(11, "mount", other, str(tmp_path / "second"))
    assert f"mount {other}: " in here.attempt("doctor")[1]
    here.run("gc", other)
    mounted.unmount()
    here.run("gc", other)
    here.run("volume", "delete", other, "--data", input=f"{other}\n")
    assert [path for path in store.glob("*/**/*") if path.is_file()] == []
    assert VOLUME in here.run("volume", "list")


def test_what_replaces_a_file_is_all_that_is_left_of_it(home: Home, drive: Path) -> None:
    """O_TRUNC, truncate and rename over something longer that is stored already."""
    ways = ("opened", "truncated", "renamed", "emptied")
    mounted = home.mount(drive)
    for name in ways:
        (drive / name).write_bytes(os.urandom(1 << 20))
    mounted.unmount()
    mounted = home.mount(drive)
    (drive / "opened").write_bytes(b"short")
    with (drive / "truncated").open("r+b") as file:
        file.truncate(0)
        file.write(b"short")
    (drive / "new").write_bytes(b"short")
    (drive / "new").rename(drive / "renamed")
    (drive / "emptied").open("wb").close()
    mounted.unmount()
    mounted = home.mount(drive)
    assert {name: (drive / name).read_bytes() for name in ways} == dict.fromkeys(ways, b"short") | {"emptied": b""}
    mounted.unmount()


def test_status_finds_the_mount_by_every_path_to_it(home: Home, drive: Path, tmp_path: Path) -> None:
    mounted = home.mount(drive)
    (tmp_path / "link").symlink_to(drive)
    (tmp_path / "beside").mkdir()
    for path in (f"{drive}/", str(tmp_path / "link"), str(tmp_path / "beside" / ".." / "drive"), "../drive"):
        assert json.loads(home.run("status", path, "--json"))["pid"] == mounted.pid, path
    assert "not found" in home.refused(10, "status", str(tmp_path / "beside"))
    mounted.unmount()


def test_a_link_is_mounted_at_where_it_leads(home: Home, drive: Path, tmp_path: Path) -> None:
    """The kernel's table names the folder: by the link's name nothing would be found there."""
    link = tmp_path / "link"
    link.symlink_to(drive)
    drive.mkdir()
    assert str(drive) in home.run("mount", VOLUME, str(link))
    (link / "file").write_text("kept")
    assert json.loads(home.run("status", str(drive), "--json"))["mountpoint"] == str(drive)
    mounted = home.mounted(drive)
    home.run("unmount", str(link))
    assert not drive.is_mount()
    mounted.wait()


def test_status_answers_while_programs_are_busy(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)
    with subprocess.Popen(
        ["cp", "-a", "/usr/lib/python3.11/asyncio", "/usr/lib/python3.11/email", str(drive)]
    ) as copying:
        while copying.poll() is None:
            assert mounted.status()["state"] == "ready"
    assert copying.returncode == 0
    assert mounted.status()["state"] == "ready"
    mounted.unmount()


def test_unmount_of_a_busy_folder_is_refused_and_then_works(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)
    with (drive / "open").open("w") as file:
        file.write("still ")
        file.flush()
        sentence = home.refused(11, "unmount", str(drive))
        assert str(drive) in sentence and "close what uses it" in sentence
        assert mounted.status()["state"] == "ready"
        file.write("written")
    assert (drive / "open").read_text() == "still written"
    mounted.unmount()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a mount namespace")
def test_unmount_tells_of_another_namespace_that_holds_the_mount(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)
    (drive / "file").write_bytes(b"content")
    # Mounts of other tests that run now are let go of: they, too, have a copy in the new namespace.
    others = 'while read _ place type _; do [ "$type$place" = "fuse.infinitfs${place#$0}" ] && umount -l "$place"; done'
    holding = ["unshare", "--mount", "--propagation", "private"]
    holding += ["sh", "-c", f"{others} </proc/self/mounts; echo; read line", str(drive)]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            mounted.unmount()
            pytest.skip("no mount namespace can be made here (the root of a plain chroot is no mount)")
        for _ in range(2):
            assert "still has it" in home.refused(11, "unmount", str(drive))
        assert not drive.is_mount()
        holder.communicate(b"\n", timeout=PATIENCE)
    mounted.wait()
    assert "Everything is in the storage." in home.log
    mounted = home.mount(drive)
    assert (drive / "file").read_bytes() == b"content"
    mounted.unmount()


def test_unmount_returns_once_the_volume_is_free(home: Home, drive: Path, store: Path) -> None:
    """What has to be stored, to give the volume up, too, is there when the command returns: here a watcher asks."""
    paths = Paths.from_environment(home.environ)
    mounted = home.mount(drive)
    (drive / "file").write_bytes(b"content")
    states = [step["state"] for step in ask(paths, find_mount(paths, drive), "unmount")]
    assert set(states) <= {"ready", "draining"}
    journal = sorted(store.glob("*/journal/*"))
    lock = os.open(next((home.root / "state").glob("*/lock")), os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)
    mounted.wait()
    assert sorted(store.glob("*/journal/*")) == journal


def test_a_mount_that_hangs_is_in_use(home: Home, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = home.mount(drive)
    monkeypatch.setattr(mountpoint, "_PATIENCE", 0.5)
    mounted.signal(signal.SIGSTOP)
    with pytest.raises(InUse, match="does not answer"):
        mountpoint.prepare(drive)
    mounted.signal(signal.SIGCONT)
    mounted.unmount()


def test_a_folder_that_cannot_be_mounted_at_says_why(home: Home, drive: Path) -> None:
    """Without the right to mount, as in a container."""
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if os.geteuid() == 0:
        done = subprocess.run(
            [*powerless, *PROGRAM, "mount", VOLUME, str(drive)],
            env=home.environ,
            cwd=home.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        home.expect("Cannot mount at")
        assert done.returncode == 16 and done.stderr.startswith(f"Cannot mount at {drive}:"), done.stderr
    home.mount(drive).unmount()


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]], ids=["umount", "fusermount3"])
def test_plain_umount_drains(home: Home, drive: Path, command: list[str]) -> None:
    mounted = home.mount(drive)
    data = os.urandom(3 << 20)
    (drive / "file").write_bytes(data)
    subprocess.run([*command, str(drive)], check=True, timeout=PATIENCE)
    mounted.wait()
    assert "Everything is in the storage." in home.log
    mounted = home.mount(drive)
    assert (drive / "file").read_bytes() == data
    mounted.unmount()


@pytest.mark.parametrize("asked", ["unmount", "SIGTERM"])
def test_a_patient_drain_ends_once_somebody_asks(home: Home, drive: Path, store: Path, long: bool, asked: str) -> None:
    """umount(8) while the storage is away: the process goes on trying, until it is told to say how it went."""
    if not long:
        pytest.skip("takes a minute: MOUNT_TESTS=long runs it")
    home.expect("failed to|cannot be reached|not in the storage yet")
    mounted = home.mount(drive)
    store.rename(store.with_name("away"))
    (drive / "file").write_bytes(b"kept")
    subprocess.run(["umount", str(drive)], check=True, timeout=PATIENCE)
    wait_until(lambda: mounted.status()["state"] == "draining", "draining")
    if asked == "unmount":
        with home.start("unmount", str(drive)) as given_up:
            given_up.send_signal(signal.SIGINT)
        assert not mounted.over
        with home.start("unmount", str(drive)) as command:
            assert "not in the storage yet" in command.communicate(timeout=2 * PATIENCE)[1]
        assert command.returncode == 13
    else:
        mounted.signal(signal.SIGTERM)
    mounted.wait()
    store.with_name("away").rename(store)
    mounted = home.mount(drive)
    assert (drive / "file").read_bytes() == b"kept"
    mounted.unmount()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_code_is_zero(home: Home, drive: Path, number: signal.Signals) -> None:
    """In the foreground, where the exit code can be seen."""
    with home.start("mount", VOLUME, str(drive), "--foreground") as process:
        wait_until(drive.is_mount, "mounting")
        home.mounted(drive)
        (drive / "file").write_bytes(b"x" * 100_000)
        process.send_signal(number)
        output, log = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "")
    assert "Everything is in the storage." in log and "ERROR" not in log and "WARNING" not in log
    assert not drive.is_mount()
    mounted = home.mount(drive)
    assert (drive / "file").stat().st_size == 100_000
    mounted.unmount()


def test_a_killed_mount_is_cleared_and_loses_nothing_synced(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)
    data = os.urandom(2 << 20)
    with (drive / "synced").open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    mounted.kill()
    with pytest.raises(OSError, match="not connected"):
        drive.stat()
    assert home.run("status") == ""
    assert "not found" in home.refused(10, "unmount", str(drive))
    mounted = home.mount(drive)
    assert (drive / "synced").read_bytes() == data
    transfer = mounted.transfer()
    assert transfer is not None
    home.expect("the transfer process ended")
    os.kill(transfer, signal.SIGKILL)
    mounted.kill()
    mounted = home.mount(drive)
    assert (drive / "synced").read_bytes() == data
    mounted.unmount()


def test_the_transfer_process_may_be_killed(home: Home, drive: Path) -> None:
    home.expect("the transfer process ended")
    mounted = home.mount(drive)
    data = os.urandom(20 << 20)
    (drive / "file").write_bytes(data)
    for _ in range(2):
        killed = mounted.transfer()
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda dead=killed: mounted.transfer() not in (None, dead), "another transfer process")  # type: ignore[misc]
        (drive / "more").write_bytes(data[: 1 << 20])
    mounted.unmount()
    mounted = home.mount(drive, "--cache-dir", str(home.folder / "empty"))
    assert (drive / "file").read_bytes() == data
    mounted.unmount()


def test_unlinked_files_live_until_closed_and_end_with_a_kill(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)

    def inodes() -> int:
        space = os.statvfs(drive)
        return space.f_files - space.f_ffree

    before = inodes()
    with (drive / "gone").open("w+b") as file:
        file.write(b"before" * 1000)
        (drive / "gone").unlink()
        assert list(drive.iterdir()) == [] and os.fstat(file.fileno()).st_nlink == 0
        file.write(b"after" * 1000)
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"before" * 1000 + b"after" * 1000
        assert inodes() == before + 1
    wait_until(lambda: inodes() == before, "the end of the closed file")
    left = os.open(drive / "left", os.O_CREAT | os.O_RDWR)
    os.write(left, b"left" * 1000)
    (drive / "left").unlink()
    os.fsync(left)
    assert inodes() == before + 1
    mounted.kill()
    with suppress(OSError):
        os.close(left)  # there is nobody left to tell
    mounted = home.mount(drive)
    assert inodes() == before and list(drive.iterdir()) == []
    mounted.unmount()


def test_mounting_twice_is_refused(home: Home, drive: Path, tmp_path: Path) -> None:
    mounted = home.mount(drive)
    assert "something is mounted there" in home.refused(11, "mount", VOLUME, str(drive))
    sentence = home.refused(11, "mount", VOLUME, str(tmp_path / "elsewhere"))
    assert f"process {mounted.pid}" in sentence and VOLUME in sentence
    home.expect("is already open on this machine")
    assert mounted.status()["state"] == "ready"
    mounted.unmount()


def test_quickstart_twice(home: Home, drive: Path, tmp_path: Path) -> None:
    """From nothing; again where it is mounted; again after an end."""
    for path in (home.root / "config").rglob("*.json"):
        path.unlink()
    assert home.run("quickstart", str(drive)).strip() == f"Your drive is at {drive}."
    mounted = home.mounted(drive)
    (drive / "note").write_text("kept")
    home.run("quickstart", str(drive))
    assert mounted.status()["pid"] == mounted.pid
    assert "it is mounted at" in home.refused(11, "quickstart", str(tmp_path / "elsewhere"))
    mounted.unmount()
    home.run("quickstart", str(drive))
    assert (drive / "note").read_text() == "kept"
    mounted = home.mounted(drive)
    os.kill(mounted.transfer() or 0, signal.SIGSTOP)
    (drive / "note").write_text("kept on")
    subprocess.run(["umount", str(drive)], check=True, timeout=PATIENCE)
    assert "it was unmounted" in home.refused(11, "quickstart", str(drive)), "and nobody writes into the bare folder"
    os.kill(mounted.transfer() or 0, signal.SIGCONT)
    mounted.wait()


def test_a_mount_that_may_not_write_leaves_a_backlog_alone(home: Home, drive: Path) -> None:
    home.expect("nothing was ever written")
    assert "nothing was ever written" in home.refused(16, "mount", VOLUME, str(drive), "--read-only")
    mounted = home.mount(drive, "--upload-limit", "1KB")
    with (drive / "file").open("wb") as file:
        file.write(os.urandom(100_000))
        os.fsync(file.fileno())
    content = (drive / "file").read_bytes()
    mounted.kill()
    mounted = home.mount(drive, "--read-only")
    assert (drive / "file").read_bytes() == content
    assert mounted.status()["backlog_bytes"] > 0
    assert "it was mounted read-only" in home.refused(1, "gc", VOLUME)
    mounted.unmount()
    mounted.wait()
    mounted = home.mount(drive)
    assert (drive / "file").read_bytes() == content
    mounted.unmount()
