"""A `mount/` that is only pretended: it records what the command line asks of it.

Above: tests of `cli/`. Below: nothing is mounted and no storage is opened.
Invariant: the signatures and the fields are those of `infinitfs.mount`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from click.testing import Result

from infinitfs.config.model import VolumeRecord
from infinitfs.errors import InfinitfsError, NotFound
from infinitfs.mount.request import MountRequest

Run = Callable[..., Result]
"""`run("user", "list", input="...", VARIABLE="...")`: the program, in the process of the test."""


class GarbageReport(msgspec.Struct):
    packs: int
    bytes: int


class Mounts:
    """What `mount/` would do, recorded. `calls` lists the name and the arguments of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.mountpoints: dict[str, str] = {}
        self.elsewhere: list[VolumeRecord] = []
        self.failure: InfinitfsError | None = None

    def call(self, name: str) -> dict[str, Any]:
        """The arguments of the one call of `name`."""
        (arguments,) = [arguments for called, arguments in self.calls if called == name]
        return arguments

    def _record(self, called: str, /, **arguments: Any) -> None:
        self.calls.append((called, arguments))
        if self.failure is not None:
            raise self.failure

    # --- daemon ---

    def mount(
        self, paths: Any, request: MountRequest, identity: Any, account: Any, *, find_account: Any, foreground: bool
    ) -> None:
        assert find_account() == account
        self._record("mount", request=request, identity=identity, account=account, foreground=foreground)
        volume = msgspec.json.decode((paths.config / "volumes" / f"{request.volume}.json").read_bytes())
        self.mountpoints[volume["volume"]] = request.directory

    # --- control ---

    def find_mount(self, paths: Any, directory: Path) -> str:
        for volume_id, mountpoint in self.mountpoints.items():
            if mountpoint == str(directory):
                return volume_id
        raise NotFound(what=f"A mount at {directory}", remedy="`infinitfs status` shows those there are")

    def mounted(self, paths: Any) -> list[str]:
        return sorted(self.mountpoints)

    def is_mounted(self, directory: Path) -> bool:
        return str(directory) in self.mountpoints.values()

    def ask(
        self, paths: Any, volume_id: str, command: str, *, patience: float | None = None, **arguments: Any
    ) -> Iterator[dict[str, Any]]:
        if command == "status":
            yield status_of(volume_id, self.mountpoints[volume_id])
        elif command == "renew":
            self._record("renew", volume_id=volume_id, **arguments)
        elif command == "collect":
            yield {"packs": 2, "bytes": 2048}
        elif command == "unmount":
            yield {"state": "draining", "backlog_bytes": 5000, "backlog_packs": 1}
            self._record("unmount", volume_id=volume_id)
            yield {"state": "draining", "backlog_bytes": 0, "backlog_packs": 0}
            del self.mountpoints[volume_id]

    # --- admin ---

    def create_volume(
        self, name: str, user: Any, identity: Any, storage: Any, account: Any, **options: Any
    ) -> VolumeRecord:
        self._record(
            "create_volume",
            name=name,
            user=user,
            identity=identity,
            storage=storage,
            account=account,
            **options,
        )
        return volume_record(name, user.name, storage.name)

    def fetch_volumes(self, user: Any, identity: Any, storage: Any, account: Any) -> list[VolumeRecord]:
        self._record("fetch_volumes", user=user, identity=identity, storage=storage, account=account)
        return self.elsewhere

    def delete_volume(self, paths: Any, record: Any, storage: Any, account: Any) -> None:
        self._record("delete_volume", record=record, storage=storage, account=account)

    def collect_garbage(self, paths: Any, record: Any, identity: Any, account: Any) -> GarbageReport:
        self._record("collect_garbage", record=record, identity=identity, account=account)
        return GarbageReport(packs=3, bytes=24_000_000)


def volume_record(name: str, user: str, storage: str) -> VolumeRecord:
    return VolumeRecord(
        name=name,
        volume=name.encode().hex().ljust(32, "0"),
        storage=storage,
        user=user,
        descriptor="",
        created="2026-01-01T00:00:00Z",
    )


def status_of(volume_id: str, mountpoint: str) -> dict[str, Any]:
    """A status with the fields of `infinitfs.mount.session.Status`."""
    return {
        "version": "0.1.0",
        "volume": bytes.fromhex(volume_id).rstrip(b"\0").decode(),
        "volume_id": volume_id,
        "mountpoint": mountpoint,
        "state": "ready",
        "backlog_bytes": 1_500_000,
        "backlog_packs": 2,
        "backlog_records": 3,
        "last_stored": None,
        "position": 7,
        "cache_bytes": 10_000_000,
        "cache_limit": 20_000_000,
        "cache_hits": 3,
        "cache_misses": 1,
        "uploaded_bytes": 4000,
        "downloaded_bytes": 5000,
        "upload_rate": 120_000.0,
        "download_rate": 0.0,
        "drain_seconds": 12.5,
        "operations": {
            "lookup": {"count": 3000, "seconds": 0.06, "slowest": 0.004, "failures": 0},
            "read": {"count": 200, "seconds": 0.5, "slowest": 0.25, "failures": 1},
        },
        "requests": {
            "put": {"count": 12, "bytes": 4000, "failed": 2},
            "get": {"count": 3, "bytes": 5000, "failed": 0},
            "list": {"count": 0, "bytes": 0, "failed": 0},
            "delete": {"count": 0, "bytes": 0, "failed": 0},
        },
        "cost": 0.0125,
        "errors": 0,
        "restarts": 0,
        "trouble": None,
        "mounted_since": "2026-11-22T09:00:00Z",
        "pid": 4242,
    }
