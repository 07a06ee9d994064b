"""What a storage gives: the latency of each request, throughput by the number of connections, and what a mount makes
of it.

Above: `cli/benchmark`. Below: a backend of `storage/`, asked directly: no retries hide what a request takes.
Invariant: nothing is written before the right to delete it was seen; whatever ends a run, an interrupt too, all that
it has written is removed before it returns. What cannot be removed is named.
"""

import random
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import trio

from infinitfs.benchmark.format import format_quantity, format_seconds
from infinitfs.benchmark.regions import Progress
from infinitfs.benchmark.results import CURVES, Result, Row
from infinitfs.benchmark.summary import flat, knee, summarize
from infinitfs.config.model import S3StorageRecord, StorageRecord
from infinitfs.config.sizes import format_size
from infinitfs.errors import InfinitfsError, StorageFailed
from infinitfs.file.readahead import IN_FLIGHT
from infinitfs.storage.account import Account
from infinitfs.storage.base import Storage
from infinitfs.storage.ledger import Ledger
from infinitfs.storage.open import open_storage
from infinitfs.storage.probe import check_filesystem
from infinitfs.storage.retry import RetryStorage
from infinitfs.storage.trace import TraceStorage
from infinitfs.transfer.background import together
from infinitfs.transfer.runs import SECTOR
from infinitfs.volume.clock import Clock
from infinitfs.volume.descriptor import Parameters

