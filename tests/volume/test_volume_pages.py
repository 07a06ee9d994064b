"""Plain pages out of and into encrypted databases: same bytes for same content, bounded memory, nothing on
disk."""

import secrets
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from infinitfs.errors import IntegrityError
from infinitfs.volume.pages import GROUP, LOCK_PAGE, PAGE, GroupWriter, export_pages, import_pages

KEY = "5a" * 32
MARK = "a-name-nobody-may-read"


def open_database(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.pragma("hexkey", KEY)
    connection.pragma("journal_mode", "wal")
    connection.pragma("wal_autocheckpoint", 0)
    return connection


def fill(connection: apsw.Connection, rows: int, width: int = 100) -> None:
    with connection:
        connection.execute("CREATE TABLE dirent(parent, name, data, PRIMARY KEY(parent, name)) WITHOUT ROWID")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO dirent SELECT i / 10, ? || i, randomblob(?) FROM n",
            (rows, MARK, width),
        )


def content(connection: apsw.Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT * FROM dirent ORDER BY parent, name").fetchall()


def exported(source: apsw.Connection) -> dict[int, bytes]:
    """All groups in the order they came, taken under a read transaction as a checkpoint does."""
    groups: dict[int, bytes] = {}

    def on_group(number: int, data: bytes) -> None:
        assert number not in groups
        groups[number] = data

    with source:
        size = export_pages(source, on_group=on_group)
    assert size == sum(map(len, groups.values()))
    return groups


def size_of(groups: dict[int, bytes]) -> int:
    return sum(map(len, groups.values()))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / "source")
    fill(connection, 5000)
    yield connection
    connection.close()


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / "destination")
    yield connection
    connection.close()


def test_a_database_comes_back_whole_encrypted_and_in_wal_mode(
    source: apsw.Connection, destination: apsw.Connection, tmp_path: Path
) -> None:
    groups = exported(source)
    import_pages(destination, size_of(groups), groups.__getitem__)
    assert content(destination) == content(source)
    assert destination.pragma("journal_mode") == "wal"
    assert destination.pragma("integrity_check") == "ok"
    destination.execute("DELETE FROM dirent WHERE parent = 1")
    assert MARK.encode() in b"".join(groups.values())
    for path in tmp_path.iterdir():
        assert MARK.encode() not in path.read_bytes()
        assert not path.read_bytes().startswith(b"SQLite format 3")


def test_a_plain_sqlite_reads_the_image(source: apsw.Connection) -> None:
    groups = exported(source)
    image = bytearray(b"".join(groups[number] for number in sorted(groups)))
    image[18:20] = b"\x01\x01"
    with apsw.Connection(":memory:") as plain:
        plain.deserialize("main", bytes(image))
        assert content(plain) == content(source)
        assert plain.pragma("integrity_check") == "ok"


def test_groups_come_once_in_ascending_order_and_group_0_last(source: apsw.Connection) -> None:
    groups = exported(source)
    assert list(groups) == [*range(1, len(groups)), 0]
    assert all(len(groups[number]) == GROUP for number in range(len(groups) - 1))
    assert 0 < len(groups[len(groups) - 1]) <= GROUP


def test_an_export_sees_its_snapshot_while_others_commit(
    source: apsw.Connection, destination: apsw.Connection, tmp_path: Path
) -> None:
    before = content(source)
    groups: dict[int, bytes] = {}
    pauses = 0
    reader = open_database(tmp_path / "source")

    def paused() -> None:
        nonlocal pauses
        pauses += 1
        source.execute("UPDATE dirent SET data = randomblob(500) WHERE parent % 20 = ?", (pauses,))

    reader.execute("BEGIN; SELECT count(*) FROM dirent").fetchall()
    size = export_pages(reader, on_group=groups.__setitem__, pages_per_step=20, paused=paused)
    assert content(reader) == before
    reader.close()
    assert pauses > 5
    assert content(source) != before
    import_pages(destination, size, groups.__getitem__)
    assert content(destination) == before


