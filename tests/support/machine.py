"""A Debian with systemd, booted in a container that shares this machine's kernel, /dev/fuse, program and Python.

Above: tests/systemd. Below: debootstrap, systemd-nspawn, nsenter.
Invariant: nothing outside the machine's folder is written; every command has a timeout, and `halt` leaves no process.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 120.0
PACKAGES = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,fuse3,python3,procps,util-linux"
PROGRAM = Path(sys.prefix) / "bin" / "infinitfs"

_ROOT = Path(__file__).resolve().parents[2]
_HELPERS = ("debootstrap", "systemd-nspawn", "nsenter")


def obstacle() -> str | None:
    """What keeps a machine from being made here."""
    missing = [name for name in _HELPERS if shutil.which(name) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}"
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        return "root and /dev/fuse are needed"
    if not PROGRAM.exists() or sys.base_prefix != "/usr" or sys.version_info[:2] != (3, 11):
        return "infinitfs must be installed in an environment of Debian 12's own Python"
    return None


def install_debian(root: Path) -> None:
    """A minimal Debian 12 in the folder `root`, with an ordinary user alice; takes two minutes."""
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=15 * 60)
    subprocess.run(["chroot", root, "useradd", "-m", "-s", "/bin/sh", "alice"], check=True, timeout=PATIENCE)


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._container: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self, *, wait: bool = True) -> None:
        """Start it; with `wait`, until systemd has done all that it does at a start."""
        binds = [f"--bind-ro={path}" for path in sorted({str(_ROOT), sys.prefix})]
        binds += [f"--bind={device}" for device in ("/dev/fuse", "/dev/autofs") if Path(device).exists()]
        with (self.root.parent / "console").open("ab") as console:
            self._container = subprocess.Popen(
                [
                    "systemd-nspawn",
                    "--quiet",
                    "--directory",
                    self.root,
                    "--boot",
                    "--register=no",
                    "--keep-unit",
                    *binds,
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self._init = self._find_init(self._container.pid)
        if wait:
            self.until("systemctl is-system-running | grep -E '^(running|degraded)'")

    def _find_init(self, container: int) -> int:
        deadline = time.monotonic() + PATIENCE
        children = Path(f"/proc/{container}/task/{container}/children")
        while time.monotonic() < deadline:
            for child in children.read_text().split():
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
            time.sleep(0.1)
        raise AssertionError("the machine has no init")

    def halt(self) -> None:
        """An orderly shutdown, as `poweroff` does it."""
        if self._container is None:
            return
        self.attempt("systemctl poweroff")
        try:
            self._container.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._container.kill()
            self._container.wait()
            raise
        finally:
            self._container = None

    def attempt(self, script: str, *, user: str = "") -> tuple[int, str]:
        """Exit code and output of a shell script that root, or a user who is logged in, runs there."""
        home = f"/home/{user}" if user else "/root"
        environ = [f"HOME={home}", f"PATH=/usr/sbin:/usr/bin:/sbin:/bin:{PROGRAM.parent}", "LANG=C.UTF-8"]
        become = []
        if user:
            runtime = f"/run/user/{self.run(f'id -u {user}')}"
            environ += [f"XDG_RUNTIME_DIR={runtime}", f"DBUS_SESSION_BUS_ADDRESS=unix:path={runtime}/bus"]
            become = ["runuser", "-u", user, "--"]
        entered = ["nsenter", "--target", str(self._init), "--all", f"--wd={self.root}{home}"]
        done = subprocess.run(
            [*entered, "env", "-i", *environ, *become, "sh", "-c", f"cd {home} && {{ {script}\n}}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout.strip()

    def run(self, script: str, *, user: str = "") -> str:
        """The output of a script that succeeds."""
        code, output = self.attempt(script, user=user)
        assert code == 0, f"{script}: exit code {code}: {output}"
        return output

    def until(self, script: str, *, user: str = "") -> str:
        """The output of a script once it succeeds."""
        deadline = time.monotonic() + PATIENCE
        while True:
            code, output = self.attempt(script, user=user)
            if code == 0:
                return output
            assert time.monotonic() < deadline, f"{script}: {output}"
            time.sleep(0.5)

    def show(self, unit: str, name: str, *, user: str = "") -> str:
        """A property of a unit."""
        return self.run(f"systemctl {'--user' if user else ''} show --property {name} --value {unit}", user=user)
