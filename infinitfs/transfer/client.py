"""The filesystem process's side of the transfer process.

Above: `block/`, `volume/` and the cache, as a `base.Transfer`; `mount/` opens one. Below: `worker`, in a
child process or, for tests and simulations, in a task.
Invariant: a request ends when it was answered, or with StorageFailed when the child died too often over it.
The child may die at any moment: it is started again and every request without an answer is sent again.
"""

import contextlib
import itertools
import logging
import math
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from infinitfs.config.model import FilesystemStorageRecord, S3StorageRecord
from infinitfs.errors import (
    DamagedObject,
    InfinitfsError,
    InUse,
    LocalFileFailed,
    NotFound,
    ObjectExists,
    StorageFailed,
)
from infinitfs.storage.account import Account
from infinitfs.storage.base import Buffer, ObjectInfo, Storage
from infinitfs.storage.ledger import Ledger
from infinitfs.storage.trace import TraceStorage
from infinitfs.transfer import protocol
from infinitfs.transfer.background import background
from infinitfs.transfer.base import Listing
from infinitfs.transfer.channel import receive, send_all
from infinitfs.transfer.files import inline, remove
from infinitfs.transfer.protocol import Cancel, Done, Download, Failed, Open, Operation, Part, Request
from infinitfs.transfer.worker import serve

_log = logging.getLogger(__name__)

Connect = Callable[[], contextlib.AbstractAsyncContextManager[trio.abc.Stream]]

_OPENING = 0  # the id of the Open; other requests count from 1
_DEATHS = 5  # of the child, after which a request is not sent again
_FIRST_PAUSE = 0.1  # seconds before a dead child is started again, doubled each time ...
_LAST_PAUSE = 10.0  # ... up to this; a child that lived longer counts as a good start
_GRACE = 2.0  # seconds for a child to end after its stream did


@dataclass(slots=True)
class Stats:
    """What passed since the transfer was opened: bytes, calls by name, what was asked of the storage for them, and
    errors: what could not be done, not answers such as "there is none"."""

    uploaded: int = 0
    downloaded: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    ledger: Ledger = field(default_factory=Ledger)
    errors: int = 0
    in_flight: int = 0
    restarts: int = 0


@dataclass(slots=True, eq=False)
class _Call:
    body: Operation
    message: bytearray
    done: trio.Event = field(default_factory=trio.Event)
    objects: list[ObjectInfo] = field(default_factory=list)
    outcome: Done | Failed | None = None
    sends: int = 0
    deaths: int = 0
    abandoned: bool = False

    def end(self, outcome: Done | Failed) -> None:
        self.outcome = outcome
        self.done.set()
        if self.abandoned:
            self.undo()

    def undo(self) -> None:
        """Nobody wants the answer any more: a file that it brought goes."""
        if isinstance(self.body, Download):
            remove([Path(os.fsdecode(self.body.path))])


