"""Who waits for the kernel's next request: always somebody, and whoever took the last one where that was answered."""

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pyfuse3
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from infinitfs.mount.turn import Turn, take_turns

MIN_TASKS = 4

Handler = Callable[[], Awaitable[object]]


@dataclass
class Kernel:
    """Requests, and tasks that take them as pyfuse3 3.5's do: a lock, a wait, an answer, another task where none
    waits, an end of those that are too many. `answers` has the task and what came of each request."""

    parts: Any
    tasks: int = 0
    waiting: int = 0
    ended: bool = False
    answers: list[tuple[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.asks, self.requests = trio.open_memory_channel[Handler](math.inf)
        self.turn = self.parts.Lock()

    async def main(self) -> None:
        async with self.parts.open_nursery() as nursery:
            self._start(nursery)

    def _start(self, nursery: Any) -> None:
        self.tasks += 1
        nursery.start_soon(self._work, nursery, name=f"task {self.tasks}")

    async def _work(self, nursery: Any) -> None:
        while not self.ended and self.waiting <= MIN_TASKS:
            self.waiting += 1
            try:
                async with self.turn:
                    handler = await self.requests.receive()
            except trio.EndOfChannel:
                self.ended = True
                return
            finally:
                self.waiting -= 1
            if not self.waiting:
                self._start(nursery)
            name = trio.lowlevel.current_task().name
            try:
                self.answers.append((name, await self.turn.answer(handler())))
            except OSError as error:
                self.answers.append((name, error))


@pytest.fixture
def parts() -> Any:
    """What pyfuse3 is given."""
    before = pyfuse3.trio  # type: ignore[attr-defined]
    take_turns(Turn())
    yield pyfuse3.trio  # type: ignore[attr-defined]
    pyfuse3.trio = before  # type: ignore[attr-defined]


@asynccontextmanager
async def kernel(parts: Any) -> AsyncIterator[Kernel]:
    """Ends by itself, as after an unmount, or the test fails."""
    made = Kernel(parts)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.main)
            yield made
            made.asks.close()


def told(value: object) -> Handler:
    async def at_once() -> object:
        return value

    return at_once


async def test_who_answers_at_once_takes_the_next_request_too(parts: Any) -> None:
    async with kernel(parts) as made:
        for number in range(20):
            made.asks.send_nowait(told(number))
            await wait_all_tasks_blocked()
        assert [value for _, value in made.answers] == list(range(20))
        assert len({name for name, _ in made.answers}) == 1


async def test_while_requests_wait_others_are_taken(parts: Any) -> None:
    events = [trio.Event() for _ in range(50)]

    def waits(number: int) -> Handler:
        async def later() -> object:
            await events[number].wait()
            await trio.lowlevel.checkpoint()
            return number

        return later

    async with kernel(parts) as made:
        for number in range(50):
            made.asks.send_nowait(waits(number))
        await wait_all_tasks_blocked()
        made.asks.send_nowait(told("at once"))
        await wait_all_tasks_blocked()
        assert [value for _, value in made.answers] == ["at once"]
        for event in reversed(events):
            event.set()
        await wait_all_tasks_blocked()
        assert sorted(value for _, value in made.answers[1:] if isinstance(value, int)) == list(range(50))
        for number in range(20):
            made.asks.send_nowait(told(number))
        await wait_all_tasks_blocked()
        assert len(made.answers) == 71, "those that were too many have ended, and one waits for requests"
        assert made.waiting == MIN_TASKS + 1
        events[0] = trio.Event()
        made.asks.send_nowait(waits(0))
        await wait_all_tasks_blocked()
        made.asks.send_nowait(told("beside it"))
        await wait_all_tasks_blocked()
        assert made.answers[-1][1] == "beside it", "one of those that waited for a turn has it"
        events[0].set()


async def test_errors_and_cancellation_reach_what_answers(parts: Any) -> None:
    seen: list[object] = []

    async def fails_at_once() -> object:
        raise FileNotFoundError

    async def fails_later() -> object:
        await trio.lowlevel.checkpoint()
        raise PermissionError

    async def is_cancelled() -> object:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                seen.append(error)
                raise
        return scope.cancelled_caught

    async with kernel(parts) as made:
        for handler in (fails_at_once, fails_later, is_cancelled):
            made.asks.send_nowait(handler)
            await wait_all_tasks_blocked()
        assert [type(value) for _, value in made.answers] == [FileNotFoundError, PermissionError, bool]
        assert made.answers[-1][1] is True and len(seen) == 1


async def test_requests_that_are_there_leave_others_their_turn_of_the_loop() -> None:
    turn, rounds, seen = Turn(), 0, 0
    reading, writing = os.pipe()
    os.write(writing, b"there")  # as long as nobody reads it

    async def others() -> None:
        nonlocal rounds
        while True:
            await trio.lowlevel.checkpoint()
            rounds += 1

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            for _ in range(200):
                await turn.wait_readable(reading)
                seen = max(seen, rounds)
            nursery.cancel_scope.cancel()
    assert 5 < seen < 50
    os.close(reading)
    os.close(writing)


async def test_who_waits_for_requests_is_woken_by_one_and_by_the_end() -> None:
    turn = Turn()
    reading, writing = os.pipe()
    came: list[object] = []

    async def waits() -> None:
        try:
            for _ in range(2):
                await turn.wait_readable(reading)
                came.append(os.read(reading, 1))
            await turn.wait_readable(reading)
        except trio.ClosedResourceError as error:
            came.append(error)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
            for count, byte in enumerate((b"a", b"b"), 1):
                await wait_all_tasks_blocked()
                assert len(came) == count - 1
                os.write(writing, byte)
                while len(came) < count:
                    await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            trio.lowlevel.notify_closing(reading)
    assert came[:2] == [b"a", b"b"] and isinstance(came[2], trio.ClosedResourceError)
    os.close(reading)
    os.close(writing)


async def test_what_waits_is_closed_with_its_task() -> None:
    closed = []

    async def waits() -> None:
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            closed.append(True)

    answer = Turn().answer(waits())
    answer.send(None)
    answer.close()
    assert closed == [True]


async def test_an_error_that_is_thrown_in_reaches_what_waits() -> None:
    async def waits() -> str:
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        except KeyError:
            return "caught"
        return "not reached"

    answer = Turn().answer(waits())
    answer.send(None)
    with pytest.raises(StopIteration) as done:
        answer.throw(KeyError())
    assert done.value.value == "caught"
