"""The benchmarks' own arithmetic: ratios, rows, turns, and the delaying line; nothing here is measured."""

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from rich.console import Console
from trio.testing import MockClock

from benchmarks.__main__ import ROWS, Turn, turns
from benchmarks.acceptance import Outcome, outcomes
from benchmarks.delay import pass_on_later
from benchmarks.measuring import Sample
from benchmarks.peers import S3ql
from benchmarks.plot import plot
from benchmarks.scenes import GET, READ_COLD, READ_FILES_COLD, small_files, stored_large_file
from benchmarks.subjects import Boto3, Infinitfs, Nothing
from benchmarks.table import show_samples


def taken(step: str, subject: str, *figures: float, unit: str = "files/s", delay: int = 0) -> list[Sample]:
    """One sample a run."""
    return [Sample(step, subject, delay, run, figure, unit) for run, figure in enumerate(figures)]


def only(samples: list[Sample], row: str) -> Outcome:
    (outcome,) = outcomes(samples, [row])
    return outcome


def test_a_ratio_is_the_median_of_the_ratios_of_runs() -> None:
    samples = [*taken("stat", "infinitfs", 90, 10, 80), *taken("stat", "nothing", 100, 20, 100)]
    assert only(samples, "a") == Outcome("a", "stat / nothing", 0.8, 0.5, 0.9, ">= 0.8", True)


def test_a_run_that_only_one_has_counts_for_nothing() -> None:
    samples = [*taken("stat", "infinitfs", 90, 10), *taken("stat", "nothing", 100)]
    assert only(samples, "a").low == 0.9


def test_a_row_that_is_missed_says_so() -> None:
    samples = [*taken("stat", "infinitfs", 79), *taken("stat", "nothing", 100)]
    assert not only(samples, "a").met


def test_a_cold_read_is_held_against_the_slower_of_the_server_and_the_kernel() -> None:
    ours = taken(READ_COLD, "infinitfs", 85, unit="MB/s", delay=20)
    server = taken(READ_COLD, "boto3", 500, unit="MB/s", delay=20)
    assert only([*ours, *server], "b").got == 0.17
    assert only([*ours, *server, *taken(READ_COLD, "nothing", 100, unit="MB/s")], "b").got == 0.85


def test_steps_of_other_names_are_compared() -> None:
    samples = [*taken(READ_FILES_COLD, "infinitfs", 500, delay=80), *taken(GET, "boto3", 10, delay=80)]
    outcome = only(samples, "c")
    assert (outcome.got, outcome.what) == (50, f"{READ_FILES_COLD} / boto3, {GET}, 80 ms")


def test_every_step_that_s3ql_took_is_a_row() -> None:
    samples = [*taken("remove", "infinitfs", 3), *taken("remove", "s3ql", 2), *taken("stat", "infinitfs", 3)]
    assert [outcome.what for outcome in outcomes(samples, ["d"])] == ["remove / s3ql"]


def test_a_limit_is_met_below_it() -> None:
    assert only(taken("infinitfs --help", "infinitfs", 120, 99, 80, unit="ms"), "g").met
    assert not only(taken("infinitfs --help", "infinitfs", 100, unit="ms"), "g").met


def test_runs_of_all_subjects_are_interleaved_and_nobody_is_always_first() -> None:
    made = [turn for turn in turns("a", 2, [0, 80], []) if turn.scene is small_files]
    players = ROWS["a"][1]
    there, back = [(0, player) for player in players], [(1, player) for player in reversed(players)]
    assert [(turn.run, turn.subject) for turn in made] == there + back


def test_only_what_has_a_storage_is_measured_far_from_it() -> None:
    made = list(turns("bd", 1, [0, 80], [S3ql]))
    assert Turn(stored_large_file, 0, Boto3, 80) in made
    assert Turn(stored_large_file, 0, Nothing, 0) in made
    assert Turn(stored_large_file, 0, Nothing, 80) not in made
    assert Turn(small_files, 0, Infinitfs, 80) not in made
    assert all(turn.subject is not S3ql for turn in made)


@pytest.fixture
def samples() -> list[Sample]:
    ours = Sample("sequential write", "infinitfs", 0, 0, 400, "MB/s", 1.0, 400_000_000, 1.5, 50 << 20)
    return [*taken("sequential write", "nothing", 800, unit="MB/s"), ours]


def test_the_table_shows_the_figures_beside_the_ratio(samples: list[Sample]) -> None:
    file = io.StringIO()
    show_samples(Console(file=file, width=120), samples)
    first, second = [line.split("│")[1:-1] for line in file.getvalue().splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in first] == ["sequential write", "infinitfs", "400 MB/s", "", "4.03 s/GiB", "50 MiB"]
    assert [cell.strip() for cell in second] == ["", "nothing", "800 MB/s", "0.50", "", ""]


def test_the_picture_writes_every_ratio(samples: list[Sample]) -> None:
    texts = [element.text for element in ElementTree.fromstring(plot(samples)).iter() if element.text]
    assert "sequential write / nothing" in texts
    assert "0.50" in texts


async def test_a_delayed_line_keeps_order_and_lets_many_wait_at_once(autojump_clock: MockClock) -> None:
    server, near = trio.testing.memory_stream_pair()
    far, client = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on_later, near, far, 5.0)
        await server.send_all(b"first ")
        await trio.sleep(1)
        await server.send_all(b"second")
        await server.send_eof()
        arrived = [(trio.current_time(), data) async for data in _received(client)]
    assert [(round(when, 3) % 10, data) for when, data in arrived] == [(5, b"first "), (6, b"second")]


async def _received(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    async for data in stream:
        yield bytes(data)
