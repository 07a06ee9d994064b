"""The local database: one encrypted SQLite file with a write-ahead log, its transactions and their durability.

Above: `namespace`, `blocks`, `journal` run statements on `connection`; `flush` and fsync call `sync`. Below: APSW with
SQLite3 Multiple Ciphers, and one descriptor of the log.

Invariants.
- Every change of a journaled table happens between `begin` and `commit`; the commit's last statement puts the
  changeset of all of them into `outbox`, so what is not in the journal is always in the database.
- Statements run on the event loop and never wait for a disk: `synchronous=NORMAL` without automatic checkpoints writes
  the log and nothing else. `sync` makes commits durable with an fdatasync in a thread, one for all who wait;
  `relieve` copies the log into the main file in a thread, over a second connection.
- An fsync that failed is never tried again (Linux drops the pages that could not be written), and a transaction that a
  statement or its end could not write is rolled back whole: then what programs were told is more than what is stored,
  so the database is `failed` and takes nothing more until it is opened again, as after a crash.
- The main file is never opened but through SQLite: closing any other descriptor of it would drop SQLite's POSIX locks
  (https://www.sqlite.org/howtocorrupt.html, section 2.2). The log holds no lock.

What breaks if you await inside a transaction: nothing is lost, but the commit timer may end it there, so a caller that
must be atomic does not await between its statements.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import trio

from infinitfs.errors import DamagedRecord, InfinitfsError, IntegrityError, LocalDiskFailed, NoSpace
from infinitfs.transfer.files import Offload
from infinitfs.volume.schema import ADDED, JOURNALED, PAGE_SIZE, SCHEMA

_log = logging.getLogger(__name__)

Parameter = int | bytes | str | None

LOG_LIMIT = 16 * 2**20  # bytes of log after which it is copied into the main file
LOG_RESERVE = 2 * LOG_LIMIT  # bytes of disk that the log has from the start, so that a full disk stops no commit
_PASSES = 5  # of copying what is left of the log, while who can wait does

CACHE = 256 * 2**20
"""Bytes of pages in memory, and no more than a sixteenth of the machine's: a volume of a million files fits. A look-up
among these took 8 us, 20 where pages came from the kernel's memory, and 77 where they came from the disk."""

# One thread at a time uses a connection; a mutex around each column of each row takes a quarter of a listing.
_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX


class _Connection(apsw.Connection):
    """A connection whose errors leave as those of the tree, once `failure` says what becomes of one."""

    failure: Callable[[apsw.Error], InfinitfsError] | None = None

    def execute(self, statements: str, bindings: Any = None, **options: Any) -> apsw.Cursor:
        try:
            return super().execute(statements, bindings, **options)
        except apsw.Error as error:
            if self.failure is None:
                raise
            raise self.failure(error) from error

    def executemany(self, statements: str, sequenceofbindings: Iterable[Any], **options: Any) -> apsw.Cursor:
        try:
            return super().executemany(statements, sequenceofbindings, **options)
        except apsw.Error as error:
            if self.failure is None:
                raise
            raise self.failure(error) from error


