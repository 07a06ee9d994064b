"""Units, mount(8), fstab and automounts in a real systemd.

Runs with MOUNT_TESTS=long, as root, where debootstrap and systemd-nspawn are: it installs a Debian, boots it, and is
done after some five minutes. SYSTEMD_TREE=FOLDER keeps that Debian for the next time.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import Machine, install_debian, obstacle

UNIT = "infinitfs@drive.service"
DRIVE = "/srv/drive"
SETTINGS = f"/etc/systemd/system/{UNIT}.d/test.conf"

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.environ.get("MOUNT_TESTS") != "long", reason="takes minutes: MOUNT_TESTS=long runs it"),
    pytest.mark.skipif(obstacle() is not None, reason=f"no machine can be made here: {obstacle()}"),
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the volumes "drive" and "second" of root, and a unit for the first."""
    folder = tmp_path_factory.mktemp("machine")
    kept = os.environ.get("SYSTEMD_TREE")
    tree = Path(kept) if kept else folder / "tree"
    if not (tree / "home" / "alice").exists():
        install_debian(tree)
    root = folder / "root"
    subprocess.run(["cp", "-a", tree, root], check=True)
    made = Machine(root)
    made.boot()
    made.run(
        "infinitfs user create root; infinitfs storage create --filesystem shelf --path /root/shelf;"
        "infinitfs volume create drive --storage shelf; infinitfs volume create second --storage shelf"
    )
    made.run(f"infinitfs systemd install drive --at {DRIVE}")
    yield made
    made.halt()
    shutil.rmtree(folder)


@pytest.fixture
def unit(machine: Machine) -> Iterator[str]:
    """The unit, running with its own settings only."""
    machine.run(f"rm -f {SETTINGS}; systemctl daemon-reload; systemctl restart {UNIT}")
    yield UNIT
    machine.run(f"rm -f {SETTINGS}; systemctl daemon-reload; systemctl stop {UNIT}")


def configure(machine: Machine, *settings: str) -> None:
    """Restart the unit with other settings."""
    lines = "\\n".join(["[Service]", *settings])
    machine.run(f"printf '{lines}\\n' >{SETTINGS}; systemctl daemon-reload; systemctl restart {UNIT}")


def new_file(machine: Machine, name: str, size: int) -> str:
    """A random file that is synced; its checksum."""
    script = f"head -c {size} /dev/urandom >{DRIVE}/{name}; sync {DRIVE}/{name}; sha256sum <{DRIVE}/{name}"
    return machine.run(script)


def checksum(machine: Machine, name: str) -> str:
    return machine.until(f"sha256sum <{DRIVE}/{name}")


def stored(machine: Machine) -> int:
    """Bytes of the packs in the storage."""
    return sum(path.stat().st_size for path in machine.root.glob("root/shelf/*/packs/*/*"))


def test_the_folder_is_there_after_a_start_and_everything_stored_after_a_stop(machine: Machine, unit: str) -> None:
    configure(machine, "Environment=OPTIONS=upload-limit=400KB", "TimeoutStopSec=4")
    before = stored(machine)
    first = new_file(machine, "first", 12_000_000)
    waiting = stored(machine) - before
    assert waiting < 11_000_000, "there is a backlog"
    machine.run(f"systemctl stop {unit}")
    assert stored(machine) - before > 12_000_000, "the stop took as long as it needed"
    assert (machine.show(unit, "Result"), machine.show(unit, "ExecMainStatus")) == ("success", "0")
    machine.run(f"systemctl start {unit}")
    second = new_file(machine, "second", 8_000_000)
    machine.halt()
    assert stored(machine) - before > 20_000_000, "a shutdown waits, too"
    machine.boot()
    assert machine.run("systemctl is-system-running") == "running"
    assert (checksum(machine, "first"), checksum(machine, "second")) == (first, second)


def test_the_unit_is_sound_and_hides_nothing(machine: Machine, unit: str) -> None:
    assert machine.run(f"systemd-analyze verify {unit}") == ""
    security = machine.run(f"systemd-analyze security --no-pager {unit}")
    found = re.search(r"exposure level for \S+: ([\d.]+)", security)
    assert found and float(found[1]) < 5, security
    print(found[0])
    pid = machine.show(unit, "MainPID")
    assert machine.run(f"readlink /proc/{pid}/ns/mnt") == machine.run("readlink /proc/1/ns/mnt")
    assert "fuse.infinitfs" in machine.run(f"findmnt --mountpoint {DRIVE}")
    assert "NoNewPrivs:\t1" in machine.run(f"cat /proc/{pid}/status")
    assert "everything is stored" in machine.until(f"systemctl status {unit} | grep 'everything is stored'")


def test_a_killed_mount_comes_back_with_everything(machine: Machine, unit: str) -> None:
    expected = new_file(machine, "precious", 3_000_000)
    pid = machine.show(unit, "MainPID")
    machine.run(f"kill -9 {pid}")
    machine.until(f"systemctl is-active {unit} && [ $(systemctl show -P MainPID {unit}) != {pid} ]")
    assert machine.show(unit, "NRestarts") == "1"
    assert checksum(machine, "precious") == expected


def test_a_mount_that_stands_still_is_started_again(machine: Machine, unit: str) -> None:
    configure(machine, "WatchdogSec=4")
    expected = new_file(machine, "watched", 1000)
    pid = machine.show(unit, "MainPID")
    machine.run(f"kill -STOP {pid}")
    machine.until(f"systemctl is-active {unit} && [ $(systemctl show -P MainPID {unit}) != {pid} ]")
    assert checksum(machine, "watched") == expected
    assert "Watchdog timeout" in machine.run(f"journalctl --unit {unit} --boot")


