"""What commands do with volumes that are not mounted.

Above: `cli/`. Below: `compose` and the transfer process; every function runs its own event loop.
Invariant: a volume is in the configuration only once it is whole in its storage.
"""

import base64
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from infinitfs.config.model import StorageRecord, UserRecord, VolumeRecord
from infinitfs.config.paths import Paths, make_private
from infinitfs.errors import InfinitfsError, NotMember
from infinitfs.keys.identity import Identity
from infinitfs.mount.compose import open_session
from infinitfs.mount.folders import Folders, take_lock
from infinitfs.mount.request import MountRequest
from infinitfs.mount.session import DEADLINE
from infinitfs.storage.account import Account
from infinitfs.transfer.background import together
from infinitfs.transfer.base import Transfer
from infinitfs.transfer.client import open_transfer
from infinitfs.transfer.protocol import Open
from infinitfs.volume.clock import Clock
from infinitfs.volume.collector import Freed
from infinitfs.volume.descriptor import Parameters, create_descriptor, descriptor_key, open_descriptor

_log = logging.getLogger(__name__)

R = TypeVar("R")

_DELETIONS = 16


def create_volume(
    name: str,
    user: UserRecord,
    identity: Identity,
    storage: StorageRecord,
    account: Account | None,
    *,
    parameters: Parameters,
    description: str = "",
) -> VolumeRecord:
    """A new volume in `storage`, owned by `user`; returns the record, which the caller keeps."""
    created = Clock().timestamp()
    data, ring = create_descriptor(name, identity, user.name, parameters, created=created)

    async def store(transfer: Transfer) -> None:
        await transfer.put(descriptor_key(ring.volume_id, 1), data, create=True)

    _with_storage(storage, account, store)
    return VolumeRecord(
        name=name,
        volume=ring.volume_id.hex(),
        storage=storage.name,
        user=user.name,
        descriptor=base64.b64encode(data).decode(),
        created=created,
        description=description,
    )


def fetch_volumes(
    user: UserRecord, identity: Identity, storage: StorageRecord, account: Account | None
) -> list[VolumeRecord]:
    """All volumes in `storage` that `user` can open. A damaged descriptor is named in the log and passed over; where
    nothing else was found, the first one is raised."""

    async def find(transfer: Transfer) -> list[VolumeRecord]:
        found: list[VolumeRecord] = []
        problems: list[InfinitfsError] = []
        for key in await _newest_descriptors(transfer):
            data = await transfer.get(key)
            try:
                opened = open_descriptor(data, identity, key=key, user_name=user.name)
            except NotMember:
                continue
            except InfinitfsError as error:
                problems.append(error)
                continue
            found.append(
                VolumeRecord(
                    name=opened.name,
                    volume=opened.volume_id.hex(),
                    storage=storage.name,
                    user=user.name,
                    descriptor=base64.b64encode(data).decode(),
                    created=opened.created,
                )
            )
        for problem in problems if found else problems[1:]:
            _log.error("%s", problem)
        if problems and not found:
            raise problems[0]
        return found

    return _with_storage(storage, account, find)


async def _newest_descriptors(transfer: Transfer) -> list[str]:
    newest: dict[str, str] = {}
    for info in await transfer.list(""):
        volume, _, rest = info.key.partition("/")
        if rest.startswith("descriptor/"):
            newest[volume] = info.key  # keys come in order: the last version wins
    return list(newest.values())


def delete_volume(paths: Paths, record: VolumeRecord, storage: StorageRecord, account: Account | None) -> None:
    """Remove every object of the volume, its descriptor last, then its local state and cache. Raises StateLocked."""
    folders = Folders(paths, record.volume, "")
    lock = take_lock(folders, record.name)

    async def delete(transfer: Transfer) -> None:
        keys = [info.key for info in await transfer.list(f"{record.volume}/")]
        last = [key for key in keys if "/descriptor/" in key]
        await _delete_all(transfer, [key for key in keys if "/descriptor/" not in key])
        await _delete_all(transfer, last)

    try:
        _with_storage(storage, account, delete)
        shutil.rmtree(folders.cache)
        shutil.rmtree(folders.state)
    finally:
        os.close(lock)


def set_aside(paths: Paths, record: VolumeRecord) -> Path | None:
    """Move this machine's state of a volume out of the way, so that the next mount starts from what the storage holds.

    Returns the folder that keeps it, sealed as it was; None where there was none. Raises StateLocked.
    """
    folders = Folders(paths, record.volume, "")
    lock = take_lock(folders, record.name)
    try:
        moved = [path for path in folders.state.iterdir() if path.name.startswith(folders.database.name)]
        if not moved:
            return None
        kept = make_private(folders.state / f"aside-{Clock().timestamp().replace(':', '')}")
        # The log before its database: neither is ever used without the other.
        for path in (folders.staging, folders.intents, *sorted(moved, reverse=True)):
            path.rename(kept / path.name)
        return kept
    finally:
        os.close(lock)


async def _delete_all(transfer: Transfer, keys: list[str]) -> None:
    limiter = trio.CapacityLimiter(_DELETIONS)

    async def delete(key: str) -> None:
        async with limiter:
            await transfer.delete(key)

    async with together() as nursery:
        for key in keys:
            nursery.start_soon(delete, key)


def collect_garbage(paths: Paths, record: VolumeRecord, identity: Identity, account: Account | None) -> Freed:
    """Free the dead packs of a volume that is not mounted."""

    async def collect() -> Freed:
        async with open_session(paths, MountRequest(volume=record.name), identity, account) as session:
            return await session.volume.collect()

    return trio.run(collect)


def _with_storage(storage: StorageRecord, account: Account | None, work: Callable[[Transfer], Awaitable[R]]) -> R:
    async def run() -> R:
        async with open_transfer(Open(record=storage, account=account, deadline=DEADLINE)) as transfer:
            return await work(transfer)

    return trio.run(run)
