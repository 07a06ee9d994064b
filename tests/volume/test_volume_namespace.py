"""The tree against a plain model: every call, every error, link counts, times, `..` and listings."""

import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infinitfs.errors import (
    DirectoryNotEmpty,
    EntryExists,
    InvalidOperation,
    IsADirectory,
    NameTooLong,
    NoAttribute,
    NoSuchEntry,
    NotADirectory,
    NotPermitted,
    PathError,
)
from infinitfs.transfer.files import inline
from infinitfs.volume import inodes
from infinitfs.volume.database import Database
from infinitfs.volume.inodes import GATHERED
from infinitfs.volume.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, ROOT, Namespace

LONGEST = b"n" * 255
NAMES = [b"a", b"b", b"c", b"d", b"\xff\x00\n", "ä".encode("latin-1"), LONGEST]
FOLDER = stat.S_IFDIR | 0o755
MODES = [FOLDER, FOLDER, FOLDER, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o600, stat.S_IFCHR | 0o600]
KEY = bytes(32)


def open_namespace(folder: Path) -> tuple[Database, Namespace]:
    database = Database(folder / "volume.db", KEY, inline)
    database.create()
    namespace = Namespace(database)
    database.before_commit = namespace.write_out
    namespace.create_root(1, 2, 0)
    return database, namespace


@dataclass(eq=False)
class Node:
    """What the model knows of an inode. `parent` and `entries` are a directory's."""

    ino: int
    mode: int
    mtime: int
    ctime: int
    links: int = 1
    parent: "Node | None" = None
    entries: dict[bytes, "Node"] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def nlink(self) -> int:
        if not self.is_directory:
            return self.links
        return 2 + sum(node.is_directory for node in self.entries.values()) if self.links else 0

    def is_below(self, folder: "Node") -> bool:
        node: Node | None = self
        while node is not None and node is not folder:
            node = node.parent if node.parent is not node else None
        return node is folder