class TransferClient:
    """A `base.Transfer` over streams to a worker. Made by `open_transfer` and `local_transfer`."""

    def __init__(self) -> None:
        self.stats = Stats()
        self._identities = itertools.count(_OPENING + 1)
        self._pending: dict[int, _Call] = {}
        self._outgoing: trio.MemorySendChannel[bytearray] | None = None
        self._answered = trio.Event()
        self._refusal: InfinitfsError | None = None
        self._opening: Open
        self._conversation = trio.CancelScope()

    # --- base.Transfer ---

    async def upload(self, key: str, path: Path) -> None:
        sent = await self._number(protocol.Upload(key, os.fsencode(path)))
        self.stats.uploaded += sent  # not in one line: others have added to it meanwhile

    async def download(self, key: str, start: int, length: int, path: Path, *, whole: bool = False) -> None:
        written = await self._number(Download(key, start, length, whole, os.fsencode(path)))
        self.stats.downloaded += written
        if written != length:
            remove([path])
            raise DamagedObject(key=key, reason=f"{written} bytes came instead of {length}")

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        call = await self._perform(protocol.Put(key, bytes(data), create))
        try:
            self._value(call)
        except ObjectExists:
            if call.sends == 1 or await self.get(key) != data:
                raise
        self.stats.uploaded += len(data)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = self._value(await self._perform(protocol.Get(key, start, length)))
        if not isinstance(data, bytes):
            raise _mismatch()
        self.stats.downloaded += len(data)
        return data

    async def size(self, key: str) -> int:
        return await self._number(protocol.Size(key))

    async def delete(self, key: str) -> None:
        self._value(await self._perform(protocol.Delete(key)))

    async def list(self, prefix: str) -> Listing:
        call = await self._perform(protocol.List(prefix))
        self._value(call)
        return call.objects

    # --- one request ---

    async def _number(self, body: Operation) -> int:
        value = self._value(await self._perform(body))
        if not isinstance(value, int):
            raise _mismatch()
        return value

    def _value(self, call: _Call) -> protocol.Value:
        match call.outcome:
            case Done(value):
                return value
            case Failed() as failed:
                error = failed.error()
                if not isinstance(error, NotFound | InUse):  # those are answers
                    self.stats.errors += 1
                raise error
            case None:
                raise _mismatch()

    async def _perform(self, body: Operation) -> _Call:
        """Send a request and wait for its answer, which `_value` tells."""
        identity = next(self._identities)
        call = _Call(body, protocol.encode(Request(identity, body)))
        self._pending[identity] = call
        self._send(call)
        self.stats.calls[type(body).__name__.lower()] += 1
        self.stats.in_flight += 1
        try:
            await call.done.wait()
        except trio.Cancelled:
            if call.done.is_set():
                call.undo()
            elif self._outgoing is not None:
                self._outgoing.send_nowait(protocol.encode(Request(identity, Cancel())))
            call.abandoned = True
            raise
        finally:
            self.stats.in_flight -= 1
        return call

    def _send(self, call: _Call) -> None:
        if self._outgoing is not None:
            call.sends += 1
            self._outgoing.send_nowait(call.message)

    def _fail_all(self, error: InfinitfsError) -> None:
        calls, self._pending = self._pending, {}
        for call in calls.values():
            call.end(Failed.of(error))

    # --- the streams, one after another ---

    async def opened(self) -> None:
        """Wait until the worker has opened the storage, or raise why it could not."""
        await self._answered.wait()
        if self._refusal is not None:
            raise self._refusal

    def renew(self, account: Account) -> None:
        """From now on the storage is opened as `account`, by a new worker, which is sent all that has no answer yet."""
        self._opening = msgspec.structs.replace(self._opening, account=account)
        self._conversation.cancel()

    async def run(self, connect: Connect, opening: Open) -> None:
        """Keep a worker running and talk to it, for ever."""
        self._opening = opening
        pause = _FIRST_PAUSE
        try:
            while True:
                began = trio.current_time()
                try:
                    with trio.CancelScope() as self._conversation:
                        async with connect() as stream:
                            await self._converse(stream, self._opening)
                except OSError as error:
                    self._refuse(LocalFileFailed(path=sys.executable, action="run", reason=str(error)))
                if self._conversation.cancelled_caught:
                    continue
                if trio.current_time() - began > _LAST_PAUSE:
                    pause = _FIRST_PAUSE
                _log.warning("the transfer process ended; starting it again in %.1f s", pause)
                await trio.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE)
                self.stats.restarts += 1
        finally:
            self._fail_all(InfinitfsError(detail="the transfer process was closed"))

    async def _converse(self, stream: trio.abc.Stream, opening: Open) -> None:
        """Talk to one worker until the stream ends."""
        decoder = protocol.Decoder(protocol.Reply)
        outgoing, messages = trio.open_memory_channel[bytearray](math.inf)
        outgoing.send_nowait(protocol.encode(Request(_OPENING, opening)))
        self._outgoing = outgoing
        self._send_again()
        try:
            async with background() as nursery:
                nursery.start_soon(send_all, stream, messages)
                while replies := await receive(stream, decoder):
                    for reply in replies:
                        self._take(reply)
        except InfinitfsError as error:
            _log.error("%s", error)
        finally:
            self._outgoing = None
        for call in self._pending.values():  # not where it was cancelled, to renew the keys
            call.deaths += 1

    def _send_again(self) -> None:
        calls, self._pending = self._pending, {}
        for identity, call in calls.items():
            call.objects.clear()
            if call.abandoned:
                call.undo()
            elif call.deaths == _DEATHS:
                reason = f"it died {_DEATHS} times"
                died = StorageFailed(storage="The transfer process", action="finish a request", reason=reason)
                call.end(Failed.of(died))
            else:
                self._pending[identity] = call
                self._send(call)

    def _take(self, reply: protocol.Reply) -> None:
        self.stats.ledger.add(reply.usage)
        outcome = reply.outcome
        if isinstance(outcome, Part):
            if reply.id in self._pending:
                self._pending[reply.id].objects.extend(outcome.objects)
        elif reply.id != _OPENING:
            call = self._pending.pop(reply.id, None)
            if call is not None:
                call.end(outcome)
        elif isinstance(outcome, Failed):
            self._refuse(outcome.error())
        else:
            self._answered.set()

    def _refuse(self, error: InfinitfsError) -> None:
        """No worker opens the storage: whoever waits learns why, and later requests wait for the next
        attempt."""
        if not self._answered.is_set():
            self._refusal = error
            self._answered.set()
        self._fail_all(error)


