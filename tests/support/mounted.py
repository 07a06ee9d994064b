"""Real mounts: the program itself, in processes of its own, with a home in a test's folder.

Above: tests/mount. Below: `python -m infinitfs.cli.main`, the kernel, fusermount3.
Invariant: whatever a test did, `Home.close` leaves no process and no mount of it behind, and fails where a mount
logged a warning or an error that the test did not announce with `expect`.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAM = (sys.executable, "-m", "infinitfs.cli.main")
PATIENCE = 60.0
"""Seconds that any command, and anything waited for, may take."""

USER, STORAGE, VOLUME = "margarethe", "cellar-shelf", "family-drive"
"""The records of a new home: names that nothing else is called."""

_ROOT = Path(__file__).resolve().parents[2]
_TROUBLE = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) |^Traceback|^\w+(\.\w+)*(Error|Exception|Warning)\b", re.M)

needs_fuse = [
    pytest.mark.fuse,
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse here"),
]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a program whose home is in `folder`: nothing of the one who runs the tests counts."""
    foreign = ("INFINIT", "AWS_", "XDG_", "CREDENTIALS_DIRECTORY", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "INFINITFS_HOME": str(folder / "home"),
        "HOME": str(folder),
        "LOGNAME": USER,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": str(_ROOT),
    }


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Poll until `true`; fails after PATIENCE. For what only another process can say."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


@dataclass(eq=False)
class Mounted:
    """A folder that the program mounted. `pid` is the filesystem process, `children` its transfer process."""

    home: "Home"
    volume: str
    directory: Path
    pid: int
    descriptor: int

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.home.run("status", str(self.directory), "--json"))
        return status

    def unmount(self) -> None:
        """As a user does it: everything is in the storage, and the volume may be mounted elsewhere."""
        self.home.run("unmount", str(self.directory))
        assert not self.directory.is_mount()

    def stored(self) -> None:
        """Wait until nothing is left to send."""
        wait_until(lambda: self.status()["backlog_bytes"] == 0, "sending everything")

    def signal(self, number: int) -> None:
        if not self.over:
            signal.pidfd_send_signal(self.descriptor, number)

    def kill(self) -> None:
        """kill -9, and wait for the end of both processes."""
        transfer = self.transfer()
        self.signal(signal.SIGKILL)
        self.wait()
        wait_until(lambda: transfer is None or _is_gone(transfer), "the end of the transfer process")

    def clear(self) -> None:
        """Remove what a killed mount leaves in the table of mounts."""
        subprocess.run(["fusermount3", "-u", "-z", str(self.directory)], capture_output=True, timeout=PATIENCE)

    @property
    def over(self) -> bool:
        """Whether the process has ended."""
        return bool(select.select([self.descriptor], [], [], 0)[0])

    def wait(self) -> None:
        assert select.select([self.descriptor], [], [], PATIENCE)[0], "the mount's process did not end"

    def transfer(self) -> int | None:
        """The process id of the transfer process, None where there is none (now)."""
        tasks = Path(f"/proc/{self.pid}/task")
        try:
            children = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        except FileNotFoundError:
            return None
        return next((pid for pid in children if b"infinitfs.transfer.worker" in _command(pid)), None)


@dataclass
class Home:
    """A machine of its own, as far as the program can tell: everything it keeps is below `folder`."""

    folder: Path
    expected: list[str] = field(default_factory=list)
    mounts: list[Mounted] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.environ = environment(self.folder)
        self.root = self.folder / "home"

    # --- commands ---

    def start(self, *arguments: str, **extra: str) -> "subprocess.Popen[str]":
        """The program, running; without a terminal and without input."""
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ | extra,
            cwd=self.folder,
        )

    def attempt(self, *arguments: str, input: str = "", extra: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command."""
        done = subprocess.run(
            [*PROGRAM, *arguments],
            input=input,
            capture_output=True,
            text=True,
            env=self.environ | dict(extra or {}),
            cwd=self.folder,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout, done.stderr

    def run(self, *arguments: str, input: str = "", **extra: str) -> str:
        """The standard output of a command that succeeds."""
        code, output, errors = self.attempt(*arguments, input=input, extra=extra)
        assert code == 0, f"{arguments}: exit code {code}: {errors}"
        return output

    def refused(self, code: int, *arguments: str) -> str:
        """The one sentence with which a command is refused."""
        got, output, errors = self.attempt(*arguments)
        assert (got, output) == (code, ""), f"{arguments}: exit code {got}: {output}{errors}"
        assert errors.count("\n") == 1 and "Traceback" not in errors, errors
        return errors

    def mount(self, directory: Path, *options: str, volume: str = VOLUME) -> Mounted:
        self.run("mount", volume, str(directory), *options)
        return self.mounted(directory)

    def mounted(self, directory: Path) -> Mounted:
        """Take charge of what a command has mounted at `directory`."""
        records = [json.loads(path.read_bytes()) for path in (self.root / "run").glob("*.json")]
        (record,) = [record for record in records if record["mountpoint"] == str(directory)]
        mounted = Mounted(self, record["volume"], directory, record["pid"], os.pidfd_open(record["pid"]))
        self.mounts.append(mounted)
        return mounted

    # --- logs ---

    def expect(self, pattern: str) -> None:
        """A mount may log warnings and errors in which this regular expression is found."""
        self.expected.append(pattern)

    @property
    def log(self) -> str:
        """What all mounts of this home have logged."""
        return "".join(path.read_text() for path in sorted((self.root / "state").glob("*/mount.log*")))

    def unexpected(self) -> list[str]:
        """Lines of the log that tell of trouble nobody announced."""
        lines = [line for line in self.log.splitlines() if _TROUBLE.search(line)]
        return [line for line in lines if not any(re.search(pattern, line) for pattern in self.expected)]

    # --- the end ---

    def close(self) -> None:
        for mounted in self.mounts:
            if not mounted.over:
                mounted.clear()
                mounted.signal(signal.SIGKILL)
            if mounted.directory.name in Path("/proc/self/mounts").read_text():
                mounted.clear()
            mounted.wait()
            os.close(mounted.descriptor)
        self.mounts.clear()
        trouble = self.unexpected()
        assert not trouble, "the mount's log:\n" + "\n".join(trouble)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _is_gone(pid: int) -> bool:
    return b"infinitfs.transfer.worker" not in _command(pid)
