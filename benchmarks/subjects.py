"""What is measured: a class for each filesystem, made new for every run.

Above: `scenes`. Below: the programs themselves; `peers` has those of others.
Invariant: every one is used in the same way, with its own defaults but for what its class says, and leaves neither a
process nor a mount behind.
"""

import os
import select
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from benchmarks import storage
from benchmarks.storage import Service
from benchmarks.workloads import ROOT
from infinitfs.config.paths import Paths
from infinitfs.mount.control import ask, find_mount
from tests.support.mounted import STORAGE, USER, VOLUME, Home, Mounted

PATIENCE = 1200.0
"""Seconds that a subject may take to store what it was given."""


class Subject:
    """A folder to work in, below `place`; `service` is where it keeps its data, if it keeps it anywhere.

    What is here suits a plain folder: there is nothing to start, to wait for or to end.
    """

    name: ClassVar[str]
    remote: ClassVar[bool] = True
    """Whether it keeps anything in a storage, near or far."""
    needs_server: ClassVar[bool] = False
    """Whether that storage must be the S3 server."""

    def __init__(self, place: Path, service: Service | None) -> None:
        self.place = place
        self.service = service
        self.folder = place / "folder"

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here, or nothing."""
        return ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Empty and ready in the block, gone with everything after it."""
        self.place.mkdir(parents=True)
        try:
            self.folder.mkdir()
            self.start()
            yield
        finally:
            self.stop()
            shutil.rmtree(self.place)

    def start(self) -> None:
        """Made new, and mounted."""

    def settle(self) -> None:
        """Return once nothing of what was written waits to be sent; it stays mounted."""

    def drain(self) -> None:
        """Unmount; return once everything is in the storage, so that another machine can read it."""

    def resume(self, *, cold: bool) -> None:
        """Mount again; `cold` without any content kept on this machine."""

    def stop(self) -> None:
        """End it, in whatever state it is."""

    def processes(self) -> list[int]:
        """Those whose CPU and memory count."""
        return []


class Disk(Subject):
    """The local disk, whatever its filesystem is."""

    name = "local disk"
    remote = False


