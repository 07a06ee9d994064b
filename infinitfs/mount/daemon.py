"""The process around a mount: into the background, ready, unmounted, drained.

Above: `cli/mount.py`. Below: `session`, `operations`, `control`, pyfuse3.

Invariant: who asked for a mount gets an answer: usable, or the error that kept it from being so. However a mount is
ended (the command, a signal, umount(8) by anybody), the process goes on until everything is in the storage or, where
somebody waits for it, until the storage has taken nothing for a while; what is left is durable here.
"""

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pyfuse3
import trio

from infinitfs.config.paths import Paths
from infinitfs.config.store import Store
from infinitfs.errors import InfinitfsError, InUse, MountFailed, from_wire
from infinitfs.keys.identity import Identity
from infinitfs.mount.control import MountRecord, serve
from infinitfs.mount.kernel import allow_more
from infinitfs.mount.log import start_log
from infinitfs.mount.operations import Operations, mount_options
from infinitfs.mount.profile import profiled
from infinitfs.mount.request import MountRequest
from infinitfs.mount.session import Session, open_session
from infinitfs.storage.account import Account
from infinitfs.transfer.background import background

_log = logging.getLogger(__name__)

_TASKS = 4096  # requests of the kernel at work at once; a read that hangs on the storage takes one
_PROGRESS = 0.2  # seconds between two lines of progress
_HELD = 3.0  # seconds in which the kernel lets go of what was unmounted, unless somebody has another mount of it
_ELSEWHERE = (
    "it is unmounted here, but a container or a service with mounts of its own still has it: stop that, then the rest "
    "is stored"
)
_OBSERVED = 2.0  # seconds between two looks at how fast bytes move


def mount(
    paths: Paths, request: MountRequest, identity: Identity, account: Account | None, *, foreground: bool
) -> None:
    """Mount a volume; returns once it is usable, or in the foreground once it is unmounted and drained.

    To be called before any thread is started: it forks. Raises MountFailed and what `open_session` raises.
    """
    _prepare_mountpoint(Path(request.directory))
    if foreground:
        _log_to(Path(request.log_file) if request.log_file else None, request)
        _run(paths, request, identity, account, ready=lambda: None)
        return
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(writer)
        _await_answer(reader, request)
        return
    try:
        os.close(reader)
        _detach()
        _serve_in_background(paths, request, identity, account, writer)
    finally:
        os._exit(0)  # never back into the caller's code, which belongs to the parent


def _await_answer(reader: int, request: MountRequest) -> None:
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    if answer == b"ready":
        return
    if answer:
        name, fields = msgspec.json.decode(answer, type=tuple[str, dict[str, str]])
        raise from_wire(name, fields)
    raise MountFailed(mountpoint=request.directory, reason="the mount ended without a word; see its log")


def _detach() -> None:
    """A session of its own, nothing of the terminal held open, no folder held busy."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def _serve_in_background(
    paths: Paths, request: MountRequest, identity: Identity, account: Account | None, writer: int
) -> None:
    answered = False

    def answer(data: bytes) -> None:
        nonlocal answered
        if not answered:
            answered = True
            os.write(writer, data)
            os.close(writer)

    try:
        _log_to(_log_path(paths, request), request)
        _run(paths, request, identity, account, ready=lambda: answer(b"ready"))
    except InfinitfsError as error:
        _log.error("%s", error)
        answer(msgspec.json.encode((type(error).__name__, error.fields)))
    except BaseException as error:
        _log.exception("The mount failed unexpectedly.")
        answer(msgspec.json.encode(("InfinitfsError", {"detail": f"{type(error).__name__}: {error}"})))


def _log_path(paths: Paths, request: MountRequest) -> Path:
    if request.log_file:
        return Path(request.log_file)
    return paths.volume_state(Store(paths).volumes.get(request.volume).volume) / "mount.log"


def _log_to(path: Path | None, request: MountRequest) -> None:
    start_log(path, form=request.log_format, debug=request.debug, environ=os.environ)


def _prepare_mountpoint(directory: Path) -> None:
    """A folder to mount at: made where it is missing, cleared of what a killed mount left. Raises MountFailed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.scandir(directory).close()
        occupied = directory.is_mount()
    except OSError as error:
        if error.errno != errno.ENOTCONN:  # that of a mount whose process is gone
            raise MountFailed(mountpoint=str(directory), reason=error.strerror or str(error)) from None
        _fusermount(directory, lazy=True)
        occupied = False
    if occupied:
        raise InUse(what=str(directory), remedy="something is mounted there: unmount it or choose another folder")


