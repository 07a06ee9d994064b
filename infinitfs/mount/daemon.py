"""The process around a mount: into the background, and an answer to who asked for it.

Above: `cli/mount.py`. Below: `serving`, which is all that this process does.
Invariant: who asked for a mount gets an answer: usable, or the error that kept it from being so.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from infinitfs.config.heap import keep_memory
from infinitfs.config.paths import Paths
from infinitfs.config.secrecy import keep_secrets
from infinitfs.config.store import Store
from infinitfs.errors import InfinitfsError, MountFailed, from_wire
from infinitfs.keys.identity import Identity
from infinitfs.mount import mountpoint
from infinitfs.mount.log import start_log
from infinitfs.mount.notify import Notifier
from infinitfs.mount.profile import profiled
from infinitfs.mount.request import MountRequest
from infinitfs.mount.serving import FindAccount, serve
from infinitfs.storage.account import Account

_log = logging.getLogger(__name__)


def mount(
    paths: Paths,
    request: MountRequest,
    identity: Identity,
    account: Account | None,
    *,
    find_account: FindAccount,
    foreground: bool,
) -> None:
    """Mount a volume; returns once it is usable, or in the foreground once it is unmounted and drained. When it is told
    to look again (SIGHUP), `find_account` is asked.

    To be called before any thread is started: it forks. Raises MountFailed and what `open_session` raises.
    """
    mountpoint.prepare(Path(request.directory))
    if foreground:
        _log_to(Path(request.log_file) if request.log_file else None, request)
        _run(paths, request, identity, account, find_account, Notifier(os.environ), ready=lambda: None)
        return
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # Held back meanwhile: an interrupt that meets Python's own work before and after a fork is lost.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if os.fork():
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _await_answer(reader, request)
        return
    try:
        _detach(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _serve_in_background(paths, request, identity, account, find_account, writer)
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


def _detach(writer: int) -> None:
    """Nothing that was inherited held open but the terminal's descriptors, which lead nowhere, and `writer`; no folder
    held busy. Who interrupts the command before it has an answer ends this process, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir("/")
    for descriptor in {int(path.name) for path in Path("/proc/self/fd").iterdir()} - {0, 1, 2, writer}:
        with suppress(OSError):  # the one that was listed with
            os.close(descriptor)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def _serve_in_background(
    paths: Paths,
    request: MountRequest,
    identity: Identity,
    account: Account | None,
    find_account: FindAccount,
    writer: int,
) -> None:
    answered = False

    def answer(data: bytes) -> None:
        nonlocal answered
        if not answered:
            answered = True
            # Not sooner: an automount lets nobody but the process group of mount(8) near the folder until it is done.
            os.setsid()
            try:
                os.write(writer, data)
            except BrokenPipeError:  # who asked has gone; an interrupt of both may just have missed this process
                os.kill(os.getpid(), signal.SIGINT)
            os.close(writer)

    try:
        _log_to(_log_path(paths, request), request)
        _run(paths, request, identity, account, find_account, Notifier({}), ready=lambda: answer(b"ready"))
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


def _run(
    paths: Paths,
    request: MountRequest,
    identity: Identity,
    account: Account | None,
    find_account: FindAccount,
    notifier: Notifier,
    *,
    ready: Callable[[], None],
) -> None:
    keep_secrets()
    keep_memory()
    with profiled(request.profile):
        trio.run(serve, paths, request, identity, account, find_account, notifier, ready)
