"""A mount while it is there: served to the kernel, watched, unmounted, drained.

Above: `daemon`, whose process this is. Below: `compose`, `operations`, `control`, pyfuse3.
Invariant: however a mount is ended (the command, a signal, umount(8) by anybody), this goes on until everything is in
the storage or, where somebody waits for it, until the storage has taken nothing for a while; what is left is durable
here.
"""

import gc
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyfuse3
import trio

from infinitfs import __version__
from infinitfs.config.paths import Paths
from infinitfs.errors import InfinitfsError, InUse, MountFailed, ReadOnly, UnmountFailed, UsageError
from infinitfs.keys.identity import Identity
from infinitfs.mount import control, mountpoint
from infinitfs.mount.compose import open_session
from infinitfs.mount.kernel import allow_more
from infinitfs.mount.notify import Notifier, Phase, Progress
from infinitfs.mount.operations import Operations, mount_options
from infinitfs.mount.request import MountRequest
from infinitfs.mount.session import Session
from infinitfs.mount.turn import take_turns
from infinitfs.storage.account import Account, StaticKeys
from infinitfs.transfer.background import background

_log = logging.getLogger(__name__)

_UNTIL_COLLECTED = 10_000  # objects more than before
_TASKS = 4096  # requests of the kernel at work at once; a read that hangs on the storage takes one
_PROGRESS = 0.2  # seconds between two lines of progress
_LETS_GO = 2.0  # seconds in which the kernel ends what was unmounted, on a machine with much else to do
_GRACE = 10.0  # seconds that programs have, after SIGTERM, to let go of the folder
_RETRY = 0.5  # seconds between two attempts to unmount it meanwhile
_LAST_WRITES = 1.0  # seconds in which what the kernel was made to send arrives; it tells nobody when it has
_ELSEWHERE = (
    "it is unmounted here, but a program with an open file, or a container or a service with mounts of its own, still "
    "has it: stop that, then the rest is stored"
)
_WRITING = ("collect", "store")  # commands that a volume mounted read-only refuses
_OBSERVED = 2.0  # seconds between two looks at how fast bytes move


FindAccount = Callable[[], Account | None]
"""What is configured now to open the volume's storage with."""


async def serve(
    paths: Paths,
    request: MountRequest,
    identity: Identity,
    account: Account | None,
    find_account: FindAccount,
    notifier: Notifier,
    ready: Callable[[], None],
) -> None:
    """Mount a volume, and return once it is unmounted and drained; `ready` is called when the folder can be used.

    Raises what `open_session` raises, MountFailed, and what kept the rest from being stored.
    """
    mount: _Mount | None = None
    async with background() as nursery:
        nursery.start_soon(notifier.run)
        try:
            async with open_session(paths, request, identity, account) as session:
                mount = _Mount(session, request, find_account, notifier)
                record = control.MountRecord(request.volume, session.status().volume_id, request.directory, os.getpid())
                answering = partial(control.serve, paths, record, mount.answer)
                await nursery.start(answering)
                nursery.start_soon(mount.heed_signals)
                async with background() as observing:  # which must end before the session does
                    observing.start_soon(mount.observe)
                    await mount.mounted(ready)
                    await mount.finish()
        except InfinitfsError as error:
            if mount is None:
                raise
            mount.failure = mount.failure or error  # a session that does not close has its word to tell, too
        await mount.tell()
    if mount.failure is not None:
        raise mount.failure


