"""`infinitfs doctor`: what stands in the way, and what to do about it.

Above: `main.py`. Below: the system's own files, `config/`, `storage/`, and the mounts there are.
Invariant: nothing is changed (what is written to try a storage is removed again) and nothing is asked; every finding
that is not `ok` names its remedy. A check that cannot be made on this machine says nothing.
"""

import os
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from infinitfs import __version__
from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.invocation import Invocation
from infinitfs.cli.options import passphrase_sources
from infinitfs.cli.status import read_status
from infinitfs.errors import InfinitfsError, LocalFileFailed, NotFound, WrongKey

if TYPE_CHECKING:
    from infinitfs.config.model import StorageRecord
    from infinitfs.config.store import Store
    from infinitfs.storage.account import Account

_ENOUGH_SPACE = 2**30
_ENOUGH_INODES = 10_000
_ENOUGH_FILES = 512  # open at once: sockets, packs, the database
_ENOUGH_MEMORY = 2**30
_PATIENCE = 5.0
"""Seconds a mount may take to answer before it counts as hanging."""
_CLOCK_UNSYNCHRONIZED = 5  # what adjtimex(2) calls TIME_ERROR


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it is, and what to do where that is not well."""

    check: str
    outcome: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""


@click.command("doctor", cls=Command, example="infinitfs doctor\ninfinitfs doctor --json")
@passphrase_sources
@click.pass_context
@pass_invocation
def doctor(invocation: Invocation, ctx: click.Context) -> None:
    """Check this machine and the configuration. Exits with 1 where something must be done."""
    invocation.may_ask = False
    failed = False
    for finding in _examine(invocation):
        failed |= finding.outcome == "failed"
        remedy = f"\n{'':9}what to do: {finding.remedy}" if finding.remedy else ""
        invocation.answer(asdict(finding), f"{finding.outcome:<7}  {finding.check}: {finding.detail}{remedy}")
    ctx.exit(failed)


def _examine(invocation: Invocation) -> Iterator[Finding]:
    root = os.geteuid() == 0
    paths = invocation.paths
    yield check_device(Path("/dev/fuse"))
    yield check_fusermount(shutil.which("fusermount3"), root=root)
    if not root:
        yield check_allow_other(Path("/etc/fuse.conf"))
    yield check_limits(resource.getrlimit)
    yield check_clock(_clock_state())
    yield check_permissions(paths.config)
    yield check_records(invocation.store)
    for what, folder in (("state", paths.state), ("cache", paths.cache)):
        yield check_folder(what, folder)
    yield check_mounts(mountpoints())
    yield from check_processes(invocation)
    yield from check_units(root=root)
    with suppress(LocalFileFailed):  # told as one of the records
        for name in invocation.store.storages.names():
            yield check_storage(invocation, name)


# --- the machine ---


def check_device(device: Path) -> Finding:
    """Whether the kernel offers FUSE to this user."""
    check = "fuse device"
    if not device.exists():
        return Finding(check, "failed", f"{device} is missing", "load the module: modprobe fuse")
    if not os.access(device, os.R_OK | os.W_OK):
        return Finding(check, "failed", f"{device} may not be opened", f"chmod 666 {device}, as root")
    return Finding(check, "ok", f"{device} can be opened")


def check_fusermount(program: str | None, *, root: bool) -> Finding:
    """Whether a user can mount; root needs no helper to mount, but to unmount."""
    check = "fusermount3"
    if program is None:
        return Finding(check, "failed", "not found", "install the package fuse3")
    if not root and not Path(program).stat().st_mode & stat.S_ISUID and not _has_capabilities(program):
        return Finding(check, "failed", f"{program} has no right to mount", f"chmod u+s {program}, as root")
    return Finding(check, "ok", program)


def _has_capabilities(program: str) -> bool:
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def check_allow_other(configuration: Path) -> Finding:
    """Whether a user's mount may be opened to others."""
    check = "allow-other"
    try:
        allowed = re.search(r"^\s*user_allow_other\s*$", configuration.read_text(), re.MULTILINE)
    except OSError:
        allowed = None
    if allowed:
        return Finding(check, "ok", f"{configuration} permits it")
    remedy = f"to use --allow-other, add the line user_allow_other to {configuration}"
    return Finding(check, "warning", f"{configuration} does not permit it", remedy)