def test_a_reload_and_a_plain_umount(machine: Machine, unit: str) -> None:
    machine.run(f"systemctl reload {unit}")
    assert machine.show(unit, "ActiveState") == "active"
    machine.run(f"umount {DRIVE}")
    machine.until(f"[ $(systemctl show -P ActiveState {unit}) = inactive ]")
    assert machine.show(unit, "Result") == "success"


def test_a_passphrase_from_a_credential(machine: Machine) -> None:
    machine.run("printf 'correct horse' >/root/secret; printf wrong >/root/wrong; chmod 600 /root/secret /root/wrong")
    machine.run("infinitfs user create bob --passphrase-file /root/secret")
    machine.run("infinitfs volume create --as bob sealed --storage shelf --passphrase-file /root/secret")
    machine.run("systemd-creds encrypt --name=passphrase /root/secret /root/secret.cred")
    for source in ("--credential /root/secret", "--encrypted-credential /root/secret.cred"):
        machine.run(f"infinitfs systemd install sealed --at '/srv/a 100% drive' {source}")
        machine.run("systemctl restart infinitfs@sealed && touch '/srv/a 100% drive/file'")
    machine.attempt("infinitfs systemd install sealed --at /srv/a --credential /root/wrong")
    code, _ = machine.attempt("systemctl restart infinitfs@sealed")
    assert code != 0
    assert machine.show("infinitfs@sealed", "ExecMainStatus") == "12"
    assert machine.show("infinitfs@sealed", "SubState") == "failed", "a restart would not mend it"
    machine.run("infinitfs systemd remove sealed")


def test_mount_and_fstab(machine: Machine) -> None:
    machine.run("mkdir -p /mnt/two; chmod 755 /home/alice")
    line = "infinitfs:second /mnt/two fuse.infinitfs _netdev,nofail,allow-other,umask=022,cache-size=1GB 0 0"
    machine.run(f"echo '{line}' >/etc/fstab && systemctl daemon-reload && mount -a && mount -a && touch /mnt/two/file")
    machine.run("runuser -u alice -- ls /mnt/two/file; umount /mnt/two; ! findmnt --mountpoint /mnt/two")
    machine.until("mount -t fuse.infinitfs -o ro infinitfs:second /mnt/two")
    assert "Read-only" in machine.attempt("touch /mnt/two/file")[1]
    machine.run("umount /mnt/two")
    code, said = machine.attempt("mount -t fuse.infinitfs -o nonsense second /mnt/two")
    assert code == 2 and 'no mount option "nonsense"' in said


@pytest.mark.skipif(not Path("/dev/autofs").exists(), reason="this kernel has no automounts")
def test_an_automount_mounts_on_the_first_access(machine: Machine) -> None:
    machine.run("mkdir -p /mnt/auto")
    machine.run(
        "echo 'infinitfs:second /mnt/auto fuse.infinitfs _netdev,nofail,x-systemd.automount 0 0' >/etc/fstab;"
        "systemctl daemon-reload; systemctl start mnt-auto.automount"
    )
    for _ in range(2):
        assert machine.show("mnt-auto.mount", "ActiveState") == "inactive"
        machine.run("touch /mnt/auto/file")
        assert machine.show("mnt-auto.mount", "ActiveState") == "active"
        machine.run("systemctl stop mnt-auto.mount")
        machine.until("! pgrep -f [m]nt/auto")
    machine.run("systemctl stop mnt-auto.automount; rm /etc/fstab; systemctl daemon-reload")


def test_a_storage_that_is_away_does_not_hold_up_a_start(machine: Machine, unit: str) -> None:
    expected = new_file(machine, "kept", 1000)
    shelf = machine.root / "root" / "shelf"
    machine.halt()
    shelf.rename(shelf.with_name("away"))
    machine.boot()
    assert machine.run("systemctl is-active multi-user.target") == "active"
    shelf.with_name("away").rename(shelf)
    machine.until(f"systemctl is-active {unit}")
    assert checksum(machine, "kept") == expected


def test_a_unit_of_an_ordinary_user(machine: Machine) -> None:
    machine.run("loginctl enable-linger alice")
    machine.until("test -S /run/user/$(id -u alice)/bus")

    def run(script: str) -> str:
        return machine.run(script, user="alice")

    run("infinitfs user create alice; infinitfs storage create --filesystem mine --path ~/shelf")
    run("infinitfs volume create home --storage mine")
    assert "be root for it" in machine.attempt("infinitfs systemd install home --at ~/drive", user="alice")[1]
    run("infinitfs systemd install --user home --at ~/drive --now")
    assert run("systemd-analyze --user verify infinitfs@home.service") == ""
    run("echo mine >~/drive/file; sync ~/drive/file; findmnt --mountpoint ~/drive | grep user_id=$(id -u)")
    pid = machine.show("infinitfs@home", "MainPID", user="alice")
    run(f"kill -9 {pid}")
    fresh = (
        f"systemctl --user is-active infinitfs@home && [ $(systemctl --user show -P MainPID infinitfs@home) != {pid} ]"
    )
    machine.until(fresh, user="alice")
    assert run("cat ~/drive/file") == "mine"
    machine.halt()
    machine.boot()
    assert machine.until("cat ~/drive/file", user="alice") == "mine"
    run("infinitfs systemd remove --user home && ! findmnt --mountpoint ~/drive")
    machine.run("echo 'infinitfs:home /home/alice/drive fuse.infinitfs noauto,user,_netdev 0 0' >/etc/fstab")
    run("mount ~/drive && cat ~/drive/file && umount ~/drive && ! findmnt --mountpoint ~/drive")