def test_groups_depend_on_nothing_but_content(source: apsw.Connection, destination: apsw.Connection) -> None:
    groups = exported(source)
    source.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    source.pragma("user_version", 1)
    source.pragma("user_version", 0)
    assert exported(source) == groups
    import_pages(destination, size_of(groups), groups.__getitem__)
    again = exported(destination)
    assert {number for number in groups if groups[number] != again[number]} <= {0}


def test_a_small_change_changes_few_groups(source: apsw.Connection) -> None:
    groups = exported(source)
    assert len(groups) > 10
    source.execute("UPDATE dirent SET data = zeroblob(100) WHERE parent = 250")
    again = exported(source)
    assert 1 <= sum(groups[number] != again[number] for number in groups) <= 3


def test_an_empty_database_is_one_page(tmp_path: Path, destination: apsw.Connection) -> None:
    empty = open_database(tmp_path / "empty")
    groups = exported(empty)
    empty.close()
    assert {number: len(data) for number, data in groups.items()} == {0: PAGE}
    import_pages(destination, PAGE, groups.__getitem__)
    assert destination.execute("SELECT * FROM sqlite_schema").fetchall() == []


def test_memory_stays_bounded_both_ways(tmp_path: Path, destination: apsw.Connection) -> None:
    big = open_database(tmp_path / "big")
    fill(big, 34_000, 3000)
    big.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    store = tmp_path / "sealed"
    bound = 6 * 1024 * 1024

    def measured(work: Callable[[], None]) -> int:
        apsw.memory_high_water(True)
        used = apsw.memory_used()
        tracemalloc.start()
        work()
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return python + apsw.memory_high_water() - used

    size = 0
    with store.open("w+b") as file:

        def on_group(number: int, data: bytes) -> None:
            file.seek(number * GROUP)
            file.write(data)

        def read_group(number: int) -> bytes:
            file.seek(number * GROUP)
            return file.read(GROUP)

        def take() -> None:
            nonlocal size
            size = export_pages(big, on_group=on_group)

        assert measured(take) < bound
        assert size > 100 * 1024 * 1024
        assert measured(lambda: import_pages(destination, size, read_group)) < bound
    assert destination.execute("SELECT count(*), sum(length(data)) FROM dirent").fetchall() == [(34_000, 34_000 * 3000)]
    big.close()


def test_an_export_opens_no_file(source: apsw.Connection, tmp_path: Path) -> None:
    source.execute("BEGIN; SELECT count(*) FROM dirent").fetchall()

    def open_files() -> set[Path]:
        found = set()
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                found.add(descriptor.readlink())
            except FileNotFoundError:
                continue  # the descriptor of the listing itself
        return {path for path in found if path.is_file()}

    files, names = open_files(), set(tmp_path.iterdir())
    seen: list[tuple[set[Path], set[Path]]] = []
    export_pages(
        source,
        on_group=lambda number, data: None,
        pages_per_step=16,
        paused=lambda: seen.append((open_files(), set(tmp_path.iterdir()))),
    )
    assert len(seen) > 5
    assert all(state == (files, names) for state in seen)


@pytest.mark.parametrize("at", [1, 5, 0])
def test_an_error_of_on_group_is_raised_as_it_is(source: apsw.Connection, at: int) -> None:
    error = KeyError("mine")

    def on_group(number: int, data: bytes) -> None:
        if number == at:
            raise error

    with pytest.raises(KeyError) as caught:
        export_pages(source, on_group=on_group)
    assert caught.value is error
    assert not [name for name in apsw.vfs_names() if "infinitfs" in name]
    assert len(exported(source)) > 10


def test_an_error_of_paused_is_raised_as_it_is(source: apsw.Connection) -> None:
    error = InterruptedError("mine")

    def paused() -> None:
        raise error

    with pytest.raises(InterruptedError) as caught:
        export_pages(source, on_group=lambda number, data: None, pages_per_step=1, paused=paused)
    assert caught.value is error
    assert not [name for name in apsw.vfs_names() if "infinitfs" in name]


