"""`infinitfs copy`: a copy inside a mounted volume that moves no data.

Above: `main.py`. Below: the mounted folder, where this makes the names as any program does, so that the kernel checks
every permission; and the mount over `mount/control.py`, which lets a new file refer to the blocks of another.
Invariant: a copy is made of what the file held when it was asked for, written back or not; afterwards the two have
nothing to do with each other.
"""

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.invocation import Invocation
from infinitfs.errors import LocalFileFailed, UsageError

Clone = Callable[[int, int, int], None]
"""Of inode numbers and a length: the second file's first bytes become those of the first one."""


@click.command("copy", cls=Command, example="infinitfs copy ~/drive/film.mov ~/drive/cut.mov")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--recursive", "-r", is_flag=True, help="Copy a folder and all that is in it.")
@click.option("--preserve", "-p", is_flag=True, help="Keep owner, mode, times and attributes.")
@pass_invocation
def copy(invocation: Invocation, source: str, target: str, recursive: bool, preserve: bool) -> None:
    """Copy SRC to DST inside a mounted folder, at once and at no cost: both share what is stored."""
    from infinitfs.cli.mount import absolute
    from infinitfs.mount.control import ask, find_mount

    origin, place = absolute(source), absolute(target)
    try:
        if place.is_dir():
            place = place / origin.name
        mountpoint = _mountpoint(origin)
        if mountpoint != _mountpoint(place.parent):
            raise UsageError(problem=f"{source} and {target} are not in the same mounted folder: use cp.")
        volume_id = find_mount(invocation.paths, mountpoint)
        if origin.is_dir() and not recursive:
            raise UsageError(problem=f"{source} is a folder: copy it with -r.")
        if origin.is_dir() and place.resolve().is_relative_to(origin.resolve()):
            raise UsageError(problem=f"{source} cannot be copied into itself.")

        def clone(one: int, other: int, length: int) -> None:
            for _ in ask(invocation.paths, volume_id, "clone", source=one, target=other, length=length):
                pass

        _copy(origin, place, clone, follow=not recursive, preserve=preserve)
    except OSError as error:
        where = os.fsdecode(error.filename or origin)
        raise LocalFileFailed(path=where, action="copied", reason=error.strerror or str(error)) from None
    invocation.answer({"copied": str(origin), "to": str(place)}, f"Copied {origin} to {place}.")


def _mountpoint(path: Path) -> Path:
    """Where the filesystem that holds `path` is mounted."""
    path = path.resolve(strict=True)
    return next(folder for folder in (path, *path.parents) if folder.is_mount())


def _copy(source: Path, target: Path, clone: Clone, *, follow: bool, preserve: bool) -> None:
    """One entry and, of a folder, all below it; links in a folder are copied as links."""
    status = source.stat(follow_symlinks=follow)
    if stat.S_ISDIR(status.st_mode):
        names = sorted(entry.name for entry in source.iterdir())
        made = not target.is_dir()
        if made:
            target.mkdir(mode=stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
        for name in names:
            _copy(source / name, target / name, clone, follow=False, preserve=preserve)
        if made and not preserve:
            target.chmod(stat.S_IMODE(status.st_mode) & stat.S_IMODE(target.stat().st_mode))
    elif stat.S_ISLNK(status.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISREG(status.st_mode):
        _copy_file(source, target, clone)
    else:
        os.mknod(target, status.st_mode, status.st_rdev)
    if preserve:
        with suppress(PermissionError):  # as cp: who may not give a file away owns the copy
            os.chown(target, status.st_uid, status.st_gid, follow_symlinks=follow)
        shutil.copystat(source, target, follow_symlinks=follow)


def _copy_file(source: Path, target: Path, clone: Clone) -> None:
    with source.open("rb") as origin:
        os.fsync(origin.fileno())  # what the kernel has not written back is not in the mount yet
        status = os.fstat(origin.fileno())
        if target.exists() and target.samefile(source):
            raise UsageError(problem=f"{source} and {target} are the same file.")
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, stat.S_IMODE(status.st_mode) & 0o777)
        try:
            os.ftruncate(descriptor, status.st_size)  # the kernel keeps the sizes of open files itself
            clone(status.st_ino, os.fstat(descriptor).st_ino, status.st_size)
        finally:
            os.close(descriptor)
