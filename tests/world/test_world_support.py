"""What the worlds stand on: a disk that forgets as POSIX lets it, and a check that tells what is lost."""

import os
from pathlib import Path
from random import Random

import pytest

from tests.support.world.disk import Disk, Watch, torn
from tests.support.world.model import ROOT, Data, Floor, History, Lost, Node, Seen, Tree

# --- the disk ---


def test_torn_keeps_only_what_was_there_before_or_after() -> None:
    old, new = bytes([1]) * 20_000, bytes([2]) * 30_000
    lengths = set()
    for seed in range(200):
        left = torn(old, new, Random(seed))
        lengths.add(len(left))
        assert len(old) <= len(left) <= len(new)
        assert set(left[:20_000]) <= {1, 2}
        assert set(left[20_000:]) <= {0, 2}
    assert {20_000, 30_000} < lengths
    assert torn(old, old, Random(0)) == old


@pytest.fixture
def watch() -> Watch:
    return Watch()


def _cuts(disk: Disk, folder: Path, relative: str) -> set[bytes | None]:
    """What a file may be after a power cut; None where it is not there."""
    found: set[bytes | None] = set()
    for seed in range(40):
        left = disk.after_power_cut(folder / f"cut-{seed}", Random(seed))
        path = left.root / relative
        found.add(path.read_bytes() if path.exists() else None)
        left.close()
    return found


def test_a_file_is_durable_once_it_and_its_folder_are_synced(tmp_path: Path, watch: Watch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    watch.disk = disk = Disk(home)
    with watch.entered():
        watch.disk = disk
        descriptor = os.open(home / "file", os.O_CREAT | os.O_RDWR)
        os.write(descriptor, b"one")
        assert _cuts(disk, tmp_path, "file") >= {None, b"", b"one"}
        os.fsync(descriptor)
        assert _cuts(disk, tmp_path, "file") == {None, b"one"}
        folder = os.open(home, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        assert _cuts(disk, tmp_path, "file") == {b"one"}
        os.pwrite(descriptor, b"two", 0)
        assert _cuts(disk, tmp_path, "file") == {b"one", b"two"}
        os.close(descriptor)
        killed = disk.after_kill(tmp_path / "killed")
        assert (killed.root / "file").read_bytes() == b"two"
        assert _cuts(killed, tmp_path, "file") == {b"one", b"two"}
        (home / "file").rename(home / "other")
        assert _cuts(disk, tmp_path, "file") == {None, b"one", b"two"}
    killed.close()
    disk.close()


def test_a_renamed_file_keeps_one_of_its_names(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "one").write_bytes(b"x")
    disk = Disk(home)
    (home / "one").rename(home / "two")
    for seed in range(40):
        left = disk.after_power_cut(tmp_path / f"cut-{seed}", Random(seed))
        assert {path.name for path in left.root.iterdir()} & {"one", "two"}
        left.close()
    disk.close()


# --- the check ---


def _history() -> History:
    """1 the root, 2 a file, 3 "old" written, 4 a folder, 5 "new" written, 6 the file cut to two bytes."""
    history = History()
    root, file, folder = (
        Node(0o40755, 0, 0, 2, times=(1, 1)),
        Node(0o100600, 0, 0, 1),
        Node(0o40750, 0, 0, 2, times=(4, 4)),
    )
    history.record(1, "root", apply=lambda tree: tree.nodes.__setitem__(ROOT, root))
    history.record(2, "create", apply=lambda tree: tree.add(ROOT, b"f", 2, file), mtimes={2: 2})
    history.record(3, "write", data=Data(2, 0, b"old"), mtimes={2: 3})
    history.record(4, "mkdir", apply=lambda tree: tree.add(ROOT, b"d", 3, folder))
    history.record(5, "write", data=Data(2, 0, b"new!"), mtimes={2: 5})
    history.record(6, "truncate", apply=lambda tree: None, data=Data(2, 2, None), mtimes={2: 6})
    return history


def _seen(namespace: int, content: bytes, mtime: int) -> Seen:
    tree = Tree()
    for change in _history().changes:
        if change.apply is not None and change.number <= namespace:
            change.apply(tree)
    return Seen(tree, {2: content}, {2: mtime})


@pytest.mark.parametrize(
    ("namespace", "content", "mtime"),
    [
        (2, b"", 2),
        (2, b"old", 3),
        (4, b"", 2),
        (4, b"old", 3),
        (4, b"new!", 5),
        (6, b"ol", 6),
        (6, b"ne", 6),
        (6, b"\0\0", 6),
    ],
)
def test_states_that_may_be(namespace: int, content: bytes, mtime: int) -> None:
    assert _history().find(_seen(namespace, content, mtime), Floor()).namespace in (namespace, 4)


@pytest.mark.parametrize(
    ("namespace", "content", "mtime", "floor"),
    [
        (2, b"new!", 5, Floor()),  # written after a folder that is missing
        (6, b"new!", 5, Floor(namespace=6)),  # a truncation that was synced is missing
        (4, b"xyz", 3, Floor()),  # never written
        (4, b"old", 9, Floor()),  # a time it never had
        (2, b"old", 3, Floor(namespace=4)),  # a folder that was synced is missing
        (4, b"", 2, Floor(contents={2: 3})),  # bytes that were synced are missing
        (4, b"old", 2, Floor(contents={2: 3})),  # a time that was synced is missing
    ],
)
def test_states_that_may_not_be(namespace: int, content: bytes, mtime: int, floor: Floor) -> None:
    with pytest.raises(Lost):
        _history().find(_seen(namespace, content, mtime), floor)


def test_what_was_lost_is_struck() -> None:
    history = _history()
    seen = _seen(4, b"old", 3)
    history.go_on_from(history.find(seen, Floor()), 7, seen)
    assert history.content(2) == b"old"
    assert history.tree == seen.tree
    with pytest.raises(Lost):
        history.find(_seen(6, b"ol", 6), Floor(namespace=history.last))