def _mismatch() -> InfinitfsError:
    return InfinitfsError(detail="the transfer process answered something that was not asked")


@contextlib.asynccontextmanager
async def open_transfer(opening: Open, *, inherit: Sequence[int] = ()) -> AsyncIterator[TransferClient]:
    """A transfer process that has opened a storage. It ends before the context does.

    `inherit` are descriptors that the child holds for as long as it lives: that of a lock, so that nobody
    who takes the lock meets a child of its last holder. Raises what kept the storage from being opened
    (`open_storage`). The child dies with the thread that runs this: fork before, not after.
    """
    async with _client(lambda: _child(inherit), opening) as client:
        yield client


@contextlib.asynccontextmanager
async def local_transfer(storage: Storage, *, connections: int = 32) -> AsyncIterator[TransferClient]:
    """A transfer whose worker is a task of this process, over `storage`, which stays open: for tests and
    simulations.

    Deterministic: streams are in memory, local files are read and written on the event loop.
    """
    from trio.testing import memory_stream_pair  # costs a mount 0.1 s that it has no use for

    def opened(_: Open, ledger: Ledger) -> contextlib.AbstractAsyncContextManager[Storage]:
        return contextlib.nullcontext(TraceStorage(storage, ledger.note))

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[trio.abc.Stream]:
        ours, theirs = memory_stream_pair()
        async with background() as nursery, ours:
            nursery.start_soon(serve, theirs, opened, inline)
            yield ours

    record = FilesystemStorageRecord(name=storage.name, path="", created="")
    async with _client(connect, Open(record=record, connections=connections)) as client:
        yield client


@contextlib.asynccontextmanager
async def _client(connect: Connect, opening: Open) -> AsyncIterator[TransferClient]:
    client = TransferClient()
    client.stats.ledger = Ledger(billed=isinstance(opening.record, S3StorageRecord))
    async with background() as nursery:
        nursery.start_soon(client.run, connect, opening)
        await client.opened()
        yield client


@contextlib.asynccontextmanager
async def _child(inherit: Sequence[int]) -> AsyncIterator[trio.abc.Stream]:
    """A stream to a new transfer process, which has ended when the context is left."""
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        # Not in a thread, as trio would: the child asks to die with the thread that started it.
        process = subprocess.Popen(  # noqa: ASYNC220  # waits 2 ms, and our own program is what it runs
            [sys.executable, "-P", "-m", "infinitfs.transfer.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(), *inherit),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent
            env=_environment(),
        )
        stack.pop_all()
    theirs.close()
    try:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            yield stream
    finally:
        with trio.CancelScope(shield=True):
            await _ended(process)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    descriptor = os.pidfd_open(process.pid)
    try:
        with trio.move_on_after(_GRACE):
            await trio.lowlevel.wait_readable(descriptor)
        process.kill()
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    process.wait()


def _environment() -> dict[str, str]:
    """Ours without what opens a user's key, and with our import path, so that `-P` leaves out the current
    folder."""
    hidden = ("INFINITFS_PASSPHRASE", "CREDENTIALS_DIRECTORY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return kept | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
