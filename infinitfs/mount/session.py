"""A session: one open volume, and what is said of it.

Above: `serving`, which serves it to the kernel, `admin`, and `compose`, which makes one. Below: `volume/`, `transfer/`.
Invariant: `status` asks nothing of the storage and waits for nothing. A drain returns only once everything is in the
storage.
"""

import os
from collections.abc import Mapping

import msgspec
import trio

from infinitfs import __version__
from infinitfs.block.staging import Staging
from infinitfs.errors import NotDrained
from infinitfs.mount.metrics import Rates, Throughput, Timing
from infinitfs.mount.request import MountRequest
from infinitfs.storage.account import Account
from infinitfs.transfer.background import together
from infinitfs.transfer.cache import PackCache
from infinitfs.transfer.client import TransferClient
from infinitfs.volume.clock import Clock
from infinitfs.volume.descriptor import OpenedVolume
from infinitfs.volume.publisher import Publisher
from infinitfs.volume.volume import Volume

DEADLINE = 30.0  # seconds one request is tried before the storage counts as unreachable
GIVE_UP = 10.0  # seconds of trouble after which a drain that somebody waits for gives up


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a mount says of itself; sizes in bytes, rates in bytes a second, times in RFC 3339, `operations` by the name
    that FUSE has for them, `requests` as `storage.ledger.Usage` by kind, `cost` in US dollars."""

    version: str
    volume: str
    volume_id: str
    mountpoint: str
    state: str
    backlog_bytes: int
    backlog_packs: int
    backlog_records: int
    last_stored: str | None
    position: int
    cache_bytes: int
    cache_limit: int
    cache_hits: int
    cache_misses: int
    uploaded_bytes: int
    downloaded_bytes: int
    upload_rate: float
    download_rate: float
    drain_seconds: float | None
    operations: Mapping[str, Timing]
    requests: Mapping[str, Mapping[str, int]]
    cost: float | None
    errors: int
    restarts: int
    trouble: str | None
    mounted_since: str
    pid: int


class Session:
    """An open volume and what `status` reports of it."""

    def __init__(
        self,
        *,
        request: MountRequest,
        opened: OpenedVolume,
        volume: Volume,
        staging: Staging,
        cache: PackCache,
        transfer: TransferClient,
    ) -> None:
        self.volume = volume
        self._request = request
        self._opened = opened
        self._staging = staging
        self._cache = cache
        self._transfer = transfer
        self._since = Clock().timestamp()
        self._throughput = Throughput()
        self.draining = False
        self.timings: Mapping[str, Timing] = {}
        """What who serves the kernel counts."""

    def renew(self, account: Account) -> None:
        """From now on the storage is asked with these keys."""
        self._transfer.renew(account)

    def rates(self) -> Rates:
        """How fast bytes move; asked for again and again, it knows the last 15 seconds."""
        stats = self._transfer.stats
        return self._throughput.observe(trio.current_time(), stats.uploaded, stats.downloaded, self.volume.backlog)

    def requests(self) -> dict[str, dict[str, int]]:
        """What was asked of the storage, as `storage.ledger.Usage` by kind; also after the session has ended."""
        return {kind: msgspec.structs.asdict(usage) for kind, usage in self._transfer.stats.ledger.requests.items()}

    def status(self) -> Status:
        publisher = self.volume.publisher
        stats = self._transfer.stats
        rates = self.rates()
        return Status(
            version=__version__,
            volume=self._request.volume,
            volume_id=self._opened.volume_id.hex(),
            mountpoint=self._request.directory,
            state=self._state(),
            backlog_bytes=self.volume.backlog,
            backlog_packs=self._staging.packs,
            backlog_records=publisher.pending_records,
            last_stored=publisher.last_stored,
            position=publisher.position,
            cache_bytes=self._cache.used,
            cache_limit=self._cache.limit,
            cache_hits=self._cache.hits,
            cache_misses=self._cache.misses,
            uploaded_bytes=stats.uploaded,
            downloaded_bytes=stats.downloaded,
            upload_rate=rates.upload,
            download_rate=rates.download,
            drain_seconds=rates.drain,
            operations=self.timings,
            requests=self.requests(),
            cost=stats.ledger.cost,
            errors=stats.errors,
            restarts=stats.restarts,
            mounted_since=self._since,
            trouble=str(trouble) if (trouble := self.volume.trouble) else None,
            pid=os.getpid(),
        )

    def _state(self) -> str:
        publisher = self.volume.publisher
        if self._request.read_only or publisher.fenced is not None or self.volume.database.failed is not None:
            return "read-only"
        if self.draining:
            return "draining"
        return "offline" if publisher.trouble is not None else "ready"

    async def drain(self, *, patience: float = GIVE_UP) -> None:
        """Everything is in the storage when this returns; of a volume mounted read-only nothing goes there.

        Raises NotDrained once the storage has taken nothing for `patience` seconds, Fenced; what is left is durable
        here.
        """
        self.draining = True
        if self._request.read_only:
            return  # what a killed mount left here waits for one that may write
        self.volume.hold()
        await self.volume.settle()
        publisher = self.volume.publisher
        with trio.CancelScope() as scope:
            async with together() as nursery:
                nursery.start_soon(_watch, publisher, patience, scope)
                await publisher.publish_all()
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            raise NotDrained(bytes=f"{self.volume.backlog:,} bytes", reason=str(publisher.trouble))


async def _watch(publisher: Publisher, patience: float, scope: trio.CancelScope) -> None:
    """Cancel `scope` once trouble has lasted `patience` seconds without anything getting through."""
    since = None
    while True:
        if publisher.trouble is None:
            since = None
        elif since is None:
            since = trio.current_time()
        elif trio.current_time() - since >= patience:
            scope.cancel()
        await trio.sleep(0.2)