def _fusermount(directory: Path, *, lazy: bool = False) -> str | None:
    """Unmount; None where it worked, else why not."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(directory)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        return "fusermount3 is not installed (Debian: apt install fuse3)"
    return None if done.returncode == 0 else done.stderr.strip() or f"exit status {done.returncode}"


# --- inside the process of the mount ---


def _run(
    paths: Paths,
    request: MountRequest,
    identity: Identity,
    account: Account | None,
    *,
    ready: Callable[[], None],
) -> None:
    with profiled(request.profile):
        trio.run(_serve, paths, request, identity, account, ready)


async def _serve(
    paths: Paths,
    request: MountRequest,
    identity: Identity,
    account: Account | None,
    ready: Callable[[], None],
) -> None:
    async with background() as nursery:
        async with open_session(paths, request, identity, account) as session:
            daemon = _Daemon(session, request)
            record = MountRecord(request.volume, session.status().volume_id, request.directory, os.getpid())
            await nursery.start(lambda task_status: serve(paths, record, daemon.answer, task_status=task_status))
            nursery.start_soon(daemon.heed_signals)
            nursery.start_soon(daemon.observe)
            await daemon.mounted(ready)
            await daemon.finish()
        await daemon.tell()
    if daemon.failure is not None:
        raise daemon.failure


class _Daemon:
    def __init__(self, session: Session, request: MountRequest) -> None:
        self._session = session
        self._request = request
        self._directory = Path(request.directory)
        self._signalled = False
        self._waiting = 0  # commands that wait for the end
        self._left = trio.Event()  # one of them has gone
        self._draining = trio.CancelScope()
        self._final: dict[str, Any] | None = None  # the last status, once the session closes
        self._over = trio.Event()
        self.failure: InfinitfsError | None = None

    async def mounted(self, ready: Callable[[], None]) -> None:
        """Mount, say so, and serve the kernel until the folder is unmounted."""
        operations = Operations(self._session.volume, self._request)
        self._session.timings = operations.timings
        try:
            pyfuse3.init(operations, str(self._directory), mount_options(self._request, self._request.volume))
        except RuntimeError as error:
            raise MountFailed(
                mountpoint=str(self._directory), reason=f"{error}; `infinitfs doctor` says what is missing"
            ) from None
        try:
            async with background() as nursery:
                nursery.start_soon(self._announce, ready)
                await pyfuse3.main(min_tasks=4, max_tasks=_TASKS)
        finally:
            pyfuse3.close(unmount=True)

    async def _announce(self, ready: Callable[[], None]) -> None:
        """Ready is when the folder answers, not when it was asked for."""
        await trio.to_thread.run_sync(os.stat, self._directory, abandon_on_cancel=True)
        allow_more(self._request.directory)  # not sooner: the kernel's first request sets its defaults
        _log.info('The volume "%s" is mounted at %s.', self._request.volume, self._directory)
        ready()

    async def finish(self) -> None:
        """After the folder is gone: drain."""
        try:
            await self._drain()
            _log.info("Everything is in the storage.")
        except InfinitfsError as error:
            self.failure = error
            _log.error("%s", error)
        self._final = self._status()

    async def _drain(self) -> None:
        """With patience for as long as nobody waits; begun anew when that changes."""
        while True:
            awaited = self._signalled or self._waiting
            with trio.CancelScope() as self._draining:
                return await self._session.drain(**({} if awaited else {"patience": float("inf")}))

    async def tell(self) -> None:
        """After the session was closed, the volume given up and the lock free: who waits for that is told."""
        self._over.set()
        with trio.move_on_after(5):
            while self._waiting:
                await self._left.wait()

    async def heed_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    continue
                self._signalled = True
                self._draining.cancel()
                if not self._session.draining:
                    problem = await trio.to_thread.run_sync(lambda: _fusermount(self._directory, lazy=True))
                    if problem is not None:
                        _log.error("Cannot unmount %s: %s", self._directory, problem)

    async def observe(self) -> None:
        """Look at how fast bytes move, so that `status` knows it whenever it is asked."""
        while True:
            self._session.rates()
            await trio.sleep(_OBSERVED)

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._final or msgspec.to_builtins(self._session.status())
        return status

    async def answer(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """What the control socket asks: status, unmount, collect, clone."""
        command = request["command"]
        if command == "status":
            yield self._status()
        elif command == "collect":
            freed = await self._session.volume.collector.collect()
            yield freed._asdict()
        elif command == "clone":
            await self._clone(int(request["source"]), int(request["target"]), int(request["length"]))
        elif command == "unmount":
            async with aclosing(self._unmount()) as steps:
                async for step in steps:
                    yield step

    async def _clone(self, source: int, target: int, length: int) -> None:
        await self._session.volume.clone(source, target, length)
        with suppress(FileNotFoundError):  # the kernel may have forgotten the file; told it must be from a thread
            await trio.to_thread.run_sync(pyfuse3.invalidate_inode, pyfuse3.InodeT(target))

    async def _unmount(self) -> AsyncGenerator[dict[str, Any], None]:
        self._waiting += 1
        self._draining.cancel()
        try:
            if not self._session.draining and await trio.to_thread.run_sync(self._directory.is_mount):
                problem = await trio.to_thread.run_sync(_fusermount, self._directory)
                if problem is not None:
                    raise InUse(what=str(self._directory), remedy=f"close what uses it, then try again ({problem})")
            unmounted = trio.current_time()
            while not self._over.is_set():
                if not self._session.draining and trio.current_time() - unmounted > _HELD:
                    raise InUse(what=str(self._directory), remedy=_ELSEWHERE)
                yield self._status()
                with trio.move_on_after(_PROGRESS):
                    await self._over.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self._waiting -= 1
            self._draining.cancel()
            self._left.set()
            self._left = trio.Event()
