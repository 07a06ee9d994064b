"""Repeats what may pass by itself, and sends no more than the service takes.

Above: `transfer/`. Below: any storage, usually `limit` over a backend; `window`.
Invariant: only errors that are `passing` are repeated, and a create-only put that meets its own bytes after an attempt
of unknown outcome has succeeded. Every attempt passes the window, so a service that is too busy is sent few requests
however many callers there are.

Exponential backoff with full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from math import inf
from typing import TypeVar

import trio

from infinitfs.errors import InfinitfsError, ObjectExists, ObjectNotFound, StorageBusy
from infinitfs.storage.base import Buffer, ObjectInfo, Storage
from infinitfs.storage.window import Window

_FIRST_PAUSE = 0.1  # seconds; doubled at every attempt
_LONGEST_PAUSE = 5.0  # seconds; after an outage this is what it takes to notice its end

T = TypeVar("T")


class RetryStorage(Storage):
    """`inner`, patient: no attempt starts later than `deadline` seconds after a call's first failure, then the last
    error is raised; `put_deadline` is that of a put, where it is another one. An attempt under way is not cut short.
    At most `connections` attempts are under way at once, fewer while the service asks for it. `random` gives numbers
    in [0, 1)."""

    def __init__(
        self,
        inner: Storage,
        *,
        deadline: float,
        random: Callable[[], float],
        put_deadline: float | None = None,
        connections: int = 32,
    ) -> None:
        self.name = inner.name
        self._inner = inner
        self._deadline = deadline
        self._put_deadline = deadline if put_deadline is None else put_deadline
        self._random = random
        self._gate = _Gate(Window(connections, random), inner.name, longest=deadline / 2)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return await self._persist(lambda: self._inner.get(key, start, length))

    async def get_whole(self, key: str, size: int) -> bytes:
        return await self._persist(lambda: self._inner.get_whole(key, size))

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        doubtful = False

        async def attempt() -> None:
            nonlocal doubtful
            try:
                await self._inner.put(key, data, create=create)
            except ObjectExists:
                if not doubtful or not await self._holds(key, data):
                    raise
            except InfinitfsError as error:
                doubtful = doubtful or error.passing
                raise

        await self._persist(attempt, self._put_deadline)

    async def size(self, key: str) -> int:
        return await self._persist(lambda: self._inner.size(key))

    async def delete(self, key: str) -> None:
        await self._persist(lambda: self._inner.delete(key))

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        last = ""
        patience = self._patience()
        while True:
            try:
                async with aclosing(self._inner.list(prefix)) as found:
                    while True:
                        async with self._gate.passage(patience):  # not while the caller looks at what was found
                            info = await anext(found, None)
                        if info is None:
                            return
                        if info.key > last:
                            yield info
                            last, patience = info.key, self._patience()
            except InfinitfsError as error:
                if not await patience.bears(error):
                    raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _holds(self, key: str, data: Buffer) -> bool:
        try:
            return await self._inner.get(key) == data
        except ObjectNotFound:
            return False

    async def _persist(self, attempt: Callable[[], Awaitable[T]], deadline: float | None = None) -> T:
        patience = self._patience(deadline)
        while True:
            try:
                async with self._gate.passage(patience):
                    return await attempt()
            except InfinitfsError as error:
                if not await patience.bears(error):
                    raise

    def _patience(self, deadline: float | None = None) -> "_Patience":
        return _Patience(self._deadline if deadline is None else deadline, self._random)


class _Patience:
    """That of one call: it begins to run at the first failure."""

    def __init__(self, seconds: float, random: Callable[[], float]) -> None:
        self._seconds = seconds
        self._random = random
        self._pause = _FIRST_PAUSE
        self._end = inf

    def end(self) -> float:
        """When it ends, if it begins now at the latest."""
        self._end = min(self._end, trio.current_time() + self._seconds)
        return self._end

    async def bears(self, error: InfinitfsError) -> bool:
        """Wait, longer each time; False where `error` does not pass or patience is at its end.

        A service that is busy is not waited for here: the gate holds everybody back."""
        error.__traceback__ = None  # a thread's is a cycle, and would keep what was to be sent
        if not error.passing:
            return False
        end = self.end()
        seconds = 0.0
        if not isinstance(error, StorageBusy):
            seconds = self._pause * self._random()
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if trio.current_time() + seconds >= end:
            return False
        await trio.sleep(seconds)
        return True


class _Gate:
    """Lets attempts through in the order they came, as the window has it. A wait that the service asks for is kept, up
    to `longest` seconds: some ask for a minute whatever it is, and patience has to last for another attempt."""

    def __init__(self, window: Window, name: str, *, longest: float) -> None:
        self._window = window
        self._longest = longest
        self._queue = trio.Lock()  # fair
        self._changed = trio.Event()
        self._waiting: dict[trio.CancelScope, _Patience] = {}
        self._refusal: InfinitfsError = StorageBusy(storage=name, action="answer", reason="it asked for fewer requests")

    @asynccontextmanager
    async def passage(self, patience: _Patience) -> AsyncIterator[None]:
        """Raises the service's last refusal where `patience` ends before there is room."""
        with trio.move_on_at(patience.end() if self._window.narrowed else inf) as scope:
            self._waiting[scope] = patience
            try:
                await self._wait()
            finally:
                del self._waiting[scope]
        if scope.cancelled_caught:
            raise self._refusal
        began = trio.current_time()
        try:
            yield
        except StorageBusy as error:
            self._refusal = error
            self._window.refused(began, trio.current_time(), min(error.wait, self._longest))
            for waiting, its_patience in self._waiting.items():
                waiting.deadline = its_patience.end()
            raise
        except InfinitfsError as error:
            if not error.passing:  # "there is none" is an answer
                self._window.answered(began, trio.current_time())
            raise
        else:
            self._window.answered(began, trio.current_time())
        finally:
            self._window.end()
            self._changed.set()
            self._changed = trio.Event()

    async def _wait(self) -> None:
        async with self._queue:
            while not self._window.admits(trio.current_time()):
                opens_at = self._window.opens_at
                with trio.move_on_at(opens_at if opens_at > trio.current_time() else inf):
                    await self._changed.wait()
            self._window.begin()
