"""`infinitfs doctor`: what stands in the way, and what to do about it.

Above: `main.py`. Below: the system's own files, `config/` and `storage/`.
Invariant: nothing is changed and nothing is asked; every finding that is not `ok` names its remedy.
"""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.invocation import Invocation
from infinitfs.cli.options import passphrase_sources
from infinitfs.errors import InfinitfsError, WrongKey

if TYPE_CHECKING:
    from infinitfs.config.model import StorageRecord
    from infinitfs.config.store import Store
    from infinitfs.storage.account import Account

_ENOUGH_SPACE = 2**30
_PATIENCE = 5.0
"""Seconds a mount may take to answer before it counts as hanging."""


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
    findings = list(_examine(invocation))
    rows = [asdict(finding) for finding in findings]
    invocation.answer_table(rows, {"outcome": "OUTCOME", "check": "CHECK", "detail": "DETAIL", "remedy": "WHAT TO DO"})
    ctx.exit(any(finding.outcome == "failed" for finding in findings))


def _examine(invocation: Invocation) -> Iterator[Finding]:
    root = os.geteuid() == 0
    paths = invocation.paths
    yield check_device(Path("/dev/fuse"))
    yield check_fusermount(shutil.which("fusermount3"), root=root)
    if not root:
        yield check_allow_other(Path("/etc/fuse.conf"))
    yield check_permissions(paths.config)
    yield check_records(invocation.store)
    for what, folder in (("state", paths.state), ("cache", paths.cache)):
        yield check_folder(what, folder)
    yield check_mounts(mountpoints(Path("/proc/self/mountinfo").read_text()))
    for name in invocation.store.storages.names():
        yield check_storage(invocation, name)


def check_device(device: Path) -> Finding:
    """Whether the kernel offers FUSE to this user."""
    check = "fuse device"
    if not device.exists():
        return Finding(check, "failed", f"{device} is missing", "load the module: modprobe fuse")
    if not os.access(device, os.R_OK | os.W_OK):
        return Finding(check, "failed", f"{device} may not be opened", f"chmod 666 {device}, as root")
    return Finding(check, "ok", f"{device} can be opened")


def check_fusermount(program: str | None, *, root: bool) -> Finding:
    """Whether a user can mount; root needs no helper."""
    check = "fusermount3"
    if program is not None:
        return Finding(check, "ok", program)
    remedy = "install the package fuse3"
    if root:
        return Finding(check, "warning", "not found; root can mount without it", remedy)
    return Finding(check, "failed", "not found", remedy)


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


def check_permissions(folder: Path) -> Finding:
    """Whether anybody else can read or change what is configured."""
    check = "permissions"
    entries = [folder, *folder.rglob("*")] if folder.exists() else []
    for path in entries:
        if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not path.is_symlink():
            return Finding(check, "failed", f"others can get at {path}", f"chmod -R go= {folder}")
    return Finding(check, "ok", f"only you can get at {folder}")


def check_records(store: "Store") -> Finding:
    """Whether every record can be read."""
    check = "records"
    read = 0
    for collection in (store.users, store.credentials, store.storages, store.volumes):
        for name in collection.names():
            try:
                collection.get(name)
            except InfinitfsError as error:
                return Finding(check, "failed", "one cannot be read", str(error))
            read += 1
    return Finding(check, "ok", f"{read} can be read")


def check_folder(what: str, folder: Path) -> Finding:
    """Whether a folder can be written and has room."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(what, "failed", f"{existing} cannot be written", f"make {existing} yours: chown it")
    free = shutil.disk_usage(existing).free
    detail = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < _ENOUGH_SPACE:
        return Finding(what, "warning", detail, "make room there, or mount with a smaller --cache-size")
    return Finding(what, "ok", detail)


def mountpoints(mountinfo: str) -> list[str]:
    """The folders where an infinitfs is mounted, of the text of /proc/self/mountinfo (proc(5))."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if "infinitfs" in right.partition(" ")[0] or "infinitfs" in right.split(" ")[1:2]:
            escaped = left.split(" ")[4]
            found.append(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped))
    return found


def check_mounts(folders: Iterable[str]) -> Finding:
    """Whether every mount answers. Looked at from a process of its own, which a dead mount may keep
    waiting."""
    check = "mounts"
    alive = 0
    for folder in folders:
        remedy = f"fusermount3 -u -z {folder}, then mount again"
        try:
            answer = subprocess.run(["stat", "--", folder], capture_output=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            return Finding(check, "failed", f"{folder} does not answer", remedy)
        if answer.returncode != 0:
            return Finding(check, "failed", f"the process behind {folder} has gone", remedy)
        alive += 1
    return Finding(check, "ok", f"{alive} mounted, all answer" if alive else "none")


def check_storage(invocation: Invocation, name: str) -> Finding:
    """Whether a storage answers a listing."""
    import trio

    from infinitfs.cli.account import account_of_storage

    check = f"storage {name}"
    try:
        record = invocation.store.storages.get(name)
        trio.run(_reach, record, account_of_storage(invocation, record))
    except WrongKey as error:
        return Finding(check, "warning", "not checked", str(error))
    except InfinitfsError as error:
        return Finding(check, "failed", "cannot be used", str(error))
    return Finding(check, "ok", "it answers")


async def _reach(record: "StorageRecord", account: "Account | None") -> None:
    import trio

    from infinitfs.storage.open import open_storage

    storage = await trio.to_thread.run_sync(open_storage, record, account)
    try:
        # One short listing of nothing: it asks for the bucket, the key and the right to list, and moves
        # no data.
        async for _ in storage.list("doctor/"):
            break
    finally:
        await storage.aclose()
