"""What the users of a volume may rely on, and how it is checked.

Above: `program` tells what it did, `life` asks what is left. Below: nothing; no I/O.

History. Every change that a call of the volume made is recorded, numbered from 1, in the step in which the call
returned. A change of the namespace (create, link, unlink, rename, mkdir, rmdir, symlink, mode, attribute, and the
truncation of a file) is applied to `Tree`; a write belongs to a file's content. A truncation is both.

What is left after a crash, or what a storage holds, has to be one of these states:
- The namespace (names, kinds, modes, owners, links, targets, extended attributes, times of folders) is that after the
  changes 1 to n of the namespace, for one n that is not below the last synced change.
- The content of every file is that of some moment f, cut and grown by the truncations that came between f and n. The
  writes up to f are all there, those after it are not: f is not before the last fsync of the file, nor after the
  first change of the namespace that is missing.
- What was fsynced before a change of the namespace is there where that change is, in the storage too: programs remove
  the old once they have synced the new.
- The modification time of every file is one that it had since its last fsync.
- Nothing else is there.

What counts as synced (`Floor`):
- after a power cut: all that came before the last fsync of anything was called, for the namespace; that file's writes
  before the call, for a content; and everything done `AGE` seconds before the crash, if the volume was open since;
- after a killed process, also every change of the namespace that was committed;
- in the storage: as after a power cut, but of fsyncs with --fsync=remote, and of complete drains.
What was left is the state that history goes on from: changes that were lost are struck from it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

ROOT = 1
AGE = 15.0
"""Seconds after which what was done is durable though nobody asked: write-back age 5, sync 1, and what a slow disk
takes here."""


@dataclass(frozen=True)
class Node:
    """An inode; `times` (mtime, ctime) of a folder, None of anything else."""

    mode: int
    uid: int
    gid: int
    nlink: int
    target: bytes | None = None
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    times: tuple[int, int] | None = None


@dataclass
class Tree:
    """A namespace: inodes by number, and (folder, name) -> number."""

    nodes: dict[int, Node] = field(default_factory=dict)
    names: dict[tuple[int, bytes], int] = field(default_factory=dict)

    def change(self, ino: int, links: int = 0, **fields: object) -> None:
        node = self.nodes[ino]
        self.nodes[ino] = replace(node, nlink=node.nlink + links, **fields)  # type: ignore[arg-type]

    def add(self, parent: int, name: bytes, ino: int, node: Node) -> None:
        self.names[parent, name] = ino
        self.nodes[ino] = node
        if node.times is not None:
            self.change(parent, links=1)

    def link(self, ino: int, parent: int, name: bytes) -> None:
        self.names[parent, name] = ino
        self.change(ino, links=1)

    def remove(self, parent: int, name: bytes) -> None:
        ino = self.names.pop((parent, name))
        if self.nodes[ino].times is not None:
            del self.nodes[ino]
            self.change(parent, links=-1)
        elif self.nodes[ino].nlink == 1:
            del self.nodes[ino]
        else:
            self.change(ino, links=-1)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        ino = self.names[parent, name]
        if self.names.get((new_parent, new_name)) == ino:
            return
        if (new_parent, new_name) in self.names:
            self.remove(new_parent, new_name)
        del self.names[parent, name]
        self.names[new_parent, new_name] = ino
        if self.nodes[ino].times is not None:
            self.change(parent, links=-1)
            self.change(new_parent, links=1)

    def exchange(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        one, other = self.names[parent, name], self.names[new_parent, new_name]
        self.names[parent, name], self.names[new_parent, new_name] = other, one
        for ino, old, new in ((one, parent, new_parent), (other, new_parent, parent)):
            if self.nodes[ino].times is not None:
                self.change(old, links=-1)
                self.change(new, links=1)

    def above(self, ino: int) -> Iterable[int]:
        """A folder and all folders over it."""
        parents = {child: parent for (parent, _), child in self.names.items()}
        while ino != ROOT:
            yield ino
            ino = parents[ino]
        yield ROOT


WHOLE = -1


@dataclass(frozen=True)
class Data:
    """A write of `data` at `offset` of a file, with None its truncation to `offset` bytes; an offset of WHOLE makes
    `data` all that it has."""

    ino: int
    offset: int
    data: bytes | None


@dataclass(frozen=True)
class Change:
    number: int
    time: float
    text: str
    apply: Callable[[Tree], None] | None
    data: Data | None
    mtimes: Mapping[int, int]
    """Modification times of files that it changed, by inode number."""


@dataclass
class Floor:
    """The last change of the namespace that must be there, and of each file's content."""

    namespace: int = 0
    contents: dict[int, int] = field(default_factory=dict)

    def of(self, ino: int) -> int:
        return self.contents.get(ino, 0)

    def raise_to(self, number: int, ino: int | None = None) -> None:
        """Everything up to change `number` of the namespace is safe, and of the file `ino` its content."""
        self.namespace = max(self.namespace, number)
        if ino is not None:
            self.contents[ino] = max(self.of(ino), number)

    def raise_all(self, number: int, files: Iterable[int]) -> None:
        self.raise_to(number)
        for ino in files:
            self.raise_to(number, ino)

    def copy(self) -> "Floor":
        return Floor(self.namespace, dict(self.contents))