class Daemon(Subject, ABC):
    """A filesystem in a process that stays in the foreground for as long as it is mounted."""

    process: "subprocess.Popen[bytes] | None" = None

    @abstractmethod
    def command(self) -> list[str]:
        """The process that mounts `folder`."""

    def environment(self) -> Mapping[str, str]:
        return {}

    def prepare(self) -> None:
        """Once, before the first mount."""

    def start(self) -> None:
        self.prepare()
        self.mount()

    def mount(self) -> None:
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=ROOT, stdout=log, stderr=log, env=os.environ | self.environment()
            )
        process = self.process
        wait_until(lambda: process.poll() is not None or self.folder.is_mount(), f"{self.name} mounted")
        if process.poll() is not None:
            raise RuntimeError(f"{self.name} did not mount:\n{(self.place / 'log').read_text()}")

    def execute(self, *command: str, answer: str = "") -> None:
        """A command that belongs to setting it up."""
        done = subprocess.run(
            command, input=answer, capture_output=True, text=True, env=os.environ | self.environment()
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")

    def drain(self) -> None:
        unmount(self.folder)
        if self.process is not None:
            self.process.wait(PATIENCE)

    def forget(self) -> None:
        """Remove what is kept of the content on this machine; it is not mounted."""

    def resume(self, *, cold: bool) -> None:
        if cold:
            self.forget()
        self.mount()

    def stop(self) -> None:
        if self.process is not None:
            unmount(self.folder, lazy=True)
            self.process.kill()
            self.process.wait()

    def processes(self) -> list[int]:
        return family(self.process.pid) if self.process is not None else []


class Nothing(Daemon):
    """The ceiling: pyfuse3 and dicts. It keeps nothing when it ends, so it is never drained."""

    name = "nothing"
    remote = False

    def command(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.nothing", str(self.folder)]

    def drain(self) -> None:
        pass

    def resume(self, *, cold: bool) -> None:
        pass


class Boto3(Subject):
    """No filesystem at all: see `raw`."""

    name = "boto3"
    needs_server = True

    @property
    def bucket(self) -> Service:
        assert self.service is not None
        return self.service

    @property
    def path(self) -> str:
        return f"boto3/{self.place.name}"


class Both(Nothing):
    """A mount that does nothing, and boto3 moving as many bytes at the same time: what the kernel's part and the
    storage's part take together on this machine, and so the ceiling of every mount that does both."""

    name = "nothing and boto3 together"
    remote = True
    needs_server = True

    @property
    def bucket(self) -> Service:
        assert self.service is not None
        return self.service


class Infinitfs(Subject):
    """As a user has it who says nothing: every option of `mount` at its default; a user without a passphrase."""

    name = "infinitfs"
    options: ClassVar[tuple[str, ...]] = ()
    """What `mount` is told."""

    def __init__(self, place: Path, service: Service | None) -> None:
        super().__init__(place, service)
        self.home: Home | None = None
        self.mounted: Mounted | None = None

    @property
    def machine(self) -> Home:
        assert self.home is not None
        return self.home

    @property
    def mount(self) -> Mounted:
        assert self.mounted is not None
        return self.mounted

    def start(self) -> None:
        self.home = Home(self.place / "machine")
        self.home.run("user", "create", USER)
        self.add_storage(self.home)
        self.home.run("volume", "create", VOLUME, "--storage", STORAGE)
        self.resume(cold=True)

    def add_storage(self, home: Home, service: Service | None = None) -> None:
        """Tell a machine where the data is; `service` where it is reached by another way than ours."""
        service = service or self.service
        if service is None:
            home.run("storage", "create", "--filesystem", STORAGE, "--path", str(self.place / "storage"))
            return
        keys = f"{service.keys.access_key_id}\n{service.keys.secret_access_key}\n"
        home.run("credentials", "add", "--aws", "--as", USER, "service", input=keys)
        where = ["--region", storage.REGION, "--bucket", storage.BUCKET, "--path", self.path]
        home.run("storage", "create", "--s3", STORAGE, "--account", "service", *where, "--endpoint", service.endpoint)

    @property
    def path(self) -> str:
        """The folder in the bucket."""
        return f"infinitfs/{self.place.name}"

    @property
    def backlog(self) -> int:
        """Bytes that the storage does not have yet."""
        paths = Paths.from_environment(self.machine.environ)
        (status,) = ask(paths, find_mount(paths, self.folder), "status")
        waiting: int = status["backlog_bytes"]
        return waiting

    def stored(self) -> dict[str, int]:
        """Key and size of every object in the storage."""
        if self.service is not None:
            return self.service.stored(self.path)
        folder = self.place / "storage"
        return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}

    def fetch(self, key: str) -> bytes:
        """An object, by a key of `stored`."""
        if self.service is not None:
            return self.service.client().get_object(Bucket=storage.BUCKET, Key=key)["Body"].read()
        return (self.place / "storage" / key).read_bytes()

    def settle(self) -> None:
        wait_until(lambda: self.backlog == 0, "everything stored", every=0.1)

    def drain(self) -> None:
        unmount(self.folder)
        if not select.select([self.mount.descriptor], [], [], PATIENCE)[0]:
            raise TimeoutError("infinitfs did not end")

    def resume(self, *, cold: bool) -> None:
        if cold:
            shutil.rmtree(self.machine.root / "cache", ignore_errors=True)
        self.mounted = self.machine.mount(self.folder, *self.options)

    def stop(self) -> None:
        if self.home is not None:
            self.home.close()

    def processes(self) -> list[int]:
        return family(self.mount.pid)


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        children = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in _words(file)]
    except FileNotFoundError:
        return []
    return [pid, *(member for child in children for member in family(child))]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def unmount(folder: Path, *, lazy: bool = False) -> None:
    """Unmount; raises CalledProcessError, or with `lazy` does what it can."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), str(folder)]
    subprocess.run(command, check=not lazy, capture_output=lazy)


def wait_until(true: Callable[[], bool], what: str, every: float = 0.02) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: it did not happen")
        time.sleep(every)