def check_limits(limit: Any) -> Finding:
    """Whether a mount started from here has room; `limit` is resource.getrlimit."""
    check = "limits"
    for what, option, least in (
        (resource.RLIMIT_NOFILE, "n", _ENOUGH_FILES),
        (resource.RLIMIT_FSIZE, "f", resource.RLIM_INFINITY),
        (resource.RLIMIT_AS, "v", _ENOUGH_MEMORY),
    ):
        soft = limit(what)[0]
        if soft != resource.RLIM_INFINITY and (soft < least or least == resource.RLIM_INFINITY):
            wanted = "unlimited" if option != "n" else "4096"
            return Finding(
                check, "warning", f"`ulimit -{option}` is low: {soft}", f"ulimit -{option} {wanted}, then mount"
            )
    return Finding(check, "ok", f"{limit(resource.RLIMIT_NOFILE)[0]} open files, files and memory of any size")


def check_clock(state: int) -> Finding:
    """Whether anything keeps the clock right; `state` is the answer of adjtimex(2)."""
    check = "clock"
    if state == _CLOCK_UNSYNCHRONIZED:
        remedy = "timedatectl set-ntp true, or install chrony; S3 refuses a clock that is 15 minutes off"
        return Finding(check, "warning", "nothing keeps it right", remedy)
    return Finding(check, "ok", "synchronized")


def _clock_state() -> int:
    import ctypes

    question = ctypes.create_string_buffer(512)  # a struct timex of zeros, which has some 200 bytes: set nothing
    return int(ctypes.CDLL(None).adjtimex(question))


# --- what is kept here ---


def check_permissions(folder: Path) -> Finding:
    """Whether what is configured is this user's, and nobody else can read or change it."""
    check = "permissions"
    entries = [folder, *folder.rglob("*")] if os.access(folder, os.F_OK) else []
    for path in entries:
        status = path.lstat()
        if status.st_uid != os.geteuid():
            remedy = f"run this as that user, or chown {path}"
            return Finding(check, "failed", f"{path} belongs to another user", remedy)
        if stat.S_IMODE(status.st_mode) & 0o077 and not path.is_symlink():
            return Finding(check, "failed", f"others can get at {path}", f"chmod -R go= {folder}")
    return Finding(check, "ok", f"only you can get at {folder}")


def check_records(store: "Store") -> Finding:
    """Whether every record can be read."""
    check = "records"
    read = 0
    try:
        for collection in (store.users, store.credentials, store.storages, store.volumes):
            for name in collection.names():
                collection.get(name)
                read += 1
    except InfinitfsError as error:
        return Finding(check, "failed", "one cannot be read", str(error))
    return Finding(check, "ok", f"{read} can be read")


