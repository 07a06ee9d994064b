"""What the users of a volume do in a world: random operations, told to the history in the step in which they return.

Above: `life` runs several `User`s at once. Below: `infinitfs.volume.volume`, `model`.
Invariant: nothing is awaited between the return of a call that changed something and its record.
"""

import stat
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Protocol

import trio

from infinitfs.errors import InfinitfsError, PathError
from infinitfs.volume.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, ROOT
from infinitfs.volume.volume import Volume
from tests.support.world.model import Data, Floor, History, Node, Tree

NAMES = [bytes([letter]) for letter in b"abcdefg"]
LARGEST = 100_000


class Stage(Protocol):
    """What a user needs of the life he takes part in."""

    history: History
    local: Floor
    remote: Floor
    remote_fsync: bool
    over: bool
    pool: list[bytes]

    @property
    def volume(self) -> Volume: ...

    def note(self, text: str) -> None: ...

    def excuses(self, error: InfinitfsError) -> bool: ...

    async def check_storage(self) -> None: ...


class User:
    def __init__(self, stage: Stage, source: Random) -> None:
        self._stage = stage
        self._source = source
        self._volume = stage.volume
        self._open: list[int] = []
        self._operations: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, self._create),
            (14, self._write),
            (8, self._append),
            (4, self._truncate),
            (8, self._fsync),
            (3, self._fsync_folder),
            (5, self._rename),
            (2, self._link),
            (4, self._unlink),
            (3, self._mkdir),
            (1, self._rmdir),
            (1, self._symlink),
            (3, self._set_attribute),
            (1, self._remove_attribute),
            (2, self._chmod),
            (1, self._touch),
            (5, self._read),
            (3, self._open_again),
            (6, self._close),
            (6, self._sleep),
            (1, self._checkpoint),
            (1, self._collect),
            (1, self._stage.check_storage),
        ]

    async def run(self, operations: int) -> None:
        weights = [weight for weight, _ in self._operations]
        for _ in range(operations):
            (_, operation), *_ = self._source.choices(self._operations, weights)
            before = self._stage.history.last
            try:
                await operation()
            except PathError:
                if self._stage.history.last == before and not self._stage.over:
                    raise  # nobody changed anything meanwhile: it had to work
            await trio.sleep(self._source.choice((0.0, 0.0, 0.001, 0.01, 0.2)))
        for ino in self._open:
            self._volume.close(ino)

    # --- choosing ---

    @property
    def _tree(self) -> Tree:
        return self._stage.history.tree

    def _some_folder(self) -> int:
        folders = [ino for ino, node in sorted(self._tree.nodes.items()) if node.times is not None]
        return self._source.choice([ROOT, *folders])

    def _some_name(self, wanted: Callable[[Node], bool]) -> tuple[int, bytes] | None:
        found = [key for key, ino in sorted(self._tree.names.items()) if wanted(self._tree.nodes[ino])]
        return self._source.choice(found) if found else None

    def _some_file(self) -> int | None:
        found = self._some_name(_is_file)
        return self._tree.names[found] if found else None

    def _free_name(self) -> tuple[int, bytes] | None:
        parent = self._some_folder()
        free = [name for name in NAMES if (parent, name) not in self._tree.names]
        return (parent, self._source.choice(free)) if free else None

    def _some_data(self) -> bytes:
        source, pool = self._source, self._stage.pool
        length = source.randint(1, source.choice((100, 5000, 5000, 20_000, 50_000)))
        kind = source.random()
        if kind < 0.15 and pool:
            return source.choice(pool)
        if kind < 0.25:
            return bytes(length)
        data = source.randbytes(length) if kind < 0.7 else (source.randbytes(50) * (length // 50 + 1))[:length]
        if len(pool) < 20:
            pool.append(data)
        return data

    # --- telling the history ---

    def _record(
        self,
        text: str,
        change: Callable[[Tree], None] | None,
        *,
        folders: Iterable[int] = (),
        files: Iterable[int] = (),
        data: Data | None = None,
    ) -> None:
        if self._stage.over:
            return
        times = {ino: (inode.mtime, inode.ctime) for ino in folders if (inode := self._volume.attributes(ino))}
        mtimes = {ino: self._volume.attributes(ino).mtime for ino in files}

        def apply(tree: Tree) -> None:
            if change is not None:
                change(tree)
            for ino, both in times.items():
                tree.change(ino, times=both)

        history = self._stage.history
        history.record(trio.current_time(), text, apply=None if change is None else apply, data=data, mtimes=mtimes)
        self._stage.note(f"#{history.last} {text}")

    # --- operations ---

    async def _create(self) -> None:
        free = self._free_name()
        if free is None:
            return
        mode = stat.S_IFREG | self._source.choice((0o600, 0o644))
        inode = await self._volume.create(*free, mode, 1, 2)
        node = Node(mode, 1, 2, 1)
        self._record(
            f"create {inode.ino} at {free}",
            lambda tree: tree.add(*free, inode.ino, node),
            folders=[free[0]],
            files=[inode.ino],
        )
        if not self._stage.over:
            self._hold(inode.ino)
            if self._source.random() < 0.7:
                await self._write_at(inode.ino, 0, self._some_data())

    def _hold(self, ino: int) -> None:
        self._volume.open(ino)
        self._open.append(ino)

    async def _open_again(self) -> None:
        ino = self._some_file()
        if ino is not None:
            self._hold(ino)

    async def _close(self) -> None:
        if self._open:
            ino = self._open.pop(self._source.randrange(len(self._open)))
            self._volume.close(ino)
            self._stage.note(f"close {ino}")

    async def _write_at(self, ino: int, offset: int, data: bytes) -> None:
        await self._volume.write(ino, offset, data)
        self._record(f"write {len(data)} at {offset} of {ino}", None, files=[ino], data=Data(ino, offset, data))

    async def _write(self) -> None:
        if not self._open:
            await self._open_again()
        if self._open:
            ino = self._source.choice(self._open)
            size = self._volume.attributes(ino).size
            offset = self._source.randint(0, min(LARGEST, max(size, 1) + self._source.choice((0, 0, 0, 20_000))))
            await self._write_at(ino, offset, self._some_data())

    async def _append(self) -> None:
        if self._open:
            ino = self._source.choice(self._open)
            size = self._volume.attributes(ino).size
            if size < LARGEST:
                await self._write_at(ino, size, self._some_data())

    async def _truncate(self) -> None:
        ino = self._some_file()
        if ino is not None:
            size = self._source.choice((0, self._source.randint(0, self._volume.attributes(ino).size + 5000)))
            await self._volume.set_attributes(ino, size=size)
            self._record(f"truncate {ino} to {size}", lambda tree: None, files=[ino], data=Data(ino, size, None))

    async def _fsync(self) -> None:
        candidates = self._open or [ino for ino in [self._some_file()] if ino is not None]
        if candidates:
            ino = self._source.choice(candidates)
            await self._synced(f"fsync {ino}", self._volume.fsync(ino), ino)

    async def _fsync_folder(self) -> None:
        await self._synced("fsync of a folder", self._volume.sync(), None)

    async def _synced(self, text: str, call: Awaitable[None], ino: int | None) -> None:
        upto = self._stage.history.last
        await call
        if self._stage.over:
            return
        self._stage.local.raise_to(upto, ino)
        if ino is not None:
            self._stage.history.fsynced(ino, upto)
        if self._stage.remote_fsync:
            self._stage.remote.raise_to(upto, ino)
        self._stage.note(f"{text}, up to #{upto}")

    async def _rename(self) -> None:
        old = self._some_name(lambda node: True)
        if old is None:
            return
        new = self._some_folder(), self._source.choice(NAMES)
        flags = self._source.choice((0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
        if not self._is_allowed(old, new, flags):
            return
        await self._volume.rename(*old, *new, flags)
        moved, other = self._tree.names[old], self._tree.names.get(new)
        inos = [ino for ino in (moved, other if flags & RENAME_EXCHANGE else None) if ino is not None]
        folders = {old[0], new[0], *(ino for ino in inos if self._tree.nodes[ino].times is not None)}
        exchange = flags & RENAME_EXCHANGE

        def change(tree: Tree) -> None:
            if exchange:
                tree.exchange(*old, *new)
            else:
                tree.rename(*old, *new)

        self._record(f"rename {old} to {new} {flags}", change, folders=sorted(folders))

    def _is_allowed(self, old: tuple[int, bytes], new: tuple[int, bytes], flags: int) -> bool:
        tree = self._tree
        moved, target = tree.names[old], tree.names.get(new)
        is_folder = tree.nodes[moved].times is not None
        if is_folder and moved in tree.above(new[0]):
            return False
        if flags & RENAME_EXCHANGE:
            if target is None:
                return False
            return tree.nodes[target].times is None or target not in tree.above(old[0])
        if target is not None and flags & RENAME_NOREPLACE:
            return False
        if target is None or target == moved:
            return True
        if is_folder != (tree.nodes[target].times is not None):
            return False
        return not is_folder or not any(parent == target for parent, _ in tree.names)

    async def _link(self) -> None:
        ino, free = self._some_file(), self._free_name()
        if ino is not None and free is not None:
            await self._volume.link(ino, *free)
            self._record(f"link {ino} to {free}", lambda tree: tree.link(ino, *free), folders=[free[0]])

    async def _unlink(self) -> None:
        found = self._some_name(lambda node: node.times is None)
        if found is not None:
            await self._volume.unlink(*found)
            self._record(f"unlink {found}", lambda tree: tree.remove(*found), folders=[found[0]])

    async def _mkdir(self) -> None:
        free = self._free_name()
        if free is not None:
            mode = stat.S_IFDIR | 0o750
            inode = await self._volume.create(*free, mode, 3, 4)
            node = Node(mode, 3, 4, 2, times=(inode.mtime, inode.ctime))
            self._record(
                f"mkdir {inode.ino} at {free}", lambda tree: tree.add(*free, inode.ino, node), folders=[free[0]]
            )

    async def _rmdir(self) -> None:
        full = {parent for parent, _ in self._tree.names}
        found = [
            key
            for key, ino in sorted(self._tree.names.items())
            if self._tree.nodes[ino].times is not None and ino not in full
        ]
        if found:
            key = self._source.choice(found)
            await self._volume.rmdir(*key)
            self._record(f"rmdir {key}", lambda tree: tree.remove(*key), folders=[key[0]])

    async def _symlink(self) -> None:
        free = self._free_name()
        if free is not None:
            target = self._source.randbytes(5)
            inode = await self._volume.create(*free, stat.S_IFLNK | 0o777, 5, 6, target=target)
            node = Node(stat.S_IFLNK | 0o777, 5, 6, 1, target)
            self._record(
                f"symlink {inode.ino} at {free}", lambda tree: tree.add(*free, inode.ino, node), folders=[free[0]]
            )

    async def _set_attribute(self) -> None:
        found = self._some_name(_is_file)
        if found is None:
            return
        ino = self._tree.names[found]
        name, value = self._source.choice((b"user.x", b"user.y")), self._source.randbytes(8)
        await self._volume.set_xattr(ino, name, value)

        def change(tree: Tree) -> None:
            tree.change(ino, attributes=tuple(sorted({**dict(tree.nodes[ino].attributes), name: value}.items())))

        self._record(f"set {name!r} of {ino}", change)

    async def _remove_attribute(self) -> None:
        found = self._some_name(lambda node: bool(node.attributes))
        if found is None:
            return
        ino = self._tree.names[found]
        name = self._source.choice(self._tree.nodes[ino].attributes)[0]
        await self._volume.remove_xattr(ino, name)

        def change(tree: Tree) -> None:
            tree.change(ino, attributes=tuple(pair for pair in tree.nodes[ino].attributes if pair[0] != name))

        self._record(f"remove {name!r} of {ino}", change)

    async def _chmod(self) -> None:
        ino = self._some_file()
        if ino is not None:
            mode, uid = stat.S_IFREG | self._source.randrange(0o1000), self._source.randrange(1000)
            await self._volume.set_attributes(ino, mode=mode, uid=uid)
            self._record(f"chmod {ino}", lambda tree: tree.change(ino, mode=mode, uid=uid), files=[ino])

    async def _touch(self) -> None:
        ino = self._some_file()
        if ino is not None:
            await self._volume.set_attributes(ino, mtime=self._source.randrange(10**18))
            self._record(f"touch {ino}", lambda tree: None, files=[ino])

    async def _read(self) -> None:
        if not self._open:
            return
        ino = self._source.choice(self._open)
        history = self._stage.history
        first = history.last
        offset, length = self._source.choice(((0, 2 * LARGEST), (self._source.randrange(LARGEST), 5000)))
        self._volume.open(ino)
        try:
            data = bytes(await self._volume.read(ino, offset, length))
        except InfinitfsError as error:
            if not self._stage.excuses(error):
                raise
            return
        finally:
            if not self._stage.over:
                self._volume.close(ino)
        if self._stage.over:
            return
        moments = [first, *(c.number for c in history.changes if c.number > first and c.data and c.data.ino == ino)]
        allowed = [history.content(ino, moment, moment)[offset : offset + length] for moment in moments]
        if data not in allowed:
            raise AssertionError(f"a read of {len(data)} bytes at {offset} of {ino} after #{first} is wrong")

    async def _sleep(self) -> None:
        await trio.sleep(self._source.choice((0.004, 0.5, 1.5, 4.0, 20.0)))

    async def _checkpoint(self) -> None:
        self._volume.checkpointer.forced = True
        self._stage.note("checkpoint wanted")

    async def _collect(self) -> None:
        try:
            freed = await self._volume.collector.collect()
            self._stage.note(f"collected {freed}")
        except InfinitfsError as error:
            if not self._stage.excuses(error):
                raise
            self._stage.note(f"not collected: {error}")


def _is_file(node: Node) -> bool:
    return stat.S_ISREG(node.mode)
