"""Nothing that a user wrote can be read outside the mounted folder: not in the storage, not on this machine's disk.

With MOUNT_TESTS=long the tree has real files, too.
"""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import STORAGE, USER, VOLUME, Home, needs_fuse
from tests.support.trees import copy_tree, leaks, make_tree, names_in, pieces_in, sync_tree

pytestmark = needs_fuse


def files_below(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def assert_unreadable(secrets: set[bytes], paths: list[Path]) -> None:
    for path in paths:
        assert not list(leaks(secrets, path.read_bytes())), path
        assert not [secret for secret in secrets if secret in os.fsencode(path.name)], path


@pytest.fixture
def tree(tmp_path: Path, long: bool) -> Path:
    made = tmp_path / "tree"
    make_tree(made, 1000 if long else 200)
    if long:
        copy_tree(Path("/usr/lib/python3.11"), made)
        copy_tree(Path("/usr/share/doc"), made)
    return made


def test_nothing_is_readable(home: Home, drive: Path, store: Path, tree: Path) -> None:
    names, pieces = names_in(tree), pieces_in(tree, 10_000)
    assert len(names) > 200 and len(pieces) == 10_000
    records = {name.encode() for name in (USER, STORAGE, VOLUME)}
    sealed = [home.root / "state", home.root / "cache"]

    mounted = home.mount(drive, "--upload-limit", "1KB")
    copy_tree(tree, mounted / "tree")
    sync_tree(mounted / "tree")
    mounted.kill()
    (state,) = (home.root / "state").glob("*/volume.db")
    staged = list((state.parent / "staging").iterdir())
    assert sum(path.stat().st_size for path in staged) > 5 << 20, "the staging folder is full"
    assert Path(f"{state}-wal").stat().st_size > 100_000, "so is the database's log"
    assert_unreadable(names | pieces, list(files_below(*sealed, store)))
    for part in (state, Path(f"{state}-wal")):
        assert not part.read_bytes().startswith((b"SQLite format 3", b"CREATE TABLE"))
    with pytest.raises(sqlite3.DatabaseError), sqlite3.connect(state) as plain:
        plain.execute("SELECT * FROM inodes")
    plain.close()

    mounted = home.mount(drive)
    mounted.unmount()
    assert list((state.parent / "staging").iterdir()) == []
    objects = list(files_below(store))
    assert sum(path.stat().st_size for path in objects) > 5 << 20
    assert any(path.stat().st_size > 1 << 20 for path in files_below(home.root / "cache"))
    assert_unreadable(names | pieces | records, objects)
    assert_unreadable(names | pieces, list(files_below(*sealed)))


def test_what_is_searched_for_would_be_found(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", 30)
    names, pieces = names_in(tmp_path / "tree"), pieces_in(tmp_path / "tree", 100)
    secrets = sorted(names | pieces)
    for shift, secret in enumerate(secrets):
        data = os.urandom(999 + shift % 4) + b"\0" + secret + b"\0" + os.urandom(7)  # no longer one by chance
        assert list(leaks(secrets, data)) == [secret]
    assert not list(leaks(secrets, os.urandom(100_000)))
