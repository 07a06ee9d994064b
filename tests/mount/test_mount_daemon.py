"""A mount under a service manager: told of everything, ended by a signal whoever uses the folder, and going on after
the machine slept. What takes a while runs with MOUNT_TESTS=long."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import PATIENCE, PROGRAM, VOLUME, Home, needs_fuse, wait_until

pytestmark = needs_fuse


class Service:
    """A mount in the foreground, which tells this test of itself."""

    def __init__(self, home: Home, drive: Path, *options: str, **environ: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = home.folder / "notify"
        self.socket.bind(str(address))
        self.socket.settimeout(PATIENCE)
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*PROGRAM, "mount", VOLUME, str(drive), "--foreground", *options],
            env=home.environ | {"NOTIFY_SOCKET": str(address)} | environ,
            cwd=home.folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hears(self, start: str) -> str:
        """The next line that starts like this; those before it are kept in `lines`."""
        while True:
            for line in self.socket.recv(4096).decode().splitlines():
                self.lines.append(line)
                if line.startswith(start):
                    return line

    def end(self) -> str:
        """Wait for its end; what it logged."""
        _, log = self.process.communicate(timeout=PATIENCE)
        return log


@pytest.fixture
def service(home: Home, drive: Path) -> Iterator[Service]:
    made = Service(home, drive, WATCHDOG_USEC="2000000")
    yield made
    if made.process.poll() is None:
        subprocess.run(["fusermount3", "-u", "-z", str(drive)], capture_output=True)
        made.process.kill()
        made.process.communicate()
    made.socket.close()


def test_systemd_is_told_from_the_start_to_the_end(service: Service, drive: Path) -> None:
    service.hears("READY=1")
    assert drive.is_mount(), "ready is when the folder is there"
    assert "STATUS=Opening the volume" in service.lines
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in service.lines)
    service.hears("WATCHDOG=1")
    (drive / "file").write_bytes(os.urandom(3 << 20))
    assert "wait for the storage" in service.hears("STATUS=Mounted; 3")
    assert "everything is stored" in service.hears("STATUS=Mounted; e")
    service.process.send_signal(signal.SIGHUP)
    service.hears("RELOADING=1")
    service.hears("READY=1")
    service.process.send_signal(signal.SIGTERM)
    service.hears("STOPPING=1")
    log = service.end()
    assert service.process.returncode == 0 and not drive.is_mount(), log
    assert "Everything is in the storage." in log


def test_sigterm_gives_programs_time_to_let_go(service: Service, home: Home, drive: Path) -> None:
    service.hears("READY=1")
    with (drive / "file").open("w") as file:
        file.write("before")
        file.flush()
        service.process.send_signal(signal.SIGTERM)
        service.hears("STOPPING=1")
        file.write(" and after")
        file.flush()
        assert drive.is_mount(), "still there"
    log = service.end()
    assert service.process.returncode == 0 and "gets errors" not in log, log
    mounted = home.mount(drive)
    assert (drive / "file").read_text() == "before and after"
    mounted.unmount()


def test_sigterm_ends_a_mount_that_is_not_let_go(service: Service, home: Home, drive: Path, long: bool) -> None:
    if not long:
        pytest.skip("takes ten seconds: MOUNT_TESTS=long runs it")
    service.hears("READY=1")
    script = "f = open('file', 'w'); f.write('written'); f.flush(); print(flush=True); input()"
    with subprocess.Popen(
        ["python3", "-c", script], cwd=drive, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None and program.stdin is not None
        program.stdout.readline()
        service.process.send_signal(signal.SIGTERM)
        log = service.end()
        program.stdin.write("\n")
    assert service.process.returncode == 0 and "gets errors" in log, log
    assert not drive.is_mount()
    mounted = home.mount(drive)
    assert (drive / "file").read_text() == "written"
    mounted.unmount()


def test_a_program_with_an_open_file_keeps_a_folder_that_was_unmounted_lazily(home: Home, drive: Path) -> None:
    home.expect("fuse_reply")  # nobody waits for the answer to the last close any more
    mounted = home.mount(drive)
    with (drive / "file").open("w") as file:
        file.write("content")
        mounted.clear()
        assert not drive.is_mount()
        assert "a program with an open file" in home.refused(11, "unmount", str(drive))
    mounted.wait()
    mounted = home.mount(drive)
    assert (drive / "file").read_text() == "content"
    mounted.unmount()


def test_a_mount_outlives_a_machine_that_sleeps(home: Home, drive: Path, long: bool) -> None:
    """Both processes stand still for a while, as in a suspended machine, in the middle of the work."""
    if not long:
        pytest.skip("takes a minute: MOUNT_TESTS=long runs it")
    mounted = home.mount(drive, "--upload-limit", "4MB")
    transfer = mounted.transfer()
    assert transfer is not None
    content = os.urandom(6 << 20)
    (drive / "file").write_bytes(content)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in (mounted.pid, transfer):
            os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(40)  # nothing but time passes
    (drive / "after").write_bytes(b"awake")
    assert mounted.status()["state"] == "ready"
    mounted.stored()
    assert mounted.transfer() == transfer, "and it is the same"
    mounted.unmount()
    mounted = home.mount(drive)
    assert (drive / "file").read_bytes() == content and (drive / "after").read_bytes() == b"awake"
    mounted.unmount()


def test_who_interrupts_a_mount_before_it_is_there_ends_it(home: Home, drive: Path) -> None:
    """Until it has its answer, the command and what it has started are one group, which Ctrl-C reaches."""
    command = home.start("mount", VOLUME, str(drive))
    wait_until(lambda: bool(_children(command.pid)), "the start of the mount's process")
    (child,) = _children(command.pid)
    descriptor = os.pidfd_open(child)
    group = os.getpgid(child)
    assert group in (os.getpgid(command.pid), child), "its own only once it is mounted"
    os.kill(child, signal.SIGINT)
    os.kill(command.pid, signal.SIGINT)
    command.communicate(timeout=PATIENCE)
    assert select.select([descriptor], [], [], PATIENCE)[0]
    os.close(descriptor)
    home.mount(drive).unmount()


_INTERRUPTED = """
import os, signal
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
os.register_at_fork(after_in_parent=interrupt, after_in_child=interrupt)
from infinitfs.cli.main import run
run()
"""


def test_an_interrupt_that_meets_the_fork_is_not_lost(home: Home, drive: Path) -> None:
    """Python drops what is raised while it calls back after a fork."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, "mount", VOLUME, str(drive)],
        env=home.environ,
        cwd=home.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (130, "")
    home.mount(drive).unmount()


def test_nothing_that_the_command_had_open_stays_open(home: Home, drive: Path) -> None:
    """Or a lock that a script holds around it is held for as long as the mount is there."""
    reader, writer = os.pipe()
    os.dup2(writer, 300, inheritable=True)
    os.close(writer)
    command = ["sh", "-c", 'ulimit -Sn 256; exec "$@"', "", *PROGRAM, "mount", VOLUME, str(drive)]
    subprocess.run(command, env=home.environ, cwd=home.folder, check=True, pass_fds=[300], timeout=PATIENCE)
    os.close(300)
    assert select.select([reader], [], [], PATIENCE)[0] and os.read(reader, 1) == b""
    os.close(reader)
    home.mounted(drive).unmount()


def test_a_mount_that_nobody_waits_for_any_more_ends(home: Home, drive: Path) -> None:
    command = home.start("mount", VOLUME, str(drive))
    wait_until(lambda: bool(_children(command.pid)), "the start of the mount's process")
    descriptor = os.pidfd_open(_children(command.pid)[0])
    command.kill()
    command.communicate(timeout=PATIENCE)
    assert select.select([descriptor], [], [], PATIENCE)[0]
    os.close(descriptor)
    assert not drive.is_mount()
    home.mount(drive).unmount()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