@dataclass
class Seen:
    """What a volume shows: its namespace, and content and modification time of its files."""

    tree: Tree = field(default_factory=Tree)
    contents: dict[int, bytes] = field(default_factory=dict)
    mtimes: dict[int, int] = field(default_factory=dict)


class Lost(AssertionError):
    """What is there is no state that may be."""


@dataclass(frozen=True)
class Match:
    """Where in history something is: its last change of the namespace, and of each content. `torn` contents have of
    some later writes a part."""

    namespace: int
    contents: Mapping[int, int]
    torn: Mapping[int, bytes]


class History:
    """With `tears` a crash may leave a part of what was written since the last fsync: where memory is small, what ends
    at a cut point is flushed before the rest."""

    def __init__(self, *, tears: bool = False) -> None:
        self._tears = tears
        self.changes: list[Change] = []
        self.last = 0
        self.tree = Tree()
        """The namespace now."""
        self._fsyncs: list[tuple[int, int, int]] = []  # when it returned, of which inode, up to which change

    def fsynced(self, ino: int, upto: int) -> None:
        """An fsync of everything up to a change has returned."""
        self._fsyncs.append((self.last, ino, upto))

    def record(
        self,
        time: float,
        text: str,
        *,
        apply: Callable[[Tree], None] | None = None,
        data: Data | None = None,
        mtimes: Mapping[int, int] | None = None,
    ) -> None:
        self.last += 1
        self.changes.append(Change(self.last, time, text, apply, data, mtimes or {}))
        if apply is not None:
            apply(self.tree)

    def files(self) -> list[int]:
        """Every file that has, or had, content."""
        return sorted({change.data.ino for change in self.changes if change.data is not None})

    def content(self, ino: int, data: float = float("inf"), namespace: float = float("inf")) -> bytes:
        """The content of a file with its writes up to `data` and its truncations up to `namespace`."""
        content = bytearray()
        for change in self.changes:
            step = change.data
            if step is None or step.ino != ino or change.number > (data if step.data is not None else namespace):
                continue
            if step.data is None:
                content = content[: step.offset].ljust(step.offset, b"\0")
            elif step.offset == WHOLE:
                content = bytearray(step.data)
            else:
                end = step.offset + len(step.data)
                if len(content) < end:
                    content = content.ljust(end, b"\0")
                content[step.offset : end] = step.data
        return bytes(content)

    def done_before(self, time: float) -> int:
        return max((change.number for change in self.changes if change.time < time), default=0)

    # --- the check ---

    def find(self, seen: Seen, floor: Floor) -> Match:
        """Which state is seen. Raises Lost where it is none that may be."""
        tree = Tree()
        steps = [change for change in self.changes if change.apply is not None]
        at = 0
        while at < len(steps) and steps[at].number <= floor.namespace:
            self._apply(steps[at], tree)
            at += 1
        problem = ""
        while True:
            here = steps[at - 1].number if at else 0
            until = steps[at].number if at < len(steps) else self.last + 1
            wrong = differences(tree, seen.tree)
            if not wrong:
                found, torn, wrong = self._contents(seen, floor, here, until)
                if not wrong:
                    return Match(here, found, torn)
                problem = f"with the namespace after change {here}: {wrong}"
            problem = problem or f"the namespace after change {here} differs: {wrong}"
            if at == len(steps):
                raise Lost(f"{problem}; from change {floor.namespace} to {self.last} no state is what is there")
            self._apply(steps[at], tree)
            at += 1

    @staticmethod
    def _apply(change: Change, tree: Tree) -> None:
        assert change.apply is not None
        change.apply(tree)

    def _contents(
        self, seen: Seen, floor: Floor, here: int, until: int
    ) -> tuple[dict[int, int], dict[int, bytes], str]:
        found, torn = {}, {}
        for ino, content in seen.contents.items():
            synced = [upto for when, which, upto in self._fsyncs if which == ino and when < here]
            least = max([floor.of(ino), *synced])
            moments = self._moments(ino, least, until)
            moment = next((m for m in moments if self.content(ino, m, here) == content), None)
            if moment is None:
                if not self._tears or not _is_torn(content, [self.content(ino, m, here) for m in moments]):
                    return {}, {}, self._explain(ino, content, least, here)
                moment, torn[ino] = least, content
            found[ino] = moment
            allowed = self._mtimes(ino, least, until)
            if seen.mtimes[ino] not in allowed:
                wrong = f"the modification time of inode {ino} is {seen.mtimes[ino]}, not one of {sorted(allowed)}"
                return {}, {}, wrong
        return found, torn, ""

    def _moments(self, ino: int, floor: int, until: int) -> list[int]:
        """The moments from which on the content may be what it is, the latest first."""
        writes = [
            c.number for c in self.changes if c.data is not None and c.data.ino == ino and c.data.data is not None
        ]
        return [*(number for number in reversed(writes) if floor < number < until), floor]

    def _explain(self, ino: int, content: bytes, floor: int, here: int) -> str:
        wanted = self.content(ino, floor, here)
        at = next((i for i, (a, b) in enumerate(zip(wanted, content, strict=False)) if a != b), -1)
        return (
            f"the content of inode {ino} ({len(content)} bytes) is none it had since change {floor}"
            f" (then {len(wanted)} bytes, different from byte {at} on)"
        )

    def _mtimes(self, ino: int, floor: int, until: int) -> set[int]:
        values: set[int] = set()
        for change in self.changes:
            if ino in change.mtimes and change.number < until:
                if change.number <= floor:
                    values.clear()
                values.add(change.mtimes[ino])
        return values

    def go_on_from(self, match: Match, time: float, seen: Seen) -> None:
        """What was lost is struck from history, and what was seen of times becomes part of it."""

        until = next(
            (change.number for change in self.changes if change.apply and change.number > match.namespace),
            self.last + 1,
        )
        last = {**match.contents, **dict.fromkeys(match.torn, until)}  # the storage may have another part of these
        kept = []
        for change in self.changes:
            if change.number >= until:
                break
            data = change.data
            if data is not None and data.data is not None and change.number > last.get(data.ino, until):
                # The write is lost, but a flush of what came before it may have stored its time.
                change = replace(change, data=None)
            kept.append(change)
        self.changes = kept
        self._fsyncs = [fsync for fsync in self._fsyncs if fsync[0] < until]
        self.tree = Tree()
        for change in self.changes:
            if change.apply is not None:
                change.apply(self.tree)
        for ino, content in match.torn.items():
            self.record(time, "torn", data=Data(ino, WHOLE, content))
        self.record(time, "opened", mtimes=seen.mtimes)


def _is_torn(content: bytes, moments: Sequence[bytes]) -> bool:
    """Whether every byte is what it was at one of the moments, and so is the length or lies between."""
    lengths = [len(moment) for moment in moments]
    if not min(lengths) <= len(content) <= max(lengths):
        return False
    columns = zip_longest(content, *(moment[: len(content)] for moment in moments), fillvalue=0)
    return all(byte in allowed for byte, *allowed in columns)


def differences(one: Tree, other: Tree) -> str:
    """A few of the differences of two namespaces, an empty string where there are none."""
    if one.names == other.names and one.nodes == other.nodes:
        return ""
    found = []
    for mine, theirs in ((one.names, other.names), (one.nodes, other.nodes)):
        for key in sorted({*mine, *theirs}, key=str):
            if mine.get(key) != theirs.get(key):
                found.append(f"{key}: {mine.get(key)} became {theirs.get(key)}")
    return "; ".join(found[:4])
