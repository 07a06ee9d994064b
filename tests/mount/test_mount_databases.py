"""Databases on a mount that is killed with -9 under them: what they called committed is there, and nothing is broken.

By default SQLite alone, in three ways to commit at once, with one kill. MOUNT_TESTS=long kills under each of them and
under PostgreSQL 20 times, DATABASE_KILLS sets another number.

With a rollback journal and `synchronous=FULL` SQLite does not sync the folder after it has removed the journal
(https://www.sqlite.org/pragma.html#pragma_synchronous has EXTRA for that): where a crash brings the journal back, the
last transaction is taken back, on any filesystem.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.mounted import PATIENCE, Home, needs_fuse, wait_until
from tests.support.postgres import BINARIES, Postgres
from tests.support.references import public_folder
from tests.support.sqlite_writer import acknowledged, look
from tests.support.users import IS_ROOT

pytestmark = needs_fuse

_ROOT = Path(__file__).resolve().parents[2]
_NOISE = r"transfer process|cannot be reached|Transport endpoint|The transfer"


class Way(NamedTuple):
    """How SQLite commits, and how many transactions at the end a crash may take back."""

    journal: str
    synchronous: str
    losses: int = 0

    @property
    def name(self) -> str:
        return f"{self.journal}-{self.synchronous}"


WAYS = [Way("wal", "full"), Way("delete", "extra"), Way("delete", "full", losses=1)]


@pytest.fixture
def kills(long: bool) -> int:
    return int(os.environ.get("DATABASE_KILLS", "20" if long else "1"))


def await_more(transactions: Callable[[], int], count: int) -> int:
    """Wait for so many; returns what `transactions` is then."""
    before = transactions()
    wait_until(lambda: transactions() >= before + count, "more transactions")
    return transactions()


@contextmanager
def writing(way: Way, drive: Path, notes: Path) -> Iterator[None]:
    """Transactions, one after another, until something below ends them."""
    before = acknowledged(notes)
    command = [sys.executable, "-m", "tests.support.sqlite_writer", str(drive / f"{way.name}.db"), *way[:2], str(notes)]
    with subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL) as writer:
        wait_until(lambda: acknowledged(notes) > before, "a transaction")
        yield
        assert writer.wait(PATIENCE) == 1, "nothing but an error ends a writer"


@pytest.mark.parametrize("ways", [WAYS, *([way] for way in WAYS)], ids=lambda ways: " ".join(way.name for way in ways))
def test_sqlite_keeps_what_it_committed(
    ways: list[Way], kills: int, long: bool, home: Home, drive: Path, tmp_path: Path
) -> None:
    if len(ways) == 1 and not long:
        pytest.skip("one way alone is the long form: MOUNT_TESTS=long")
    home.expect(_NOISE)
    chance = random.Random(kills)
    notes = {way: tmp_path / way.name for way in ways}
    lost = dict.fromkeys(ways, 0)
    mounted = home.mount(drive)
    for turn in range(kills):
        with ExitStack() as stack:
            for way in ways:
                stack.enter_context(writing(way, drive, notes[way]))
            await_more(partial(acknowledged, notes[chance.choice(ways)]), chance.randrange(1, 80))
            mounted.kill()  # and the writers end before there is another mount at their paths
        mounted.clear()
        mounted = home.mount(drive)
        for way in ways:
            told, (kept, problem) = acknowledged(notes[way]), look(drive / f"{way.name}.db")
            assert not problem, f"kill {turn}, {way.name}: {problem}"
            assert kept >= told - way.losses, f"kill {turn}, {way.name}: {told} were acknowledged, {kept} are there"
            lost[way] += max(told - kept, 0)
    mounted.unmount()
    for way in ways:
        print(
            f"{kills} kills, {way.name}: {acknowledged(notes[way])} transactions acknowledged, {lost[way]} taken back"
        )


@pytest.mark.skipif(not IS_ROOT, reason="only root can start PostgreSQL as its own user")
@pytest.mark.skipif(BINARIES is None, reason="there is no PostgreSQL here")
def test_postgresql_keeps_what_it_committed(kills: int, long: bool, home: Home, tmp_path: Path) -> None:
    if not long:
        pytest.skip("PostgreSQL is the long form: MOUNT_TESTS=long")
    home.expect(_NOISE)
    chance = random.Random(kills)
    with public_folder() as folder:
        mounted = home.mount(folder / "drive", "--allow-other")
        server = Postgres(folder / "drive" / "data", folder)
        server.create()
        with server.running():
            server.fill()
        for turn in range(kills):
            with server.running(end=signal.SIGQUIT), server.benchmark():
                told = await_more(server.transactions, chance.randrange(1, 1000))
                mounted.kill()
            mounted.clear()
            mounted = home.mount(folder / "drive", "--allow-other")
            with server.running():
                server.check()
                kept = server.transactions()
                assert kept >= told, f"kill {turn}: {told} transactions were to be seen, {kept} are there"
                assert server.is_balanced, f"kill {turn}"
        mounted.unmount()
        print(f"{kills} kills, PostgreSQL: {kept} transactions, none lost")
