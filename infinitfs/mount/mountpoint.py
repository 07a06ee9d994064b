"""The folder that a volume is mounted at: made ready, unmounted, and what the kernel still holds of it.

Above: `daemon`, `serving`. Below: fusermount3, /proc, one call of libc.
Invariant: nothing here trusts a folder to answer: a mount whose process was killed fails every look into it, and one
that hangs never returns from it. Every call may take long, so the loop of a mount makes them in a thread.
"""

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from infinitfs.errors import InUse, MountFailed, UnmountFailed
from infinitfs.mount.mountinfo import on_top

_PATIENCE = 10.0  # seconds that what is mounted at a folder has to answer
_LAYERS = 8  # killed mounts may lie on top of each other; more than this is something else


def prepare(directory: Path) -> None:
    """A folder to mount at: made where it is missing, cleared of what killed mounts left there.

    Raises MountFailed, InUse where something is mounted there that works or hangs.
    """
    if is_mounted(directory):
        _check_answer(directory)
    for _ in range(_LAYERS):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            os.scandir(directory).close()
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # that of a mount whose process is gone
                raise MountFailed(mountpoint=str(directory), reason=error.strerror or str(error)) from None
            unmount(directory, lazy=True)
        else:
            break
    if is_mounted(directory):
        raise InUse(what=str(directory), remedy="something is mounted there: unmount it or choose another folder")


def _check_answer(directory: Path) -> None:
    """A look at a folder in a process of its own, which can be ended where it takes too long."""
    command = [sys.executable, "-ISc", "import os, sys; os.scandir(sys.argv[1])", str(directory)]
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    looking = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
    descriptor = os.pidfd_open(looking)
    try:
        if not select.select([descriptor], [], [], _PATIENCE)[0]:
            os.kill(looking, signal.SIGKILL)  # not waited for: what the filesystem has read nothing interrupts
            remedy = "what is mounted there does not answer: end its process, then try again"
            raise InUse(what=str(directory), remedy=remedy)
        os.waitpid(looking, 0)
    finally:
        os.close(descriptor)


def is_mounted(directory: Path) -> bool:
    """Whether anything is mounted at `directory`, by the kernel's table: the folder is not looked into. An automount
    that waits for a mount is none itself."""
    place = Path(os.path.realpath(directory.parent), directory.name)
    mount = on_top(str(place))
    return mount is not None and mount.type != "autofs"


def unmount(directory: Path, *, lazy: bool = False) -> None:
    """Take the mount away, with `lazy` from those that come, while who uses it goes on; done where there is none.

    Raises InUse where a program uses it, UnmountFailed.
    """
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(directory)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise UnmountFailed(
            mountpoint=str(directory), reason="fusermount3 is not installed (Debian: apt install fuse3)"
        ) from None
    if done.returncode == 0 or not is_mounted(directory):
        return
    reason = done.stderr.strip().removeprefix("fusermount3: ") or f"fusermount3: exit status {done.returncode}"
    if os.strerror(errno.EBUSY) in reason:
        raise InUse(what=str(directory), remedy=f"close what uses it, then try again ({reason})")
    raise UnmountFailed(mountpoint=str(directory), reason=reason)


def write_back(directory: Path) -> None:
    """Have the kernel send what programs have written and it still holds; that it arrives is not waited for
    (syncfs(2); a FUSE filesystem is not told)."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None).syncfs(descriptor)
        finally:
            os.close(descriptor)


def is_connected() -> bool:
    """Whether the kernel still has requests for this process, which serves one mount.

    The connection ends with the last mount of it in any namespace and the last file open on it; from that moment on
    its descriptor is in error (fuse_dev_poll in Linux's fs/fuse/dev.c). The loop notices, too, and closes it: it may be
    gone, or be another file's, between any two lines here, which run in a thread.
    """
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(descriptor.readlink()) == "/dev/fuse":
                connection = select.poll()
                connection.register(int(descriptor.name), 0)
                ended = any(events & (select.POLLERR | select.POLLNVAL) for _, events in connection.poll(0))
                if not ended and str(descriptor.readlink()) == "/dev/fuse":
                    return True
    return False
