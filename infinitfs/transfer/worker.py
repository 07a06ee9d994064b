"""The transfer process: it holds the storage's credentials, sees sealed bytes only, and moves them.

Above: `client`, in the process that started this one. Below: `storage/`, and the local files named in
requests.
Invariant: every request is answered once, in any order, and not before what it did has ended, cancelled or
not. When the stream ends, so does the process: it holds nothing that a request cannot redo.

Run as `python -m infinitfs.transfer.worker DESCRIPTOR`, a connected socket.
"""

import contextlib
import ctypes
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import assert_never

import trio

from infinitfs.config.heap import keep_memory
from infinitfs.config.secrecy import keep_secrets
from infinitfs.errors import InfinitfsError
from infinitfs.storage.base import Storage
from infinitfs.storage.ledger import Ledger
from infinitfs.storage.limit import LimitStorage
from infinitfs.storage.retry import RetryStorage
from infinitfs.storage.trace import TraceStorage
from infinitfs.transfer import protocol
from infinitfs.transfer.channel import GONE, receive, send_all
from infinitfs.transfer.files import Offload, Threads, read_whole, write_new
from infinitfs.transfer.protocol import (
    Delete,
    Done,
    Download,
    Failed,
    Get,
    List,
    Open,
    Part,
    Put,
    Size,
    Upload,
)

Opener = Callable[[Open, Ledger], contextlib.AbstractAsyncContextManager[Storage]]
"""Opens a storage that notes every request in the ledger."""

_OBJECTS_A_PART = 10_000  # some 1 MiB
_REPLIES_WAITING = 8
_FILE_THREADS = 8
_PUT_DEADLINE = 5.0  # seconds; who sends tries again for as long as it takes, and wants to say so
_PR_SET_PDEATHSIG = 1
_NICE = 5  # where processors are short, programs and what they wait for go before what is sent behind them


async def serve(stream: trio.abc.Stream, open_storage: Opener, offload: Offload) -> None:
    """Answer the requests of `stream` until it ends. `offload` runs the reads and writes of local files."""
    decoder = protocol.Decoder(protocol.Request)
    async with stream, contextlib.AsyncExitStack() as stack:
        messages = await receive(stream, decoder)
        if not messages:
            return
        first, *rest = messages
        if not isinstance(first.body, Open):
            raise InfinitfsError(detail="the first request of a stream opens no storage")
        ledger = Ledger()
        try:
            storage = await stack.enter_async_context(open_storage(first.body, ledger))
        except Exception as error:
            with contextlib.suppress(*GONE):
                await stream.send_all(protocol.encode(protocol.Reply(first.id, _failure(error))))
            return
        worker = _Worker(storage, ledger, first.body.connections, offload)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, stream, worker.replies)
            await worker.reply(first.id, Done())
            while rest or (rest := await receive(stream, decoder)):
                for request in rest:
                    worker.accept(request, nursery)
                rest = []
            nursery.cancel_scope.cancel()


