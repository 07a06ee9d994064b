"""A checkpoint of a volume that is not mounted, and what of it was sent.

Above: `limits`. Below: `infinitfs.mount.compose`, `infinitfs.volume.checkpoint`.
Invariant: as after `unmount`, the volume is nobody's afterwards.
"""

from dataclasses import dataclass

import trio

from benchmarks.subjects import Infinitfs, wait_until
from infinitfs.config.paths import Paths
from infinitfs.config.store import Store
from infinitfs.keys.identity import Identity
from infinitfs.mount.compose import open_record, open_session
from infinitfs.mount.request import MountRequest
from infinitfs.volume.checkpoint import CHECKPOINTS, Group, open_manifest
from infinitfs.volume.namespace import ROOT
from tests.support.mounted import USER, VOLUME

_FILE = 0o100644


@dataclass(frozen=True)
class Checkpoint:
    """The page groups of the database, in order."""

    groups: list[Group]

    @property
    def digests(self) -> set[bytes]:
        return {group.digest for group in self.groups}

    def sent_since(self, older: "Checkpoint") -> set[bytes]:
        """The groups that were not in a pack of `older`."""
        known = {group.pack for group in older.groups}
        return {group.digest for group in self.groups if group.pack not in known}


def take(subject: Infinitfs) -> Checkpoint:
    """Take a checkpoint of the subject's volume, after one small change."""
    paths = Paths.from_environment(subject.machine.environ)
    store = Store(paths)
    private = store.users.get(USER).private
    assert private is not None
    identity = Identity.from_record(private, None)
    request = MountRequest(volume=VOLUME)
    account = subject.service.keys if subject.service is not None else None
    before = _newest(subject)

    async def force() -> None:
        async with open_session(paths, request, identity, account) as session:
            session.volume.checkpointer.forced = True
            await session.volume.create(ROOT, b"made after " + before.encode().replace(b"/", b"-"), _FILE, 0, 0)
            await session.volume.fsync(ROOT)
            await trio.to_thread.run_sync(wait_until, lambda: _newest(subject) != before, "a checkpoint")
            await session.drain()

    trio.run(force)
    newest = _newest(subject)
    opened = open_record(store.volumes.get(VOLUME), identity)
    position = CHECKPOINTS.position(newest)
    assert position is not None
    return Checkpoint(open_manifest(opened.ring, opened.member, position, subject.fetch(newest)).groups)


def _newest(subject: Infinitfs) -> str:
    """The key of the newest manifest, empty where there is none: keys sort as positions do."""
    return max((key for key in subject.stored() if f"/{CHECKPOINTS.folder}/" in key), default="")
