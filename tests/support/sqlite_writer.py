"""A program that fills a SQLite database, and notes each transaction once SQLite has said that it is committed.

Above: tests/mount/test_mount_databases.py runs it, kills what is below it, and asks `look`. Below: sqlite3.
Invariant: a transaction adds ROWS rows, numbered on from the last, and counts itself in a table of its own; the value
of a row follows from its number. So a database in which a transaction is there in part, or out of its order, shows it.
"""

import hashlib
import os
import sqlite3
import sys
from pathlib import Path
from typing import NamedTuple

ROWS = 20


class State(NamedTuple):
    """What a database holds: `problem` is empty where nothing is wrong with it."""

    transactions: int
    problem: str


def _value(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "little")).digest() * (1 + number % 9)


def write(path: str, journal: str, synchronous: str, notes: str) -> None:
    """Transactions until one fails."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={journal}")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("CREATE TABLE IF NOT EXISTS things (number INTEGER PRIMARY KEY, value BLOB, times INTEGER)")
    connection.execute("CREATE TABLE IF NOT EXISTS tally (transactions INTEGER)")
    connection.execute("INSERT INTO tally SELECT 0 WHERE NOT EXISTS (SELECT * FROM tally)")
    (done,) = connection.execute("SELECT transactions FROM tally").fetchone()
    with Path(notes).open("a") as noted:
        while True:
            connection.execute("BEGIN")
            for number in range(done * ROWS, done * ROWS + ROWS):
                connection.execute("INSERT INTO things VALUES (?, ?, 1)", (number, _value(number)))
            connection.execute("UPDATE things SET times = times + 1 WHERE number = ?", (done * ROWS // 2,))
            connection.execute("UPDATE tally SET transactions = transactions + 1")
            connection.execute("COMMIT")
            if journal == "delete":
                _check_folder(path)
            done += 1
            noted.write(f"{done}\n")
            noted.flush()


def _check_folder(path: str) -> None:
    """Fail where the database's folder cannot be opened.

    SQLite makes the removal of its journal durable by an fsync of the folder, but takes a folder that it cannot open
    for one that needs none (`unixDelete` in os_unix.c), and says that all is well: so it does when the filesystem ends
    between these two steps. Who can open the folder after a commit knows that SQLite could, too.
    """
    os.close(os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY))


def acknowledged(notes: Path) -> int:
    """How many transactions a writer has noted."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return int(lines[-1]) if lines else 0


def look(path: Path) -> State:
    connection = sqlite3.connect(path)
    try:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            return State(0, found)
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tally'").fetchone():
            return State(0, "")
        done = sum(transactions for (transactions,) in connection.execute("SELECT transactions FROM tally"))
        rows = connection.execute("SELECT number, value, times FROM things ORDER BY number").fetchall()
        touched = {turn * ROWS // 2 for turn in range(done)}
        if [number for number, _, _ in rows] != list(range(done * ROWS)):
            return State(done, f"{len(rows)} rows after {done} transactions")
        wrong = [number for number, value, _ in rows if value != _value(number)]
        wrong += [number for number, _, times in rows if (times > 1) != (number in touched)]
        return State(done, f"rows {wrong} are wrong" if wrong else "")
    finally:
        connection.close()


if __name__ == "__main__":
    write(*sys.argv[1:])
