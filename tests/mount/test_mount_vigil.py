"""When the loop stays awake for the next request, and when it sleeps."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from infinitfs.mount.vigil import CLOSE, KEPT, TRIAL, WINDOW, Vigil


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


async def test_requests_far_apart_keep_nobody_awake() -> None:
    async with vigil() as (made, rounds):
        for _ in range(10):
            made.answered(rounds.now, rounds.now)
            assert await looks(rounds) == 0
            rounds.now += 1.1 * CLOSE


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


async def ways(made: Vigil, rounds: Rounds, requests: int, *, awake: float, asleep: float) -> list[bool]:
    """Whether the loop stayed awake for each of so many requests. They come so many windows after the answer before
    where it did, and where it did not."""
    ways = [False]
    came = rounds.now
    for _ in range(requests):
        came += WINDOW * (awake if ways[-1] else asleep)
        rounds.now = came
        made.answered(came, came)
        ways.append(await looks(rounds) > 0)
    return ways[1:]


@pytest.mark.parametrize(
    ("awake", "asleep", "better"), [(0.5, 0.9, True), (0.7, 1.6, True), (0.6, 0.5, False), (0.5, 0.51, False)]
)
async def test_the_better_way_is_kept(awake: float, asleep: float, better: bool) -> None:
    async with vigil() as (made, rounds):
        made.answered(rounds.now, rounds.now)
        tried = await ways(made, rounds, 4 * TRIAL, awake=awake, asleep=asleep)
        assert abs(tried.count(True) - 2 * TRIAL) <= 1
        kept = await ways(made, rounds, KEPT, awake=awake, asleep=asleep)
        assert kept.count(better) >= KEPT - 1


async def test_the_other_way_is_tried_again() -> None:
    async with vigil() as (made, rounds):
        made.answered(rounds.now, rounds.now)
        await ways(made, rounds, 4 * TRIAL + KEPT, awake=0.5, asleep=0.9)
        await ways(made, rounds, 4 * TRIAL, awake=0.9, asleep=0.5)
        kept = await ways(made, rounds, KEPT, awake=0.9, asleep=0.5)
        assert kept.count(False) >= KEPT - 1


@pytest.mark.parametrize(
    ("before", "after", "better"), [((0.5, 0.9), (1.5, 0.7), False), ((0.9, 0.8), (0.3, 0.5), True)]
)
async def test_both_are_tried_soon_where_requests_come_faster_or_slower(
    before: tuple[float, float], after: tuple[float, float], better: bool
) -> None:
    async with vigil() as (made, rounds):
        made.answered(rounds.now, rounds.now)
        await ways(made, rounds, 8 * TRIAL, awake=before[0], asleep=before[1])
        await ways(made, rounds, 8 * TRIAL, awake=after[0], asleep=after[1])
        kept = await ways(made, rounds, KEPT // 2, awake=after[0], asleep=after[1])
        assert kept.count(better) >= KEPT // 2 - 1


async def test_requests_side_by_side_say_nothing_of_either_way() -> None:
    async with vigil() as (made, rounds):
        ended = rounds.now
        made.answered(ended, ended)
        for _ in range(8 * TRIAL):
            began, ended = ended - WINDOW / 2, rounds.now
            made.answered(began, ended)
            assert await looks(rounds) > 0