@pytest.mark.parametrize("at", [0, 1, 7])
def test_an_error_of_read_group_is_raised_as_it_is(
    source: apsw.Connection, destination: apsw.Connection, at: int
) -> None:
    groups = exported(source)
    error = KeyError("mine")

    def read_group(number: int) -> bytes:
        if number == at:
            raise error
        return groups[number]

    with pytest.raises(KeyError) as caught:
        import_pages(destination, size_of(groups), read_group)
    assert caught.value is error
    assert not [name for name in apsw.vfs_names() if "infinitfs" in name]


def patched(group: bytes, offset: int, data: bytes) -> bytes:
    return group[:offset] + data + group[offset + len(data) :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda groups: groups | {0: secrets.token_bytes(GROUP)},
        lambda groups: groups | {0: patched(groups[0], 16, (512).to_bytes(2, "big"))},
        lambda groups: groups | {0: patched(groups[0], 20, b"\x00")},
        lambda groups: groups | {0: patched(groups[0], 28, bytes(4))},
        lambda groups: groups | {0: patched(groups[0], 47, b"\x09")},
        lambda groups: groups | {0: patched(groups[0], 100, b"\xff" * (PAGE - 100))},
        lambda groups: groups | {3: b"\xff" * GROUP},
        lambda groups: groups | {3: groups[4], 4: groups[3]},
        lambda groups: groups | {3: bytes(GROUP)},
        lambda groups: groups | {3: groups[3][:-1]},
        lambda groups: groups | {3: groups[3] + b"\x00"},
        lambda groups: {number: groups[number] for number in range(len(groups) - 1)},
        lambda groups: {0: b""},
        lambda groups: {0: groups[0][:100]},
    ],
    ids=[
        "garbage",
        "page size",
        "reserve",
        "page count",
        "schema format",
        "page 1",
        "group of ones",
        "groups swapped",
        "group of zeros",
        "short group",
        "long group",
        "last group missing",
        "nothing",
        "header only",
    ],
)
def test_damage_is_an_integrity_error(
    source: apsw.Connection,
    destination: apsw.Connection,
    damage: Callable[[dict[int, bytes]], dict[int, bytes]],
) -> None:
    damaged = damage(exported(source))
    with pytest.raises(IntegrityError, match="checkpoint"):
        import_pages(destination, size_of(damaged), damaged.__getitem__)


def test_exports_run_side_by_side(source: apsw.Connection, tmp_path: Path) -> None:
    expected = exported(source)
    results: list[dict[int, bytes]] = []

    def work() -> None:
        reader = open_database(tmp_path / "source")
        results.append(exported(reader))
        reader.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 3


def test_the_lock_page_is_zeros_and_holds_nothing_back() -> None:
    groups = GroupWriter(reserved=32)
    page = b"\x01" * PAGE
    end = LOCK_PAGE + GROUP
    most = taken = 0
    last = (0, b"")
    for offset in [*range(PAGE, LOCK_PAGE, PAGE), *range(LOCK_PAGE + PAGE, end, PAGE), 0]:
        groups.write(offset, page)
        for last in groups.take():
            assert last[0] == taken + 1
            taken = last[0]
        most = max(most, offset // GROUP - taken)
    used = page[: PAGE - 32] + bytes(32)
    assert last == (LOCK_PAGE // GROUP, bytes(PAGE) + used * (GROUP // PAGE - 1))
    assert most == 1
    assert list(groups.rest()) == [(0, used * (GROUP // PAGE))]
    assert groups.size == end


def test_a_page_of_a_group_already_taken_is_refused() -> None:
    groups = GroupWriter(reserved=0)
    for offset in range(0, 2 * GROUP, PAGE):
        groups.write(offset, bytes(PAGE))
    assert [number for number, _ in groups.take()] == [1]
    with pytest.raises(apsw.IOError):
        groups.write(GROUP, bytes(PAGE))
