"""Whose turn it is to take the kernel's next request.

Above: `serving`, which has pyfuse3 take turns so, and `operations`, which says when a request has to wait. Below: trio,
and the name `trio` in pyfuse3, by which it can be given other parts (its own support for asyncio is made that way).
Invariant: whenever all requests that were taken wait or are answered, one task waits for the next, or is about to.

pyfuse3 has tasks that take a request each: one waits for it behind a lock, lets go of the lock, which wakes the next
one to wait there, and answers. Most requests are answered at once, and then to hand over was for nothing: it is a round
of trio's loop, a look at what the kernel has, and two tasks that change places. Here a task keeps its turn until what
it does has to wait; that made a stat of the filesystem that does nothing 1.25 times as fast. And the next request is
often there already when one was answered: to look costs less than to have trio wait for it, another tenth.
"""

import select
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from types import SimpleNamespace, coroutine
from typing import Any, TypeVar

import pyfuse3
import trio

_AT_ONCE = 16
"""Requests that may follow one another without a round of trio's loop, in which other tasks run: a millisecond."""

R = TypeVar("R")


class Turn:
    """Used by pyfuse3 as the lock behind which it waits for a request."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._requests = select.poll()
        self._descriptor = -1
        self._at_once = 0

    async def __aenter__(self) -> None:
        while self._taken:
            await self._waiting.park()
        self._taken = True

    async def __aexit__(self, *_: object) -> None:
        self._taken = False

    async def wait_readable(self, descriptor: int) -> None:
        """Until there is a request; who has the turn calls it."""
        if self._descriptor != descriptor:
            self._descriptor = descriptor
            self._requests = select.poll()
            self._requests.register(descriptor, select.POLLIN)
        if self._at_once and self._requests.poll(0):
            self._at_once -= 1
            return
        await trio.lowlevel.wait_readable(descriptor)
        self._at_once = _AT_ONCE

    def rest(self) -> None:
        """What is answered now is large: other tasks run before the next request. Threads work for the next of its
        kind, and trio is to hear of them (without that a large file was read a tenth slower)."""
        self._at_once = 0

    def pass_on(self) -> None:
        """Who took the last request does not come back at once: another task is to wait for the next."""
        self._waiting.unpark()

    async def answer(self, handler: Coroutine[Any, Any, R]) -> R:
        """Await what answers a request, and pass the turn on once it waits."""
        try:
            waits_for = handler.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # it has no type
        self.pass_on()
        return await _go_on(handler, waits_for)


@coroutine
def _go_on(begun: Coroutine[Any, Any, R], waits_for: object) -> Generator[Any, Any, R]:
    """Await what was begun already, as PEP 380 says it."""
    step: Callable[..., Any]
    while True:
        try:
            answer = yield waits_for
        except GeneratorExit:
            begun.close()
            raise
        except BaseException as error:
            step, answer = begun.throw, error
        else:
            step = begun.send
        try:
            waits_for = step(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


class _Workers:
    """The nursery of pyfuse3's tasks: one that ends passes its turn on."""

    def __init__(self, nursery: trio.Nursery, turn: Turn) -> None:
        self._nursery = nursery
        self._turn = turn

    def start_soon(self, worker: Callable[..., Awaitable[None]], *arguments: object, name: str) -> None:
        self._nursery.start_soon(self._run, worker, arguments, name=name)

    async def _run(self, worker: Callable[..., Awaitable[None]], arguments: tuple[object, ...]) -> None:
        try:
            await worker(*arguments)
        finally:
            self._turn.pass_on()


def take_turns(turn: Turn) -> None:
    """From now on pyfuse3's tasks take turns so."""

    @asynccontextmanager
    async def open_nursery() -> AsyncIterator[_Workers]:
        async with trio.open_nursery() as nursery:
            yield _Workers(nursery, turn)

    parts = SimpleNamespace(
        ClosedResourceError=trio.ClosedResourceError,
        Lock=lambda: turn,
        lowlevel=SimpleNamespace(
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=trio.lowlevel.notify_closing,
            wait_readable=turn.wait_readable,
        ),
        open_nursery=open_nursery,
    )
    pyfuse3.trio = parts  # type: ignore[attr-defined]