class Database:
    """The database at `path`, sealed with the 32-byte `key`."""

    def __init__(self, path: Path, key: bytes, offload: Offload) -> None:
        self.path = path
        self._key = key
        self._offload = offload
        path.touch(mode=0o600)  # SQLite gives its log the same mode
        self.connection = self.connect()
        self.connection.pragma("cache_size", -(min(CACHE, _memory() // 16) // 1024))
        self.connection.pragma("journal_size_limit", LOG_RESERVE)  # once it starts over, after a reader kept it long
        self.connection.failure = self.fail
        self._execute = self.connection.cursor().execute  # always the same: a new one takes a third of a point query
        self.failed: InfinitfsError | None = None
        self.position = 0
        """The journal position that the record to come will have; set by who opens the journal."""
        self.outbox_bytes = 0
        """Bytes of changesets that no record holds yet; set by who opens the journal, and by who seals a record."""
        self.before_commit: Callable[[], None] = lambda: None
        """Called inside every transaction before it ends, to write out what was gathered in memory."""
        self.after_rollback: Callable[[], None] = lambda: None
        """Called when a transaction was rolled back: what was gathered in memory is not so."""
        self.in_transaction = False
        self._reading = False
        self._session: apsw.Session | None = None
        self._commits = 0
        self._synced = 0
        self._syncing: trio.Event | None = None
        self._relieving = False
        self.resting: trio.Event | None = None
        """Fires when the log may have started over; None while nobody waits for that."""
        self.changed = trio.Event()
        """Fires at the next `begin`, for the commit timer."""
        self._log = -1
        self._log_pages = 0
        self._relieve_at = LOG_LIMIT // PAGE_SIZE

    def connect(self) -> _Connection:
        """One more connection to the same file, for a checkpoint in a thread."""
        connection = _Connection(str(self.path), flags=_FLAGS, statementcachesize=256)
        connection.pragma("key", f"raw:{self._key.hex()}")
        try:
            connection.pragma("page_size", PAGE_SIZE)
            connection.pragma("journal_mode", "wal")
        except (apsw.NotADBError, apsw.CorruptError) as error:
            connection.close()
            raise DamagedRecord(path=str(self.path), reason=f"the local database does not open: {error}") from None
        connection.pragma("synchronous", "normal")
        connection.pragma("wal_autocheckpoint", 0)
        connection.pragma("cache_size", -8 * 1024)
        connection.pragma("temp_store", "memory")
        return connection

    def create(self) -> None:
        """Lay the tables out in an empty database."""
        self.connection.execute("BEGIN IMMEDIATE;" + SCHEMA + "COMMIT")
        self.open_log()

    def open_log(self) -> None:
        """Take hold of the log's descriptor, for as long as the connection lives."""
        self._stop_reading()
        self.connection.execute(f"BEGIN IMMEDIATE; {ADDED} UPDATE local SET value = value WHERE name = ''; COMMIT")
        self.connection.set_wal_hook(self._logged)
        if self._log < 0:
            self._log = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with suppress(OSError):  # where the disk has no room for it, or cannot promise any, a full disk stops us
                os.posix_fallocate(self._log, 0, LOG_RESERVE)
            self._commits += 1  # what a killed process left in the log may not be on the disk yet

    # --- transactions ---

    @property
    def transaction(self) -> int:
        """The number of the transaction that is open, or comes next."""
        return self._commits

    def begin(self, *, journaled: bool = True) -> None:
        """Start a transaction where none is open. Raises LocalDiskFailed or NoSpace once the database has failed.

        Without `journaled` its changes came from the journal and do not go there again.
        """
        if self.in_transaction:
            return
        if self.failed is not None:
            raise self.failed
        self._stop_reading()
        self.connection.execute("BEGIN IMMEDIATE")
        if journaled:
            self._session = apsw.Session(self.connection, "main")
            for table in JOURNALED:
                self._session.attach(table)
        self.in_transaction = True
        self.changed.set()
        self.changed = trio.Event()

    def apply(self, changesets: Iterable[bytes]) -> None:
        """Changes of the journal, as a transaction that the caller commits. Raises IntegrityError, rolled back."""
        self.begin(journaled=False)
        try:
            for changeset in changesets:
                apsw.Changeset.apply(changeset, self.connection, filter=JOURNALED.__contains__)
        except apsw.Error as error:
            self._roll_back()
            raise IntegrityError(problem=f"A change of the journal does not fit the volume: {error}.") from None

    def commit(self) -> None:
        """End the open transaction, its changeset into `outbox`; nothing without one.

        Raises NoSpace or LocalDiskFailed, with all of the transaction rolled back and the database failed.
        """
        if not self.in_transaction:
            return
        changeset = b""
        if self._session is not None:
            self.before_commit()
            changeset = self._session.changeset()
            self._session.close()
            self._session = None
        if changeset:
            self.connection.execute(
                "INSERT INTO outbox (position, changeset) VALUES (?, ?)", (self.position, changeset)
            )
        self.connection.execute("COMMIT")
        self.outbox_bytes += len(changeset)
        self.in_transaction = False
        self._commits += 1

    def fail(self, error: apsw.Error) -> InfinitfsError:
        """A statement failed: what became of its operation is unknown, so the whole transaction goes."""
        self._roll_back()
        if self.failed is None:
            if isinstance(error, apsw.FullError):
                self.failed = NoSpace(what=str(self.path.parent), remedy="free some, then mount again")
            else:
                self.failed = LocalDiskFailed(path=str(self.path), reason=str(error))
        return self.failed

    def _roll_back(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        if self.connection.in_transaction:
            apsw.Connection.execute(self.connection, "ROLLBACK")  # that a failure here is not a failure again
        self.in_transaction = self._reading = False
        self.after_rollback()

    # --- statements ---

    def _read_on(self) -> None:
        """Reads until the next write share a transaction: to begin and end one locks and unlocks the log's index, two
        system calls that take longer than a point query."""
        self.connection.execute("BEGIN")
        self._reading = True

    def _stop_reading(self) -> None:
        """Before a statement that begins a transaction of its own. A log is not started over while one reads it."""
        if self._reading:
            assert self.connection.txn_state("main") != apsw.SQLITE_TXN_WRITE, "a change outside of `begin`"
            self.connection.execute("COMMIT")
            self._reading = False

    def rows(self, sql: str, parameters: Sequence[Parameter] = ()) -> list[Any]:
        """Every row of a statement."""
        if not (self._reading or self.in_transaction):
            self._read_on()
        try:
            return self._execute(sql, parameters).fetchall()
        except apsw.Error as error:  # of a later row
            raise self.fail(error) from error

    def rows_of_each(self, sql: str, parameters: Iterable[Sequence[Parameter]]) -> list[Any]:
        """Every row of a statement with these parameters, then with those, and so on."""
        if not (self._reading or self.in_transaction):
            self._read_on()
        try:
            return self.connection.executemany(sql, parameters).fetchall()
        except apsw.Error as error:  # of a later row
            raise self.fail(error) from error

    def row(self, sql: str, parameters: Sequence[Parameter] = ()) -> Any:
        """The row of a statement that has one at most, None without one."""
        if not (self._reading or self.in_transaction):
            self._read_on()
        try:
            rows = self._execute(sql, parameters).fetchall()
        except apsw.Error as error:
            raise self.fail(error) from error
        return rows[0] if rows else None

    def change(self, sql: str, parameters: Sequence[Parameter]) -> int:
        """A statement that has no rows, in the open transaction; returns how many it has changed."""
        try:
            self._execute(sql, parameters)
        except apsw.Error as error:
            raise self.fail(error) from error
        return self.connection.changes()

    def value(self, sql: str, parameters: Sequence[Parameter] = ()) -> int:
        """The number that a statement gives, 0 where it gives none."""
        row = self.row(sql, parameters)
        return int(row[0]) if row and row[0] is not None else 0

    def get_local(self, name: str) -> bytes | None:
        row = self.row("SELECT value FROM local WHERE name = ?", (name,))
        return bytes(row[0]) if row else None

    def set_local(self, name: str, value: bytes) -> None:
        self.begin()
        self.connection.execute("INSERT OR REPLACE INTO local VALUES (?, ?)", (name, value))

    # --- durability ---

    @property
    def unsynced(self) -> bool:
        return self.in_transaction or self._synced < self._commits

    async def rested(self) -> None:
        """Return once the log need not start over just now: who can wait with a change does it afterwards."""
        while self.resting is not None:
            await self.resting.wait()

    async def sync(self) -> None:
        """Commit, and return once every commit until now is on the disk. Raises LocalDiskFailed, NoSpace."""
        await self.rested()
        self.commit()
        target = self._commits
        while True:
            if self.failed is not None:
                raise self.failed
            if self._synced >= target:
                return
            if self._syncing is not None:
                await self._syncing.wait()
                continue
            self._syncing = trio.Event()
            mark = self._commits
            try:
                with trio.CancelScope(shield=True):
                    await self._offload(partial(os.fdatasync, self._log))
                self._synced = max(self._synced, mark)
            except OSError as error:
                self.failed = LocalDiskFailed(path=f"{self.path}-wal", reason=os.strerror(error.errno or 0))
            finally:
                self._syncing.set()
                self._syncing = None

    @property
    def size(self) -> int:
        """Bytes of its pages."""
        return int(self.connection.pragma("page_count")) * PAGE_SIZE

    @property
    def log_is_long(self) -> bool:
        return self._log_pages >= self._relieve_at and not self._relieving

    def _logged(self, connection: apsw.Connection, name: str, pages: int) -> int:
        """SQLite's word after a commit: how many pages the log holds. Fewer than before: it started over."""
        if pages < self._log_pages:
            self._relieve_at = LOG_LIMIT // PAGE_SIZE
        self._log_pages = pages
        return apsw.SQLITE_OK

    async def relieve(self) -> None:
        """Copy the log into the main file, so that it starts again from its beginning and stays short.

        A first pass runs beside the writers; when little is left, who can wait does (`rested`) for a second one: with
        the whole log copied and no reader on it, SQLite's next transaction starts the log over. One that was begun
        during the pass does not, nor do those after it: then there is another pass.
        """
        if self._relieving:
            return
        self._relieving = True
        connection = None
        try:
            connection = await self._offload(self.connect)
            with trio.CancelScope(shield=True):
                await self._offload(partial(_checkpoint, connection))
                self.resting = trio.Event()
                for _ in range(_PASSES):
                    self.commit()
                    commits = self._commits
                    await self._offload(partial(_checkpoint, connection))
                    if self._commits == commits and not self.in_transaction:
                        break
        except apsw.FullError as error:
            _log.warning("The database's log cannot be copied now, it grows on: %s", error)
        except apsw.Error as error:
            self.fail(error)
        finally:
            self._relieving = False
            self._relieve_at = self._log_pages + LOG_LIMIT // PAGE_SIZE  # a reader may keep it from starting over
            if self.resting is not None:
                self.resting.set()
                self.resting = None
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Commit and close; the log is copied and removed by SQLite, or left as it is where the disk has failed."""
        try:
            if self.failed is None:
                self.commit()
        finally:
            self._close()

    def _close(self) -> None:
        if self.failed is not None:
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self.connection.close()


def _memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _checkpoint(connection: apsw.Connection) -> None:
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