LEVELS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of connections that throughput is measured with, until more of them gain nothing."""

SAMPLES = 20
SECONDS = 2.0
"""How long throughput is measured with each number of connections."""

PACK = Parameters().pack
_SIZES = {"4 KiB": 4096, "256 KiB": 256 << 10, "a pack": PACK}
_MOST = 128 << 20  # bytes, after which one level of throughput has shown enough
_CLEANERS = 16
_CLEAN_UP = 30.0  # seconds an object that does not go is tried to be removed

T = TypeVar("T")


async def measure_storage(
    record: StorageRecord,
    account: Account | None,
    *,
    samples: int = SAMPLES,
    seconds: float = SECONDS,
    levels: Sequence[int] = LEVELS,
    progress: Progress,
    interrupted: Callable[[], None],
) -> Result:
    """Measure in a folder of its own, which is empty again after it.

    SIGINT, SIGTERM and SIGHUP end it: `interrupted` is told at once, KeyboardInterrupt is raised once all is removed.
    Raises what a check of the storage raises, StorageFailed where objects were left behind.
    """
    result = None
    async with together() as nursery:
        nursery.start_soon(_heed_signals, nursery.cancel_scope, interrupted)
        with trio.CancelScope(shield=True):  # a check removes what it writes, unless it is cut short
            await _check(record, account)
        result = await _measure(record, account, samples, seconds, levels, progress)
        nursery.cancel_scope.cancel()
    if result is None:
        raise KeyboardInterrupt
    return result


async def _check(record: StorageRecord, account: Account | None) -> None:
    if isinstance(record, S3StorageRecord):
        from infinitfs.storage.probe_s3 import check_s3

        assert account is not None
        await check_s3(record, account)
    else:
        await check_filesystem(record)


async def _heed_signals(scope: trio.CancelScope, interrupted: Callable[[], None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            if not scope.cancel_called:
                interrupted()
            scope.cancel()


async def _measure(
    record: StorageRecord,
    account: Account | None,
    samples: int,
    seconds: float,
    levels: Sequence[int],
    progress: Progress,
) -> Result:
    opening = partial(open_storage, record, account, connections=max(levels))
    storage = await trio.to_thread.run_sync(opening)
    ledger = Ledger()
    try:
        bench = _Bench(TraceStorage(storage, ledger.note), samples, seconds, levels, progress)
        try:
            rows = await bench.latencies()
            curves = await bench.curves()
        finally:
            with trio.CancelScope(shield=True):
                await bench.clean_up()
    finally:
        await storage.aclose()
    return Result(
        kind="storage",
        subject=record.name,
        created=Clock().timestamp(),
        rows=rows,
        curves=curves,
        conclusion=_conclusion(rows, curves, ledger.cost if isinstance(record, S3StorageRecord) else None),
        options=["--connections", str(connections_for(curves))],
    )


def connections_for(curves: Mapping[str, Mapping[int, float]]) -> int:
    """As many connections as the most demanding kind of work can use."""
    return max(knee(curve) for curve in curves.values())


class _Bench:
    """One run. `_stored` are the keys of what the storage has taken."""

    def __init__(
        self, storage: Storage, samples: int, seconds: float, levels: Sequence[int], progress: Progress
    ) -> None:
        self._storage = storage
        self._samples = samples
        self._seconds = seconds
        self._levels = levels
        self._progress = progress
        # "packs": what is measured is the class that packs are stored in.
        self._folder = f"benchmark-{secrets.token_hex(8)}/packs/"
        self._stored: list[str] = []
        self._body = memoryview(secrets.token_bytes(PACK))
        self._steps = 3 * len(_SIZES) + 2 + len(CURVES) * len(levels)
        self._done = 0

    # --- latency ---

    async def latencies(self) -> list[Row]:
        rows = []
        small: list[str] = []
        for name, size in _SIZES.items():
            samples = self._samples if size < PACK else max(self._samples // 4, 1)
            first = len(self._stored)
            rows.append(await self._latency(f"PUT {name}", self._put, [size] * samples))
            keys = self._stored[first:]
            small = small or keys
            rows.append(await self._latency(f"GET {name}", self._storage.get, keys))
        rows.append(await self._latency("HEAD", self._storage.size, small))
        rows.append(await self._latency("LIST", self._list, [self._folder] * self._samples))
        rows.append(await self._latency("DELETE", self._storage.delete, small))
        return rows

    async def _latency(self, name: str, request: Callable[[T], Awaitable[object]], of: Iterable[T]) -> Row:
        """One after the other, so that none waits for another."""
        seconds: list[float] = []
        lost = 0
        failure: InfinitfsError | None = None
        for each in of:
            began = trio.current_time()
            try:
                await request(each)
                seconds.append(trio.current_time() - began)
            except InfinitfsError as error:
                if not error.passing:
                    raise
                lost, failure = lost + 1, error
        self._step()
        if not seconds:
            raise failure or StorageFailed(storage=self._storage.name, action="answer", reason="nothing was stored")
        return Row(name=name, values={"latency": summarize(seconds, lost=lost)})

    async def _put(self, size: int) -> None:
        key = f"{self._folder}{secrets.token_hex(8)}"
        with trio.CancelScope(shield=True):  # a request that is given up may still be carried out, after the cleaning
            await self._storage.put(key, self._body[:size])
        self._stored.append(key)

    async def _list(self, folder: str) -> None:
        async for _ in self._storage.list(folder):
            pass

    # --- throughput ---

    async def curves(self) -> dict[str, dict[int, float]]:
        await self.clean_up()
        upload = await self._curve(self._send)
        packs = list(self._stored)
        source = random.Random(0)
        places = range(0, PACK, SECTOR)

        async def receive() -> int:
            return len(await self._storage.get(source.choice(packs), source.choice(places), SECTOR))

        async def glance() -> int:
            await self._storage.get(source.choice(packs), source.choice(places), _SIZES["4 KiB"])
            return 1

        return {"upload": upload, "download": await self._curve(receive), "small reads": await self._curve(glance)}

    async def _send(self) -> int:
        await self._put(PACK)
        return PACK

    async def _curve(self, request: Callable[[], Awaitable[int]]) -> dict[int, float]:
        curve: dict[int, float] = {}
        for level in self._levels:
            if not flat(list(curve.values())):
                curve[level] = await self._rate(request, level)
            self._step()
        return curve

    async def _rate(self, request: Callable[[], Awaitable[int]], connections: int) -> float:
        """What all requests returned, a second, with so many of them under way at once."""
        done = 0
        failure: InfinitfsError | None = None
        began = trio.current_time()

        async def work() -> None:
            nonlocal done, failure
            while True:
                try:
                    moved = await request()
                    done += moved  # not in one line: others have added to it meanwhile
                except InfinitfsError as error:
                    if not error.passing:
                        raise
                    failure = error
                if trio.current_time() - began >= self._seconds or done >= _MOST:
                    return

        async with together() as nursery:
            for _ in range(connections):
                nursery.start_soon(work)
        if failure is not None and not done:
            raise failure
        return done / (trio.current_time() - began)

    # --- the end ---

    async def clean_up(self) -> None:
        """Remove all there is in the folder, whether its PUT was answered or not."""
        patient = RetryStorage(self._storage, deadline=_CLEAN_UP, random=random.random, connections=_CLEANERS)
        try:
            async with together() as nursery:
                async for info in patient.list(self._folder):
                    nursery.start_soon(patient.delete, info.key)
            self._stored.clear()
        except InfinitfsError as error:
            reason = str(error).rstrip(".")
            where = f"remove the benchmark's objects below {self._folder}"
            raise StorageFailed(storage=self._storage.name, action=where, reason=reason) from None

    def _step(self) -> None:
        self._done += 1
        self._progress(self._done, self._steps)


def _conclusion(rows: list[Row], curves: Mapping[str, Mapping[int, float]], cost: float | None) -> list[str]:
    """What to mount with, and why."""
    latency = {row.name: row.values["latency"].median for row in rows}
    best = {name: max(curve.values()) for name, curve in curves.items()}
    reached = ", ".join(
        f"{name} {format_quantity(best[name], CURVES[name])} with {knee(curve)}" for name, curve in curves.items()
    )
    in_flight = round(best["download"] * latency["GET 4 KiB"])
    enough = "which is enough" if in_flight <= IN_FLIGHT[1] else "so a single reader does not get all of it"
    sending = max(latency["PUT a pack"] - latency["PUT 4 KiB"], 1e-9)
    good_pack = round(9 * latency["PUT 4 KiB"] * PACK / sending)
    verdict = "large enough" if good_pack <= PACK else "sent several at a time"
    lines = [
        f"Mount with --connections {connections_for(curves)}.",
        f"Nearly the most is reached so: {reached} at once.",
        f"Read-ahead: a line of this rate and latency holds {format_size(in_flight)}; a mount asks for "
        f"up to {format_size(IN_FLIGHT[1])} at a time, {enough}.",
        f"Packs: from {format_size(good_pack)} on, waiting is less than a tenth of what sending one takes; those of a "
        f"volume have {format_size(PACK)}, {verdict}.",
        f"fsync with --fsync remote takes about {format_seconds(2 * latency['PUT 4 KiB'])}: a pack, then a record.",
    ]
    if cost is not None:
        lines.append(f"This run would cost about ${cost:.3f} at the prices of S3 Standard in us-east-1.")
    return lines