class Tree(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database, self.namespace = open_namespace(Path(self.folder.name))
        root = Node(ROOT, stat.S_IFDIR | 0o755, 0, 0)
        root.parent = root
        self.nodes = [root]
        self.now = 0
        # A listing under way: where, from which position on, what it gave, what was there all the time.
        self.listed: Node | None = None
        self.position = 0
        self.given: list[bytes] = []
        self.constant: set[bytes] = set()
        for parent, name, mode in ((0, b"a", FOLDER), (0, b"b", FOLDER), (8, b"a", FOLDER), (8, b"b", MODES[-3])):
            self.create(parent, name, mode)

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def pick(self, number: int) -> Node:
        return self.nodes[number % len(self.nodes)]

    def pick_folder(self, number: int) -> Node:
        """Seven times of eight a directory that is there, else anything."""
        folders = [node for node in self.nodes if node.is_directory and node.links]
        return self.pick(number // 8) if number % 8 == 7 else folders[number // 8 % len(folders)]

    def pick_entry(self, number: int) -> tuple[Node, bytes]:
        """Seven times of eight a name that is there, else any name anywhere."""
        there = [(node, name) for node in self.nodes for name in node.entries]
        if number % 8 == 7 or not there:
            return self.pick(number // 8), NAMES[number % len(NAMES)]
        return there[number // 8 % len(there)]

    def tick(self) -> int:
        self.now += 1
        return self.now

    def touch(self, *folders: Node) -> None:
        for folder in folders:
            folder.mtime = folder.ctime = self.now

    def forget_name(self, folder: Node, name: bytes) -> None:
        if folder is self.listed:
            self.constant.discard(name)

    def error_of_new(self, folder: Node, name: bytes) -> type[PathError] | None:
        if not folder.is_directory:
            return NotADirectory
        if not folder.links:
            return NoSuchEntry
        return EntryExists if name in folder.entries else None

    # --- rules ---

    numbers = st.integers(0, 1000)
    names = st.sampled_from(NAMES)

    @rule(parent=numbers, name=names, mode=st.sampled_from(MODES))
    def create(self, parent: int, name: bytes, mode: int) -> None:
        folder, now = self.pick_folder(parent), self.tick()
        target = b"to\xfe" if stat.S_ISLNK(mode) else None
        rdev = 0x501 if stat.S_ISCHR(mode) else 0
        if error := self.error_of_new(folder, name):
            with pytest.raises(error):
                self.namespace.create(folder.ino, name, mode, 3, 4, now, target=target, rdev=rdev)
            return
        inode = self.namespace.create(folder.ino, name, mode, 3, 4, now, target=target, rdev=rdev)
        assert inode == self.namespace.inode(inode.ino)
        size = 64 if stat.S_ISDIR(mode) else 3 if target else 0
        assert (inode.size, inode.target, inode.rdev) == (size, target, rdev)
        assert (inode.uid, inode.gid, inode.created, inode.atime) == (3, 4, now, now)
        node = Node(inode.ino, mode, now, now)
        node.parent = folder if node.is_directory else None
        assert all(node.ino != other.ino for other in self.nodes)
        folder.entries[name] = node
        self.nodes.append(node)
        self.touch(folder)

    @rule(node=numbers, parent=numbers, name=names)
    def link(self, node: int, parent: int, name: bytes) -> None:
        linked, folder, now = self.pick(node), self.pick_folder(parent), self.tick()
        error = (
            NotPermitted
            if linked.is_directory
            else NoSuchEntry
            if not linked.links
            else self.error_of_new(folder, name)
        )
        if error:
            with pytest.raises(error):
                self.namespace.link(linked.ino, folder.ino, name, now)
            return
        inode = self.namespace.link(linked.ino, folder.ino, name, now)
        linked.links += 1
        linked.ctime = now
        folder.entries[name] = linked
        self.touch(folder)
        assert inode == self.namespace.inode(linked.ino)

    def lose(self, folder: Node, name: bytes) -> Node:
        """The model of a name that goes."""
        node = folder.entries.pop(name)
        node.links -= 1
        node.ctime = self.now
        self.forget_name(folder, name)
        return node

    @rule(which=numbers)
    def unlink(self, which: int) -> None:
        (folder, name), now = self.pick_entry(which), self.tick()
        node = folder.entries.get(name)
        if node is None or node.is_directory:
            with pytest.raises(NoSuchEntry if node is None else IsADirectory):
                self.namespace.unlink(folder.ino, name, now)
            return
        inode = self.namespace.unlink(folder.ino, name, now)
        assert self.lose(folder, name).ino == inode.ino
        self.touch(folder)
        assert inode == self.namespace.inode(node.ino)

    @rule(which=numbers)
    def rmdir(self, which: int) -> None:
        (folder, name), now = self.pick_entry(which), self.tick()
        node = folder.entries.get(name)
        if node is None or not node.is_directory or node.entries:
            error = NoSuchEntry if node is None else DirectoryNotEmpty if node.is_directory else NotADirectory
            with pytest.raises(error):
                self.namespace.rmdir(folder.ino, name, now)
            return
        inode = self.namespace.rmdir(folder.ino, name, now)
        self.lose(folder, name)
        self.touch(folder)
        assert inode == self.namespace.inode(node.ino)

    @rule(
        which=numbers,
        over=st.none() | numbers,
        new_parent=numbers,
        new_name=names,
        flags=st.sampled_from([0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT]),
    )
    def rename(self, which: int, over: int | None, new_parent: int, new_name: bytes, flags: int) -> None:
        """Onto an entry that is there, where `over` picks one, else to a name in any folder."""
        (folder, name), now = self.pick_entry(which), self.tick()
        new_folder = self.pick_folder(new_parent)
        if over is not None:
            new_folder, new_name = self.pick_entry(over)
        moved, target = folder.entries.get(name), new_folder.entries.get(new_name)
        error = self.error_of_rename(folder, moved, new_folder, target, flags)
        arguments = (folder.ino, name, new_folder.ino, new_name, flags, now)
        if error:
            with pytest.raises(error):
                self.namespace.rename(*arguments)
            return
        lost = self.namespace.rename(*arguments)
        assert moved is not None
        if flags & RENAME_EXCHANGE:
            assert target is not None
            assert lost is None
            folder.entries[name], new_folder.entries[new_name] = target, moved
            moved.ctime = target.ctime = now
            if target.is_directory:
                target.parent = folder
        elif target is moved:
            assert lost is None
            return
        else:
            if target is not None:
                assert lost is not None
                assert self.lose(new_folder, new_name).ino == lost.ino
                assert lost == self.namespace.inode(target.ino)
            else:
                assert lost is None
            del folder.entries[name]
            self.forget_name(folder, name)
            new_folder.entries[new_name] = moved
            moved.ctime = now
        if moved.is_directory:
            moved.parent = new_folder
        self.touch(folder, new_folder)
        if flags & RENAME_WHITEOUT:
            self.note_whiteout(folder, name)

    def note_whiteout(self, folder: Node, name: bytes) -> None:
        left = self.namespace.lookup(folder.ino, name)
        assert left is not None
        assert (left.mode, left.rdev, left.nlink) == (stat.S_IFCHR, 0, 1)
        folder.entries[name] = Node(left.ino, left.mode, self.now, self.now)
        self.nodes.append(folder.entries[name])

    def error_of_rename(
        self, folder: Node, moved: Node | None, new_folder: Node, target: Node | None, flags: int
    ) -> type[PathError] | None:
        if moved is None:
            return NoSuchEntry
        if not new_folder.is_directory:
            return NotADirectory
        if not new_folder.links:
            return NoSuchEntry
        into_itself = moved.is_directory and new_folder.is_below(moved)
        if flags & RENAME_EXCHANGE:
            if target is None:
                return NoSuchEntry
            around = target.is_directory and folder.is_below(target)
            return InvalidOperation if into_itself or around else None
        if target is not None:
            if flags & RENAME_NOREPLACE:
                return EntryExists
            if target is moved:
                return None
            if moved.is_directory and not target.is_directory:
                return NotADirectory
            if moved.is_directory and target.entries:
                return DirectoryNotEmpty
            if target.is_directory and not moved.is_directory:
                return IsADirectory
        return InvalidOperation if into_itself else None

    @precondition(lambda self: any(not node.links for node in self.nodes))
    @rule(number=numbers)
    def remove(self, number: int) -> None:
        gone = [node for node in self.nodes if not node.links]
        node = gone[number % len(gone)]
        assert node.ino in self.namespace.unlinked()
        self.namespace.remove(node.ino)
        self.nodes.remove(node)
        with pytest.raises(NoSuchEntry):
            self.namespace.inode(node.ino)

    @rule(parent=numbers)
    def start_listing(self, parent: int) -> None:
        folder = self.pick_folder(parent)
        if folder.is_directory:
            self.listed, self.position, self.given, self.constant = folder, 0, [], set(folder.entries)

    @rule(count=st.integers(1, 4))
    def go_on_listing(self, count: int) -> None:
        if self.listed is None:
            return
        for position, name, ino, *_ in self.namespace.entries(self.listed.ino, self.position):
            assert position > self.position
            assert ino == self.listed.entries[name].ino
            self.position = position
            self.given.append(name)
            count -= 1
            if not count:
                return
        # The end: what was there from the first call to the last was given once.
        assert all(self.given.count(name) == 1 for name in self.constant)
        self.listed = None

    @rule()
    def commit_and_reload(self) -> None:
        self.database.commit()
        self.namespace.load()

    # --- what has to hold after every step ---

    @invariant()
    def inodes_are_those_of_the_model(self) -> None:
        assert self.namespace.inodes == len(self.nodes)
        for node in self.nodes:
            inode = self.namespace.inode(node.ino)
            assert (inode.mode, inode.nlink) == (node.mode, node.nlink)
            assert (inode.mtime, inode.ctime) == (node.mtime, node.ctime)
            if node.is_directory:
                assert inode.size == 64 + 32 * len(node.entries)
                listed = {name: attributes for _, name, *attributes in self.namespace.entries(node.ino, 0)}
                assert {name: attributes[0] for name, attributes in listed.items()} == {
                    name: entry.ino for name, entry in node.entries.items()
                }
                assert self.namespace.lookup(node.ino, b".") == inode
                for name in NAMES:
                    found = self.namespace.lookup(node.ino, name)
                    assert (found and list(found.attributes)) == listed.get(name)
            if node.is_directory and node.links:
                assert node.parent is not None
                assert self.namespace.lookup(node.ino, b"..") == self.namespace.inode(node.parent.ino)


Tree.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_tree = Tree.TestCase


# --- single cases ---


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    database, opened = open_namespace(tmp_path)
    yield opened
    database.close()


def folder(namespace: Namespace, parent: int, name: bytes, mode: int = 0o755) -> int:
    return namespace.create(parent, name, stat.S_IFDIR | mode, 0, 0, 1).ino


def refuses(error: type[PathError], *calls: Callable[[], object]) -> None:
    for call in calls:
        with pytest.raises(error):
            call()


@pytest.mark.parametrize("name", [b"n" * 256, b"\xff" * 4000])
def test_a_name_longer_than_255_bytes_is_refused_by_every_call(namespace: Namespace, name: bytes) -> None:
    ino = namespace.create(ROOT, b"file", stat.S_IFREG, 0, 0, 1).ino
    refuses(
        NameTooLong,
        lambda: namespace.lookup(ROOT, name),
        lambda: namespace.create(ROOT, name, stat.S_IFREG, 0, 0, 2),
        lambda: namespace.link(ino, ROOT, name, 2),
        lambda: namespace.unlink(ROOT, name, 2),
        lambda: namespace.rmdir(ROOT, name, 2),
        lambda: namespace.rename(ROOT, b"file", ROOT, name, 0, 2),
        lambda: namespace.rename(ROOT, name, ROOT, b"new", 0, 2),
    )
    assert namespace.inode(ROOT).mtime == 1


@pytest.mark.parametrize("name", [b".", b".."])
def test_the_names_that_every_directory_has_cannot_be_made_or_removed(namespace: Namespace, name: bytes) -> None:
    inner = folder(namespace, ROOT, b"inner")
    with pytest.raises(EntryExists):
        namespace.create(inner, name, stat.S_IFREG, 0, 0, 2)
    refuses(
        InvalidOperation,
        lambda: namespace.unlink(inner, name, 2),
        lambda: namespace.rmdir(inner, name, 2),
        lambda: namespace.rename(inner, name, ROOT, b"new", 0, 2),
    )


@pytest.mark.parametrize("flags", [RENAME_NOREPLACE | RENAME_EXCHANGE, RENAME_WHITEOUT | RENAME_EXCHANGE, 8])
def test_rename_refuses_flags_it_does_not_know(namespace: Namespace, flags: int) -> None:
    folder(namespace, ROOT, b"a")
    with pytest.raises(InvalidOperation):
        namespace.rename(ROOT, b"a", ROOT, b"b", flags, 2)


def test_a_set_group_id_directory_gives_its_group_and_to_directories_its_bit(namespace: Namespace) -> None:
    shared = namespace.create(ROOT, b"shared", stat.S_IFDIR | stat.S_ISGID | 0o770, 5, 6, 1).ino
    file = namespace.create(shared, b"file", stat.S_IFREG | 0o600, 7, 8, 2)
    inner = namespace.create(shared, b"inner", stat.S_IFDIR | 0o700, 7, 8, 2)
    assert (file.uid, file.gid, file.mode) == (7, 6, stat.S_IFREG | 0o600)
    assert (inner.uid, inner.gid, inner.mode) == (7, 6, stat.S_IFDIR | stat.S_ISGID | 0o700)


def test_attributes_of_an_inode(namespace: Namespace) -> None:
    ino = folder(namespace, ROOT, b"a")
    namespace.set_xattr(ino, b"user.\xff", b"\x00one", 5)
    namespace.set_xattr(ino, b"user.\xff", b"two", 6)
    namespace.set_xattr(ino, b"user.b", b"", 7)
    assert sorted(namespace.list_xattrs(ino)) == [b"user.b", b"user.\xff"]
    assert namespace.get_xattr(ino, b"user.\xff") == b"two"
    assert namespace.inode(ino).ctime == 7
    namespace.remove_xattr(ino, b"user.b", 8)
    refuses(
        NoAttribute,
        lambda: namespace.remove_xattr(ino, b"user.b", 9),
        lambda: namespace.get_xattr(ino, b"user.b"),
        lambda: namespace.get_xattr(ROOT, b"user.\xff"),
    )
    assert namespace.inode(ino).ctime == 8


def test_a_listing_is_read_by_index(namespace: Namespace) -> None:
    connection = vars(namespace)["_connection"]
    for sql in (
        "SELECT name FROM dirents WHERE parent = 1 AND position > 5 ORDER BY position",
        "SELECT ino FROM dirents WHERE parent = 1 AND name = x'00'",
        "SELECT ino FROM inodes WHERE nlink = 0",
    ):
        plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql)]
        assert len(plan) == 1
        assert "USING" in plan[0]
        assert "TEMP B-TREE" not in plan[0]


def test_removed_inodes_do_not_all_wait_for_the_commit(tmp_path: Path) -> None:
    database, namespace = open_namespace(tmp_path)
    names = [b"%d" % number for number in range(5 * GATHERED // 2)]
    inodes = [namespace.create(ROOT, name, stat.S_IFREG | 0o600, 0, 0, 1).ino for name in names]
    database.commit()
    for name, ino in zip(names, inodes, strict=True):
        namespace.unlink(ROOT, name, 2)
        namespace.remove(ino)
    assert database.in_transaction
    assert database.value("SELECT count(*) FROM inodes") == 1 + GATHERED // 2
    for ino in inodes:
        with pytest.raises(NoSuchEntry):
            namespace.inode(ino)
    database.commit()
    assert database.value("SELECT count(*) FROM inodes") == 1
    database.close()


def test_a_change_may_push_its_own_rows_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, namespace = open_namespace(tmp_path)
    names = [b"%d" % number for number in range(10)]
    for name in names:
        namespace.create(ROOT, name, FOLDER, 1, 2, 3)
    database.commit()
    namespace.forget()
    monkeypatch.setattr(inodes, "_KEPT", 4)
    for name in names:
        namespace.rmdir(ROOT, name, 4)
    database.commit()
    namespace.forget()
    assert namespace.inode(ROOT).nlink == 2 and len(namespace.unlinked()) == len(names)
    database.close()
