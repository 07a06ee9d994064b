"""Bugs planted by hand: worlds find each of them within 2,000 seeds, so worlds that find nothing mean something."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from infinitfs.block import growing
from infinitfs.file.file import File
from infinitfs.volume.database import Database
from infinitfs.volume.intents import Intents
from infinitfs.volume.journal import object_hash, open_record, seal_record
from infinitfs.volume.publisher import Publisher
from infinitfs.volume.writeback import WriteBack
from tests.support.world.run import run

SEEDS = 2000


def _assert_found(start: int = 0) -> None:
    """`start` is shortly before a world that is known to find the bug: which one that is changes with the world."""
    assert any(run(seed).failure for seed in range(start, start + SEEDS)), f"{SEEDS} worlds did not find it"


class _Os:
    """The module `os` with another fdatasync."""

    def __init__(self, fdatasync: Any) -> None:
        self.fdatasync = fdatasync

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def test_acknowledged_before_the_staged_frames_are_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "os", _Os(lambda descriptor: None))
    _assert_found()


def test_extents_committed_before_their_frames_are_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is acknowledged is synced, but an unasked commit may reach the disk before the frames that it names."""
    waiting: set[Path] = set()
    sync = Database.sync

    async def frames_first(self: Database) -> None:
        for path in waiting:
            if path.exists():
                descriptor = os.open(path, os.O_RDONLY)
                os.fdatasync(descriptor)
                os.close(descriptor)
        waiting.clear()
        await sync(self)

    def later(descriptor: int) -> None:
        waiting.add(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(growing, "os", _Os(later))
    monkeypatch.setattr(Database, "sync", frames_first)
    _assert_found(start=9125)


def test_intents_counted_before_they_are_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    extend = growing.GrowingFiles.extend

    def unsynced(self: growing.GrowingFiles, *arguments: Any) -> None:
        with monkeypatch.context() as patched:
            if self.folder.name == "intents":
                patched.setattr(growing, "os", _Os(lambda descriptor: None))
            extend(self, *arguments)

    monkeypatch.setattr(growing.GrowingFiles, "extend", unsynced)
    _assert_found()


def test_intents_that_outlive_their_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """They bring older bytes back over newer ones that were fsynced."""
    monkeypatch.setattr(Intents, "contain", lambda self, ino, number: None)
    _assert_found()


def test_intents_that_a_truncation_does_not_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Intents, "clip", lambda self, ino, size: None)
    _assert_found(start=1295)


def test_a_flush_that_forgets_the_ones_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Size, times and intents of a file are settled though a later batch has newer bytes of it."""
    monkeypatch.setattr(File, "last_flush", property(lambda self: not self.dirty))
    _assert_found(start=140)


def test_records_without_what_was_fsynced_before_their_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: WriteBack) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(WriteBack, "flush_intended", nothing)
    _assert_found(start=30)


def test_a_record_published_before_its_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    upload = Publisher._upload

    async def as_if_uploaded(self: Publisher, name: str) -> None:
        self._database.begin()
        self._database.connection.execute("UPDATE staged SET uploaded = 1 WHERE pack = ?", (bytes.fromhex(name),))
        self._notify()
        await upload(self, name)

    monkeypatch.setattr(Publisher, "_upload", as_if_uploaded)
    _assert_found()


def test_changesets_kept_in_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach the outbox with the next transaction or the next cut: only a crash in between tells."""
    commit, begin, end_record = Database.commit, Database.begin, Publisher._end_record
    unsent = vars(Publisher)["unsent"]
    kept: dict[int, list[Any]] = {}

    def commit_without(self: Database) -> None:
        last = self.value("SELECT max(id) FROM outbox")
        commit(self)
        rows = self.rows("SELECT position, changeset FROM outbox WHERE id > ?", (last,))
        if rows:
            self.connection.execute("DELETE FROM outbox WHERE id > ?", (last,))
            kept.setdefault(id(self), []).extend(rows)

    def begin_with(self: Database, *, journaled: bool = True) -> None:
        is_open = self.in_transaction
        begin(self, journaled=journaled)
        for row in [] if is_open else kept.pop(id(self), []):
            self.connection.execute("INSERT INTO outbox (position, changeset) VALUES (?, ?)", row)

    async def end_record_with(self: Publisher) -> None:
        self._database.commit()
        self._database.begin()
        await end_record(self)

    monkeypatch.setattr(Database, "commit", commit_without)
    monkeypatch.setattr(Database, "begin", begin_with)
    monkeypatch.setattr(Publisher, "_end_record", end_record_with)
    monkeypatch.setattr(Publisher, "unsent", property(lambda self: id(self._database) in kept or unsent.fget(self)))
    _assert_found()


def test_a_record_sealed_anew_at_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Publisher._put

    async def sealed_anew(self: Publisher, position: int) -> None:
        (data,) = self._database.row("SELECT object FROM records WHERE position = ?", (position,))
        record = open_record(self._ring, self._members, position, data)
        data = seal_record(self._ring, self._identity, record)
        self._database.begin()
        self._database.connection.execute(
            "UPDATE records SET object = ?, hash = ? WHERE position = ?", (data, object_hash(data), position)
        )
        await put(self, position)

    monkeypatch.setattr(Publisher, "_put", sealed_anew)
    _assert_found()


def test_a_record_sent_before_it_is_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = property(lambda self: 2**62, lambda self, position: None)
    monkeypatch.setattr(Publisher, "_durable", everything, raising=False)  # an attribute of each instance
    _assert_found(start=300)


def test_the_log_of_a_killed_process_taken_for_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    open_log = Database.open_log

    def as_if_synced(self: Database) -> None:
        open_log(self)
        self._synced = self._commits

    monkeypatch.setattr(Database, "open_log", as_if_synced)
    _assert_found(start=1500)
