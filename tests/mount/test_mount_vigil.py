"""When the loop stays awake for the next request, and when it sleeps."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from infinitfs.mount.vigil import WINDOW, Vigil


class Rounds:
    """A clock that advances by a tenth of the window with each look at it: with each round of the loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += WINDOW / 10
        return self.now


@asynccontextmanager
async def vigil() -> AsyncIterator[tuple[Vigil, Rounds]]:
    rounds = Rounds()
    made = Vigil(rounds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        await wait_all_tasks_blocked()
        yield made, rounds
        nursery.cancel_scope.cancel()


async def looks(rounds: Rounds) -> int:
    """How often the loop looked until it slept."""
    before = rounds.looks
    await wait_all_tasks_blocked()
    return rounds.looks - before


async def test_one_request_keeps_nobody_awake() -> None:
    async with vigil() as (made, rounds):
        assert rounds.looks == 1
        made.answered(rounds.now, rounds.now + WINDOW / 4)
        assert await looks(rounds) == 0


async def test_a_request_soon_after_another_keeps_the_loop_awake_for_the_window() -> None:
    async with vigil() as (made, rounds):
        for _ in range(3):
            made.answered(rounds.now, rounds.now)
            made.answered(rounds.now + WINDOW / 2, rounds.now + WINDOW / 2)
            assert 14 <= await looks(rounds) <= 16


async def test_requests_further_apart_than_the_window_keep_nobody_awake() -> None:
    async with vigil() as (made, rounds):
        for _ in range(10):
            made.answered(rounds.now, rounds.now)
            assert await looks(rounds) == 0
            rounds.now += 1.1 * WINDOW


async def test_requests_side_by_side_count_as_close() -> None:
    async with vigil() as (made, rounds):
        made.answered(rounds.now, rounds.now + 1)
        made.answered(rounds.now + 0.5, rounds.now + 1)
        rounds.now += 1
        assert await looks(rounds) > 1


async def test_it_ends_awake_or_asleep() -> None:
    async with vigil():
        pass
    async with vigil() as (made, rounds):
        made.answered(rounds.now, rounds.now)
        made.answered(rounds.now, rounds.now)
    made.answered(rounds.now, rounds.now)
    made.answered(rounds.now, rounds.now)
