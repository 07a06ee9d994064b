"""The local database: what a commit puts into the outbox, what is durable when, and what a disk that fails does."""

import errno
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest
import trio
import trio.testing

from infinitfs.errors import DamagedRecord, IntegrityError, LocalDiskFailed, NoSpace
from infinitfs.transfer.files import inline
from infinitfs.volume import database as module
from infinitfs.volume.database import Database
from infinitfs.volume.schema import JOURNALED, LOCAL

T = TypeVar("T")
KEY = bytes(range(32))
MARK = b"a-name-nobody-may-read"


def create(path: Path) -> Database:
    database = Database(path, KEY, inline)
    database.create()
    database.position = 1
    return database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = create(tmp_path / "volume.db")
    yield made
    made.close()


def set_number(database: Database, name: str, value: int) -> None:
    database.begin()
    database.connection.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, value))


def get_number(database: Database, name: str) -> int | None:
    row = database.row("SELECT value FROM numbers WHERE name = ?", (name,))
    return row[0] if row else None


def dump(database: Database) -> dict[str, list[Any]]:
    return {table: sorted(database.rows(f"SELECT * FROM {table}"), key=repr) for table in JOURNALED}


# --- the outbox ---


def change_something(database: Database, source: random.Random) -> None:
    """One random statement on one random journaled table."""
    small, blob = partial(source.randrange, 6), partial(source.randbytes, 3)
    statements: list[tuple[str, tuple[Any, ...]]] = [
        ("INSERT OR REPLACE INTO inodes VALUES (?,1,2,?,1,0,0,0,1,2,3,4,1,?)", (small(), small(), blob())),
        ("UPDATE inodes SET nlink = ?, mtime = ? WHERE ino = ?", (small(), small(), small())),
        ("DELETE FROM inodes WHERE ino = ?", (small(),)),
        ("INSERT OR IGNORE INTO dirents VALUES (?, ?, ?, ?)", (small(), blob(), source.randrange(99), small())),
        ("UPDATE OR IGNORE dirents SET parent = ?, name = ? WHERE parent = ?", (small(), blob(), small())),
        ("INSERT OR REPLACE INTO extents VALUES (?, ?, 5, ?, 0)", (small(), small(), small())),
        ("DELETE FROM extents WHERE ino = ? AND offset >= ?", (small(), small())),
        ("INSERT OR REPLACE INTO xattrs VALUES (?, ?, ?)", (small(), bytes([small()]), blob())),
        ("INSERT INTO blocks (id, pack, offset, length, size, refs, birth) VALUES (?,?,0,1,1,0,1)", (blob(), small())),
        ("DELETE FROM blocks WHERE pack = ?", (small(),)),
        ("UPDATE blocks SET refs = refs + 1, death = ? WHERE pack = ?", (None, small())),
        ("INSERT INTO packs (name, size, live, birth) VALUES (?, 0, 0, 1)", (blob(),)),
        ("UPDATE packs SET live = live + 1, condemned = ? WHERE pack < ?", (small(), small())),
        ("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (f"n{small()}", small())),
    ]
    database.connection.execute(*source.choice(statements))


@pytest.mark.parametrize("seed", range(8))
def test_the_outbox_applied_to_a_copy_gives_the_same_tables(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    one, other = create(tmp_path / "one"), create(tmp_path / "other")
    for _ in range(40):
        one.begin()
        for _ in range(source.randrange(1, 12)):
            change_something(one, source)
        one.commit()
    changesets = [bytes(row[0]) for row in one.rows("SELECT changeset FROM outbox ORDER BY id")]
    assert sum(map(len, changesets)) == one.outbox_bytes > 0
    other.apply(changesets)
    other.commit()
    assert dump(other) == dump(one)
    assert other.rows("SELECT * FROM outbox") == [], "what came from the journal does not go there again"
    one.close()
    other.close()


def test_a_table_of_this_machine_alone_never_reaches_the_outbox(database: Database) -> None:
    database.begin()
    run = database.connection.execute
    run("INSERT INTO staged VALUES (x'01', 1, 1, 0); INSERT INTO records VALUES (1, 'claim', x'00', x'00')")
    database.set_local("name", b"value")
    database.commit()
    assert database.rows("SELECT * FROM outbox") == []
    assert database.outbox_bytes == 0
    assert set(JOURNALED) | set(LOCAL) == {
        row[0] for row in database.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")
    } - {"sqlite_sequence"}


def test_a_transaction_without_effect_leaves_nothing_in_the_outbox(database: Database) -> None:
    set_number(database, "a", 1)
    database.connection.execute("DELETE FROM numbers")
    database.commit()
    assert database.rows("SELECT * FROM outbox") == []


def test_before_commit_is_part_of_the_transaction_and_the_position_is_that_of_its_end(database: Database) -> None:
    def write_out() -> None:
        database.connection.execute("INSERT INTO numbers VALUES ('gathered', 5)")

    database.before_commit = write_out
    database.begin()
    database.position = 9
    database.commit()
    ((position, changeset),) = database.rows("SELECT position, changeset FROM outbox")
    assert position == 9
    assert b"gathered" in changeset


def test_changes_that_do_not_fit_are_refused_whole(tmp_path: Path, database: Database) -> None:
    other = create(tmp_path / "other")
    set_number(other, "a", 1)
    other.commit()
    set_number(other, "a", 2)
    other.commit()
    first, second = (bytes(row[0]) for row in other.rows("SELECT changeset FROM outbox ORDER BY id"))
    with pytest.raises(IntegrityError, match="does not fit"):
        database.apply([first, second, second])
    assert not database.in_transaction
    assert get_number(database, "a") is None
    with pytest.raises(IntegrityError):
        database.apply([b"not a changeset"])
    database.apply([first, second])
    database.commit()
    assert get_number(database, "a") == 2
    other.close()


def test_a_change_of_a_local_table_in_the_journal_is_passed_over(tmp_path: Path, database: Database) -> None:
    other = create(tmp_path / "other")
    session = apsw.Session(other.connection, "main")
    session.attach("local")
    session.attach("numbers")
    other.connection.execute("INSERT INTO local VALUES ('history', x'00'); INSERT INTO numbers VALUES ('a', 1)")
    database.apply([session.changeset()])
    session.close()
    database.commit()
    assert database.get_local("history") is None
    assert get_number(database, "a") == 1
    other.close()


# --- a disk that is full or broken ---


class Disk(apsw.VFS):
    """A disk whose writes fail with `error`, once it has one."""

    def __init__(self) -> None:
        self.error: Callable[[], apsw.Error] | None = None
        super().__init__("failing", "unix")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.error is not None:
            raise self._disk.error()
        super().xWrite(data, offset)


@pytest.fixture(scope="module")
def failing() -> Disk:
    """Registered for good: the cipher's file system over it is made by the first connection, and stays."""
    return Disk()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, failing: Disk) -> Disk:
    """The cipher lies over whatever file system a connection names; every connection names this one."""

    class Connection(module._Connection):
        def __init__(self, path: str, **options: Any) -> None:
            super().__init__(path, vfs="multipleciphers-failing", **options)

    monkeypatch.setattr(module, "_Connection", Connection)
    return failing


@pytest.mark.parametrize(("error", "expected"), [(apsw.FullError, NoSpace), (apsw.IOError, LocalDiskFailed)])
async def test_a_commit_that_fails_is_rolled_back_whole_and_nothing_follows_it(
    tmp_path: Path, disk: Disk, error: type[apsw.Error], expected: type[Exception]
) -> None:
    database = create(tmp_path / "volume.db")
    set_number(database, "a", 1)
    await database.sync()
    set_number(database, "a", 2)
    disk.error = error
    with pytest.raises(expected):
        database.commit()
    disk.error = None
    assert not database.in_transaction
    assert get_number(database, "a") == 1
    assert len(database.rows("SELECT * FROM outbox")) == 1
    assert database.outbox_bytes == len(database.row("SELECT changeset FROM outbox")[0])
    # Who was told that the change is made must not be told that it is durable.
    with pytest.raises(expected):
        await database.sync()
    with pytest.raises(expected):
        set_number(database, "a", 3)
    database.close()
    again = Database(tmp_path / "volume.db", KEY, inline)
    assert get_number(again, "a") == 1
    set_number(again, "a", 4)
    again.close()


def test_a_statement_that_fails_half_way_through_a_change_takes_the_change_with_it(database: Database) -> None:
    set_number(database, "a", 1)
    with pytest.raises(LocalDiskFailed):
        database.connection.execute("INSERT INTO numbers VALUES ('a', 2)")  # as if a page could not be read
    assert not database.in_transaction
    assert get_number(database, "a") is None
    with pytest.raises(LocalDiskFailed):
        database.begin()


# --- durability ---


class Slow:
    """An offload in which `gate` holds the calls, each counted by the name of what it runs."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.gate.set()
        self.calls: list[object] = []

    async def __call__(self, call: Callable[[], T]) -> T:
        self.calls.append(call.func if isinstance(call, partial) else call)
        await trio.lowlevel.checkpoint()
        await self.gate.wait()
        return call()


async def test_all_who_wait_share_one_sync(tmp_path: Path) -> None:
    slow = Slow()
    database = Database(tmp_path / "volume.db", KEY, slow)
    database.create()
    slow.gate = trio.Event()
    returned: list[int] = []

    async def change_and_sync(number: int) -> None:
        set_number(database, str(number), number)
        await database.sync()
        returned.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change_and_sync, 0)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 50):
            nursery.start_soon(change_and_sync, number)
        await trio.testing.wait_all_tasks_blocked()
        assert returned == []
        assert slow.calls == [os.fdatasync], "those who came later wait for the next one"
        slow.gate.set()
    assert sorted(returned) == list(range(50))
    assert slow.calls == [os.fdatasync] * 2
    await database.sync()
    assert len(slow.calls) == 2, "nothing new, nothing to sync"
    assert not database.unsynced
    database.close()


async def test_a_failed_sync_is_never_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = create(tmp_path / "volume.db")
    await database.sync()
    calls = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "as planned")

    monkeypatch.setattr(os, "fdatasync", fail)
    set_number(database, "a", 1)
    problems = []

    async def sync() -> None:
        try:
            await database.sync()
        except LocalDiskFailed as error:
            problems.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(sync)
    assert len(problems) == 5
    with pytest.raises(LocalDiskFailed):
        await database.sync()
    with pytest.raises(LocalDiskFailed):
        set_number(database, "b", 1)
    assert len(calls) == 1
    log = (tmp_path / "volume.db-wal").read_bytes()
    database.close()
    assert (tmp_path / "volume.db-wal").read_bytes() == log, "closing does not copy what the disk may not have"


async def test_relieve_shortens_the_log_while_writers_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOG_LIMIT", 64 * 4096)
    vars(database)["_relieve_at"] = 64
    longest, number = 0, 0

    async def write(count: int) -> None:
        nonlocal longest, number
        for _ in range(count):
            await database.rested()
            number += 1
            set_number(database, f"{number} " + "x" * 2000, number)
            database.commit()
            await trio.lowlevel.checkpoint()
            longest = max(longest, vars(database)["_log_pages"])  # the file itself has its room from the start

    for _ in range(20):
        await write(40)
        if database.log_is_long:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.relieve)
                nursery.start_soon(write, 40)
    assert 64 < longest < 700, "about the limit and what was written while it was reached; all of it is 2,500 pages"
    assert database.value("SELECT count(*) FROM numbers") == number
    assert database.failed is None
    await database.sync()


async def test_the_log_starts_over_though_others_commit_while_it_is_copied(tmp_path: Path) -> None:
    """What cannot wait, as a flush between two steps, changes the database during a pass, and then during the next."""
    made = create(tmp_path / "volume.db")
    numbers = iter(range(3))

    async def offload(function: Callable[[], T]) -> T:
        result = function()
        if made.resting is not None and (number := next(numbers, None)) is not None:
            set_number(made, "during a pass", number)
            if number == 1:
                made.commit()
        return result

    vars(made)["_offload"] = offload
    for number in range(100):
        set_number(made, f"{number} " + "x" * 2000, number)
        made.commit()
    pages = vars(made)["_log_pages"]
    await made.relieve()
    assert next(numbers, None) is None
    set_number(made, "a", 1)
    made.commit()
    assert vars(made)["_log_pages"] < pages / 2
    assert get_number(made, "during a pass") == 2
    made.close()


async def test_a_log_that_a_reader_kept_gives_its_room_back(database: Database, tmp_path: Path) -> None:
    reader = database.connect()
    reader.execute("BEGIN; SELECT count(*) FROM numbers").fetchall()
    source = random.Random(1)
    longest = 0
    while longest < module.LOG_RESERVE + 2**20:
        for number in range(100):
            set_number(database, f"{number}", number)
            database.set_local(f"{number}", source.randbytes(4096))
        database.commit()
        longest = (tmp_path / "volume.db-wal").stat().st_size
    await database.relieve()
    assert not database.log_is_long, "not at every commit"
    reader.close()
    await database.relieve()
    set_number(database, "a", 1)
    database.commit()
    assert (tmp_path / "volume.db-wal").stat().st_size == module.LOG_RESERVE


async def test_a_sync_waits_until_the_log_may_have_started_over(database: Database) -> None:
    set_number(database, "a", 1)
    database.resting = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.sync)
        await trio.testing.wait_all_tasks_blocked()
        assert database.in_transaction
        database.resting.set()
        database.resting = None
    assert not database.unsynced


async def test_a_reader_keeps_the_log_and_relieve_is_not_tried_at_every_commit(database: Database) -> None:
    reader = database.connect()
    reader.execute("BEGIN; SELECT count(*) FROM numbers").fetchall()
    vars(database)["_relieve_at"] = 1
    set_number(database, "a", 1)
    database.commit()
    was_long = database.log_is_long
    await database.relieve()
    assert (was_long, database.log_is_long) == (True, False)
    assert reader.execute("SELECT count(*) FROM numbers").fetchall() == [(0,)]
    reader.close()


# --- secrecy ---


def test_reads_share_a_transaction_that_ends_with_the_next_change(database: Database) -> None:
    set_number(database, "a", 1)
    database.commit()
    assert get_number(database, "a") == 1
    assert database.connection.txn_state("main") == apsw.SQLITE_TXN_READ, "the next read locks nothing"
    database.rows("SELECT * FROM numbers")
    set_number(database, "a", 2)
    assert get_number(database, "a") == 2
    database.commit()
    assert database.connection.txn_state("main") == apsw.SQLITE_TXN_NONE
    assert get_number(database, "a") == 2


def test_a_change_outside_of_a_transaction_is_found_out(database: Database) -> None:
    get_number(database, "a")
    database.connection.execute("INSERT INTO numbers VALUES ('a', 1)")
    with pytest.raises(AssertionError, match="outside"):
        database.begin()


async def test_reads_between_changes_do_not_keep_the_log_from_starting_over(database: Database) -> None:
    for round in range(200):
        get_number(database, "round")
        set_number(database, "round", round)
        database.commit()
        get_number(database, "round")
    pages = vars(database)["_log_pages"]
    await database.relieve()
    get_number(database, "round")
    set_number(database, "round", -1)
    database.commit()
    assert vars(database)["_log_pages"] < pages / 2
    assert get_number(database, "round") == -1


async def test_neither_the_database_nor_its_log_can_be_read_from_the_disk(tmp_path: Path) -> None:
    """With the plain `apsw`, which installs under the same name as `apsw-sqlite3mc`, this fails."""
    database = create(tmp_path / "volume.db")
    for number in range(200):
        set_number(database, MARK.decode() + str(number), number)
        database.begin()
        database.connection.execute("INSERT INTO dirents VALUES (1, ?, ?, 5)", (MARK + b"%d" % number, number))
    await database.sync()
    log = (tmp_path / "volume.db-wal").read_bytes()
    assert len(log) > 4096
    await database.relieve()
    main = (tmp_path / "volume.db").read_bytes()
    assert len(main) > 4096
    for data in (log, main):
        assert MARK not in data
        assert b"CREATE TABLE" not in data
        assert not data.startswith(b"SQLite format 3")
    database.close()
    with pytest.raises(DamagedRecord):
        Database(tmp_path / "volume.db", bytes(32), inline)
    with pytest.raises(apsw.NotADBError), apsw.Connection(str(tmp_path / "volume.db")) as plain:
        plain.execute("SELECT * FROM numbers")


def test_a_damaged_page_is_found_out(tmp_path: Path) -> None:
    database = create(tmp_path / "volume.db")
    for number in range(200):
        set_number(database, MARK.decode() * 20 + str(number), number)
    database.close()
    data = bytearray((tmp_path / "volume.db").read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 + 1000] ^= 1
    (tmp_path / "volume.db").write_bytes(data)
    again = Database(tmp_path / "volume.db", KEY, inline)
    with pytest.raises((LocalDiskFailed, apsw.CorruptError)):
        again.rows("SELECT * FROM numbers")
    again.close()


def test_closing_cursors_leaves_older_ones_alone() -> None:
    """apsw-sqlite3mc 3.54.0.0 leaked a reference to each older live cursor with every one that closed: statements
    became slower for as long as a mount lived."""
    connection = apsw.Connection(":memory:")
    older = connection.execute("SELECT 1")
    older.fetchall()
    references = sys.getrefcount(older)
    for _ in range(10):
        connection.execute("SELECT 2").fetchall()
    assert sys.getrefcount(older) == references