class _Worker:
    """The requests of one stream.

    Of the connections a quarter is kept for small requests, and of the others a quarter for downloads, so
    that neither a journal record nor a read waits behind a backlog of packs.
    """

    def __init__(self, storage: Storage, ledger: Ledger, connections: int, offload: Offload) -> None:
        bulk = max(1, connections - connections // 4)
        self._storage = storage
        self._ledger = ledger
        self._offload = offload
        self._small = trio.CapacityLimiter(max(1, connections // 4))
        self._bulk = trio.CapacityLimiter(bulk)
        self._uploads = trio.CapacityLimiter(max(1, bulk - bulk // 4))
        self._scopes: dict[int, trio.CancelScope] = {}
        self._outgoing, self.replies = trio.open_memory_channel[bytearray](_REPLIES_WAITING)

    def accept(self, request: protocol.Request, nursery: trio.Nursery) -> None:
        match request.body:
            case Open():
                raise InfinitfsError(detail="a stream opens one storage")
            case protocol.Cancel():
                if request.id in self._scopes:
                    self._scopes[request.id].cancel()
            case body:
                scope = self._scopes[request.id] = trio.CancelScope()
                nursery.start_soon(self._answer, request.id, body, scope)

    async def reply(self, identity: int, outcome: Part | Done | Failed) -> None:
        await self._outgoing.send(protocol.encode(protocol.Reply(identity, outcome, self._ledger.take())))

    async def _answer(self, identity: int, body: protocol.Operation, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await self.reply(identity, Done(await self._perform(identity, body)))
            except Exception as error:  # a defect met by one request must not end the others
                await self.reply(identity, _failure(error))
        del self._scopes[identity]
        if scope.cancelled_caught:
            await self.reply(identity, _failure(InfinitfsError(detail="the request was cancelled")))

    async def _perform(self, identity: int, body: protocol.Operation) -> protocol.Value:
        match body:
            case Upload():
                async with self._uploads, self._bulk:
                    return await self._upload(body)
            case Download():
                async with self._bulk:
                    return await self._download(body)
            case _:
                async with self._small:
                    return await self._small_request(identity, body)

    async def _upload(self, body: Upload) -> int:
        data = await self._offload(partial(read_whole, _path(body)))
        await self._storage.put(body.key, data)
        return len(data)

    async def _download(self, body: Download) -> int:
        if body.whole:
            data = await self._storage.get_whole(body.key, body.length)
        else:
            data = await self._storage.get(body.key, body.start, body.length)
        await self._offload(partial(write_new, _path(body), data))
        return len(data)

    async def _small_request(self, identity: int, body: Put | Get | Size | List | Delete) -> protocol.Value:
        match body:
            case Put():
                await self._storage.put(body.key, body.data, create=body.create)
                return None
            case Get():
                return await self._storage.get(body.key, body.start, body.length)
            case Size():
                return await self._storage.size(body.key)
            case Delete():
                await self._storage.delete(body.key)
                return None
            case List():
                objects = [info async for info in self._storage.list(body.prefix)]
                for begin in range(0, len(objects), _OBJECTS_A_PART):
                    await self.reply(identity, Part(objects[begin : begin + _OBJECTS_A_PART]))
                return None
            case _:
                assert_never(body)


def _path(body: Upload | Download) -> Path:
    return Path(os.fsdecode(body.path))


def _failure(error: Exception) -> Failed:
    if isinstance(error, InfinitfsError):
        return Failed.of(error)
    return Failed.of(InfinitfsError(detail=f"{type(error).__name__} in the transfer process: {error}"))


@contextlib.asynccontextmanager
async def _opened(opening: Open, ledger: Ledger) -> AsyncIterator[Storage]:
    """The storage of an Open, closed in the end."""
    from infinitfs.storage.open import open_storage

    backend = open_storage(opening.record, opening.account, connections=opening.connections)
    try:
        yield decorated(backend, opening, ledger)
    finally:
        await backend.aclose()


def decorated(backend: Storage, opening: Open, ledger: Ledger) -> Storage:
    """`backend` with every request noted in `ledger`, limited and retried."""
    return RetryStorage(
        LimitStorage(TraceStorage(backend, ledger.note), upload=opening.upload_limit, download=opening.download_limit),
        deadline=opening.deadline,
        put_deadline=min(_PUT_DEADLINE, opening.deadline),
        random=random.random,
        connections=opening.connections,
    )


def _harden() -> None:
    """Die with the parent's thread, leave no core and no way in for a debugger of the same user, and end
    only when the parent closes the stream (prctl(2))."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keep_secrets()
    keep_memory()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def main() -> None:
    """The process: its only argument is the number of the socket's descriptor."""
    _harden()
    os.nice(_NICE)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)

    async def run() -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        await serve(stream, _opened, Threads(_FILE_THREADS))

    trio.run(run)
    os._exit(0)  # all is closed; an unmount would wait for the interpreter to take itself apart


if __name__ == "__main__":
    main()