def check_folder(what: str, folder: Path) -> Finding:
    """Whether a folder can be written and has room."""
    existing = next((path for path in (folder, *folder.parents) if os.access(path, os.F_OK)), folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(what, "failed", f"{existing} cannot be written", f"make {existing} yours: chown it")
    room = os.statvfs(existing)
    free = room.f_bavail * room.f_frsize
    detail = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < _ENOUGH_SPACE:
        return Finding(what, "warning", detail, "make room there, or mount with a smaller --cache-size")
    if room.f_files and room.f_favail < _ENOUGH_INODES:
        return Finding(what, "warning", f"{room.f_favail} more files fit in {folder}", "delete files on that disk")
    return Finding(what, "ok", detail)


# --- mounts ---


def mountpoints(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """The folders where an infinitfs is mounted."""
    from infinitfs.mount.mountinfo import mounts

    return [mount.directory for mount in mounts(mountinfo) if "infinitfs" in mount.type or mount.source == "infinitfs"]


def check_mounts(folders: Iterable[str]) -> Finding:
    """Whether every mount answers. Looked at from a process of its own, which a dead mount may keep
    waiting."""
    check = "mounts"
    alive = 0
    for folder in folders:
        remedy = f"fusermount3 -u -z {folder}, then mount again"
        answer = _looked_at(folder)
        if answer is None:
            return Finding(check, "failed", f"{folder} does not answer", remedy)
        if answer and "denied" not in answer:  # not even root gets into another's mount
            return Finding(check, "failed", f"the process behind {folder} has gone", remedy)
        alive += 1
    return Finding(check, "ok", f"{alive} mounted, all answer" if alive else "none")


def _looked_at(folder: str) -> str | None:
    """What `stat` complained of, None where it did not come back. A process that waits for a mount may be past
    killing; then it is left behind, to end with that mount."""
    process = subprocess.Popen(
        ["stat", "--", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        _, complaint = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_PATIENCE)
        return None
    return complaint if process.returncode else ""


def check_processes(invocation: Invocation) -> Iterator[Finding]:
    """How the mounts of this user are, by their own account."""
    from infinitfs.mount.control import mounted

    for volume_id in mounted(invocation.paths):
        try:
            yield check_state(read_status(invocation, volume_id))
        except NotFound:
            continue  # it has ended since
        except InfinitfsError as error:
            yield Finding(f"mount {volume_id}", "failed", "says nothing", str(error))


def check_state(state: dict[str, Any]) -> Finding:
    """Whether a mount is well, and of the version that is installed."""
    check = f"mount {state['volume']}"
    if state["trouble"]:
        return Finding(check, "failed", state["state"], state["trouble"])
    version = state.get("version", "an older one")
    if version != __version__:
        remedy = f"infinitfs unmount {state['mountpoint']}, then mount again"
        return Finding(check, "warning", f"runs version {version}, installed is {__version__}", remedy)
    return Finding(check, "ok", f"{state['state']} at {state['mountpoint']}, version {version}")


def check_units(*, root: bool) -> Iterator[Finding]:
    """How systemd's units of volumes are, the machine's and the user's; nothing where systemd is not running."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return
    for manager in ((), ("--user",))[: 1 if root else 2]:
        command = ["systemctl", *manager, "show", "infinitfs@*", "--property=Id,ActiveState,SubState,NeedDaemonReload"]
        try:
            shown = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            continue
        for unit in units(shown.stdout):
            yield check_unit(unit, " ".join(manager))


def units(shown: str) -> list[dict[str, str]]:
    """The properties of units, of what `systemctl show` prints: a line each, an empty line between two units."""
    blocks = (block.splitlines() for block in shown.split("\n\n") if block.strip())
    return [dict(line.split("=", 1) for line in block if "=" in line) for block in blocks]


def check_unit(unit: dict[str, str], manager: str = "") -> Finding:
    """Whether a unit does what it should; `manager` is "--user" for one of the user's."""
    name, state = unit.get("Id", ""), unit.get("ActiveState", "")
    check = f"unit {name}"
    systemctl, journalctl = (" ".join(filter(None, (program, manager))) for program in ("systemctl", "journalctl"))
    if state == "failed" or unit.get("SubState") == "auto-restart":
        remedy = f"{journalctl} -u {name} says why; then {systemctl} restart {name}"
        return Finding(check, "failed", "it failed" if state == "failed" else "it fails again and again", remedy)
    if unit.get("NeedDaemonReload") == "yes":
        return Finding(check, "warning", "its files have changed", f"{systemctl} daemon-reload")
    return Finding(check, "ok", state)


# --- storages ---


def check_storage(invocation: Invocation, name: str) -> Finding:
    """Whether a storage answers, and lets this user do what a volume needs."""
    import trio

    from infinitfs.cli.account import account_of_storage

    check = f"storage {name}"
    try:
        record = invocation.store.storages.get(name)
        missing = trio.run(_missing_rights, record, account_of_storage(invocation, record))
    except WrongKey as error:
        return Finding(check, "warning", "not checked", str(error))
    except InfinitfsError as error:
        return Finding(check, "failed", "cannot be used", str(error))
    if missing:
        remedy = f"give the key the policy that `infinitfs storage policy {name}` prints"
        return Finding(check, "failed", f"the key may not {', '.join(missing)}", remedy)
    return Finding(check, "ok", "it can be read, written, listed and deleted from")


async def _missing_rights(record: "StorageRecord", account: "Account | None") -> list[str]:
    """What of a volume's needs is refused. Raises why nothing could be tried."""
    from infinitfs.config.model import FilesystemStorageRecord
    from infinitfs.storage.open import open_storage
    from infinitfs.storage.probe import check

    if isinstance(record, FilesystemStorageRecord):
        await check(open_storage(record, None))
        return []
    from infinitfs.storage.probe_s3 import rights

    if account is None:
        return []
    return [action for action, allowed in (await rights(record, account)).items() if not allowed]
