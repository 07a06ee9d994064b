"""`infinitfs mount` and `infinitfs unmount`.

Above: `main.py` and `compat.py`. Below: `mount/daemon.py`, which mounts, and `mount/control.py`, which asks
a mount.
Invariant: `mount` exits with 0 only once the folder is usable, `unmount` only once everything is in the
storage.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.fstab import MountCommand, flags_option
from infinitfs.cli.invocation import Invocation
from infinitfs.cli.options import Size, acting_user, passphrase_sources, require
from infinitfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


_LINKS = 40  # that lead to one another: the kernel follows no more (path_resolution(7))
_ID = click.IntRange(0, 2**32 - 2)  # -1 is nobody's (chown(2))


class _Octal(click.ParamType[int]):
    name = "OCTAL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            mask = int(str(value), 8)
        except ValueError:
            mask = -1
        if not 0 <= mask <= 0o777:
            self.fail(f"{value} is not an octal number up to 777.", param, ctx)
        return mask


@click.command(
    "mount",
    cls=MountCommand,
    example="infinitfs mount drive ~/drive\n"
    "infinitfs mount drive ~/drive --fsync remote --cache-size 50GB --upload-limit 5MB\n"
    "infinitfs mount drive ~/drive -o ro,cache-size=50GB",
)
@click.argument("operands", metavar="NAME DIR", nargs=-1)
@click.option("--name", "-n", metavar="NAME", help="The volume's name; the first positional does the same.")
@click.option("--mountpoint", metavar="DIR", help="The folder; the last positional does the same.")
@acting_user
@click.option("--foreground", is_flag=True, help="Stay here until unmounted.")
@click.option("--read-only", is_flag=True, default=None, help="Allow no change.")
@click.option(
    "--fsync",
    type=click.Choice(["local", "remote"]),
    help="What fsync waits for: this machine's disk, or the storage [default: local].",
)
@click.option("--cache-size", type=Size(), help="The most the disk cache holds [default: 10GiB].")
@click.option("--cache-dir", metavar="DIR", help="Where the disk cache is [default: your cache folder].")
@click.option("--memory", type=Size(), help="Memory for blocks in use [default: 64MiB].")
@click.option("--backlog", type=Size(), help="The most that waits here for the storage [default: 10GiB].")
@click.option("--upload-limit", type=Size(), help="The most sent a second [default: no limit].")
@click.option("--download-limit", type=Size(), help="The most received a second [default: no limit].")
@click.option("--connections", type=click.IntRange(1, 1024), help="Requests in flight at once [default: 32].")
@click.option("--allow-other", is_flag=True, default=None, help="Let other users of this machine in.")
@click.option("--uid", type=_ID, help="Show every file as owned by this user id.")
@click.option("--gid", type=_ID, help="Show every file as owned by this group id.")
@click.option("--umask", type=_Octal(), help="Show every file without these permissions.")
@click.option("--take-over", is_flag=True, default=None, help="Take the volume from a machine that is lost.")
@click.option("--log-file", metavar="FILE", help="Where the mount logs [default: its state folder].")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How an event is written [default: text].")
@click.option("--profile", metavar="FILE", help="Measure the filesystem process; FILE is for `python -m pstats`.")
@flags_option
@passphrase_sources
@pass_invocation
def mount(
    invocation: Invocation,
    /,
    operands: tuple[str, ...],
    name: str | None,
    mountpoint: str | None,
    as_name: str | None,
    foreground: bool,
    **options: Any,
) -> None:
    """Mount the volume NAME at the folder DIR."""
    volume, directory = _name_and_directory(list(operands), name, mountpoint)
    user = invocation.store.volumes.get(volume).user
    if as_name is not None and as_name != user:
        raise UsageError(problem=f'The volume "{volume}" belongs to the user "{user}", not to "{as_name}".')
    for path in ("cache_dir", "log_file", "profile"):
        if options[path]:
            options[path] = str(absolute(options[path]))
    given = {option: value for option, value in options.items() if value is not None}
    where = mountpoint_of(directory)
    mount_volume(invocation, volume, where, foreground=foreground, **given)
    # In the foreground nobody waits for an answer, and the volume is unmounted by now.
    if not foreground:
        invocation.answer({"mounted": volume, "mountpoint": str(where)}, f'Mounted volume "{volume}" at {where}.')


@click.command("unmount", cls=Command, example="infinitfs unmount ~/drive")
@click.argument("directory", metavar="DIR")
@pass_invocation
def unmount(invocation: Invocation, directory: str) -> None:
    """Unmount the folder DIR once everything in it is in the storage."""
    from infinitfs.mount.control import ask, find_mount

    where = mountpoint_of(directory)
    volume_id = find_mount(invocation.paths, where)
    try:
        shown = not invocation.json and sys.stderr.isatty()
        last = _follow(ask(invocation.paths, volume_id, "unmount"), shown=shown)
    except KeyboardInterrupt:
        invocation.note("The mount goes on sending; the same command waits for it again.")
        raise
    asked = {field: last[field] for field in ("requests", "cost") if field in last}
    invocation.answer({"unmounted": str(where)} | asked, f"Unmounted {where}.{_account(last)}")


def mount_volume(
    invocation: Invocation, name: str, directory: Path, *, foreground: bool = False, **options: Any
) -> None:
    """Mount a volume; returns once it is usable, or in the foreground once it is unmounted.

    `options` are fields of `MountRequest`. Starts no thread before the mount has forked.
    """
    from infinitfs.cli.account import account_of_storage, open_volume
    from infinitfs.mount.daemon import mount as mount_now
    from infinitfs.mount.request import MountRequest

    opened = open_volume(invocation, name)
    request = MountRequest(volume=name, directory=str(directory), debug=invocation.debug, **options)
    mount_now(
        invocation.paths,
        request,
        opened.identity,
        opened.account,
        find_account=lambda: account_of_storage(invocation, opened.storage),
        foreground=foreground,
    )


def absolute(directory: str) -> Path:
    """The folder a user named, absolute; links in it are kept, as a stale mount cannot be looked into."""
    return Path(directory).expanduser().absolute()


def mountpoint_of(directory: str) -> Path:
    """The folder to mount at; where that is a link, what it leads to, as the kernel has it. What is mounted there may
    be dead or hang, and is not looked at."""
    from infinitfs.mount.mountpoint import is_mounted

    where = absolute(directory)
    for _ in range(_LINKS):
        if is_mounted(where) or not where.is_symlink():
            break
        target = where.parent / where.readlink()
        where = Path(os.path.realpath(target.parent), target.name)
    return where


def _name_and_directory(operands: list[str], name: str | None, mountpoint: str | None) -> tuple[str, str]:
    if name is None and operands:
        name = operands.pop(0)
    if mountpoint is None and operands:
        mountpoint = operands.pop(0)
    if operands:
        raise UsageError(problem=f'"{operands[0]}" is one argument too many: give a volume and a folder.')
    return require(name, "Volume name", "--name"), require(mountpoint, "Mountpoint", "--mountpoint")


def _account(state: dict[str, Any]) -> str:
    """What a mount has asked of the storage, as one more line; nothing where that is not known."""
    from infinitfs.cli.status import details
    from infinitfs.config.sizes import format_size

    if "requests" not in state:
        return ""
    shown = details(state)
    cost = f", {shown['cost']} at the prices of S3 Standard" if shown["cost"] else ""
    moved = f"{format_size(state['uploaded_bytes'])} up, {format_size(state['downloaded_bytes'])} down"
    return f"\nAsked of the storage: {shown['requests'] or 'nothing'}; {moved}{cost}."


def _follow(steps: "Iterator[dict[str, Any]]", *, shown: bool) -> dict[str, Any]:
    """Wait for the end of `steps`, with a bar of what is stored where somebody looks; returns the last one."""
    step: dict[str, Any] = {}
    if not shown:
        return [step, *steps][-1]
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("Storing"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        total = 0
        task = progress.add_task("", total=None)
        for step in steps:
            waiting = int(step["backlog_bytes"])
            total = max(total, waiting)
            progress.update(task, total=total, completed=total - waiting)
    return step