class _Mount:
    """The mount of an open session."""

    def __init__(self, session: Session, request: MountRequest, find_account: FindAccount, notifier: Notifier) -> None:
        self._session = session
        self._request = request
        self._find_account = find_account
        self._notifier = notifier
        notifier.look = self._progress
        self._directory = Path(request.directory)
        self._signalled = False
        self._unmounted = False  # taken away by force: what is at the folder now is not ours
        self._serving = trio.CancelScope()
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
        if self._signalled:
            return
        if not self._session.volume.space().inodes:
            raise MountFailed(
                mountpoint=str(self._directory),
                reason="nothing was ever written to the volume: mount it once without --read-only",
            )
        try:
            pyfuse3.init(operations, str(self._directory), mount_options(self._request, self._request.volume))
        except RuntimeError as error:
            raise MountFailed(
                mountpoint=str(self._directory), reason=f"{error}; `infinitfs doctor` says what is missing"
            ) from None
        try:
            take_turns(operations.turn)
            async with background() as nursery:
                nursery.start_soon(self._announce, ready)
                nursery.start_soon(operations.vigil.run)
                with self._serving:
                    await pyfuse3.main(min_tasks=4, max_tasks=_TASKS)
        finally:
            pyfuse3.close(unmount=not self._unmounted)

    async def _announce(self, ready: Callable[[], None]) -> None:
        """Ready is when the folder answers, not when it was asked for."""
        await trio.to_thread.run_sync(os.stat, self._directory, abandon_on_cancel=True)
        allow_more(self._request.directory)  # not sooner: the kernel's first request sets its defaults
        _log.info('The volume "%s" is mounted at %s.', self._request.volume, self._directory)
        # What is there now stays, and of what comes little is garbage: to look for it took 40 to 60 ms at a time.
        gc.freeze()
        gc.set_threshold(_UNTIL_COLLECTED)
        ready()
        await self._notifier.enter(Phase.MOUNTED)

    async def finish(self) -> None:
        """After the folder is gone: drain."""
        await self._notifier.enter(Phase.STOPPING if self._signalled else Phase.UNMOUNTED)
        try:
            await self._drain()
            if not self._request.read_only:
                _log.info("Everything is in the storage.")
        except InfinitfsError as error:
            self.failure = error
            _log.error("%s", error)
        self._final = self._status()
        await self._notifier.enter(Phase.STOPPING)

    async def _drain(self) -> None:
        """With patience for as long as nobody waits; begun anew when that changes."""
        while True:
            awaited = self._signalled or self._waiting
            with trio.CancelScope() as self._draining:
                return await self._session.drain(**({} if awaited else {"patience": float("inf")}))

    async def tell(self) -> None:
        """After the session was closed, the volume given up and the lock free: who waits for that is told."""
        if self._final is not None:
            self._final["requests"] = self._session.requests()  # to close it took some more
        self._over.set()
        with trio.move_on_after(5):
            while self._waiting:
                await self._left.wait()

    async def heed_signals(self) -> None:
        """SIGTERM and SIGINT end the mount, SIGHUP has it look again at what is configured."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if number == signal.SIGHUP:
                        nursery.start_soon(self._reload)
                    elif not self._signalled:
                        self._signalled = True
                        self._draining.cancel()
                        nursery.start_soon(self._leave)

    async def _reload(self) -> None:
        """Take the credentials that are configured now."""
        await self._notifier.reloading(done=False)
        try:
            account = await trio.to_thread.run_sync(self._find_account)
            if account is not None:
                self._session.renew(account)
            _log.info("The credentials that are configured now are in use.")
        except InfinitfsError as error:
            _log.error("The credentials stay as they are: %s", error)
        except Exception:
            _log.exception("The credentials stay as they are.")
        await self._notifier.reloading(done=True)

    async def _leave(self) -> None:
        """Unmount, and let nobody prevent it: after a while programs that still use the folder lose it, but nothing
        that they have written by then."""
        await self._notifier.enter(Phase.STOPPING)
        ends = trio.current_time() + _GRACE
        await self._write_back()
        while (held := await self._held()) is not None:
            if trio.current_time() >= ends:
                _log.warning("%s The mount ends now: who still uses it gets errors.", held)
                await self._take_away()
                return
            await trio.sleep(_RETRY)

    async def _held(self) -> InfinitfsError | None:
        """Unmount; None where nobody has the mount any more, else who or what keeps it."""
        if self._session.draining:
            return None
        try:
            await trio.to_thread.run_sync(mountpoint.unmount, self._directory)
        except (InUse, UnmountFailed) as error:
            return error
        patience = trio.current_time() + _LETS_GO
        while await trio.to_thread.run_sync(mountpoint.is_connected):
            if trio.current_time() > patience:
                return InUse(what=str(self._directory), remedy=_ELSEWHERE)
            await trio.sleep(_LETS_GO / 40)
        return None

    async def _write_back(self) -> None:
        """Ask the kernel for what programs have written, but not for ever: a full backlog may hold it up."""
        with trio.move_on_after(_GRACE / 2):
            await trio.to_thread.run_sync(mountpoint.write_back, self._directory, abandon_on_cancel=True)

    async def _take_away(self) -> None:
        await self._write_back()
        await trio.sleep(_LAST_WRITES)
        try:
            await trio.to_thread.run_sync(lambda: mountpoint.unmount(self._directory, lazy=True))
            self._unmounted = True
        except UnmountFailed as error:
            _log.error("%s", error)
        if not self._session.draining:
            pyfuse3.terminate()
            self._serving.deadline = trio.current_time() + _GRACE  # requests that are being answered end first

    async def observe(self) -> None:
        """Look at how fast bytes move, so that `status` knows it whenever it is asked."""
        while True:
            self._session.rates()
            await trio.sleep(_OBSERVED)

    def _progress(self) -> Progress:
        """What the service manager is told."""
        status = self._status()
        return Progress(status["backlog_bytes"], status["uploaded_bytes"], status["position"], status["trouble"])

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._final or msgspec.to_builtins(self._session.status())
        return status

    async def answer(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """What the control socket asks: status, unmount, collect, store (all until now), forget (what can be read
        again), clone, renew (keys)."""
        command = request["command"]
        if command in _WRITING and self._request.read_only:
            raise ReadOnly(reason="it was mounted read-only")
        if command == "status":
            yield self._status()
        elif command == "collect":
            freed = await self._session.volume.collect()
            yield freed._asdict()
        elif command == "store":
            await self._session.volume.drain()
        elif command == "forget":
            await self._session.volume.forget()
        elif command == "clone":
            await self._clone(int(request["source"]), int(request["target"]), int(request["length"]))
        elif command == "renew":
            self._session.renew(msgspec.convert(request["account"], StaticKeys))
        elif command == "unmount":
            async with aclosing(self._unmount()) as steps:
                async for step in steps:
                    yield step
        else:
            raise UsageError(problem=f'A mount of version {__version__} cannot do "{command}": mount the volume again.')

    async def _clone(self, source: int, target: int, length: int) -> None:
        await self._session.volume.clone(source, target, length)
        with suppress(FileNotFoundError):  # the kernel may have forgotten the file; told it must be from a thread
            await trio.to_thread.run_sync(pyfuse3.invalidate_inode, pyfuse3.InodeT(target))

    async def _unmount(self) -> AsyncGenerator[dict[str, Any], None]:
        self._waiting += 1
        self._draining.cancel()
        try:
            if (held := await self._held()) is not None:
                raise held
            while not self._over.is_set():
                yield self._status()
                with trio.move_on_after(_PROGRESS):
                    await self._over.wait()
            if self.failure is not None:
                raise self.failure
            yield self._status()
        finally:
            self._waiting -= 1
            self._draining.cancel()
            self._left.set()
            self._left = trio.Event()
