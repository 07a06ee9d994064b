"""The end of inodes: at once, or step by step where they have so many extents that others would have to wait.

Above: `incore`, which knows when nobody refers to an inode any more; `volume` runs what waits. Below: `namespace` and
`blocks` (the tables).
Invariant: an inode that waits here has no links, so the next mount removes what is left of it; each step is a
truncation, whole in itself, and may be in another transaction.
"""

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from infinitfs.errors import InfinitfsError
from infinitfs.volume.blocks import STEP, Blocks
from infinitfs.volume.namespace import Namespace


class Removal:
    """`changing` returns when something may be changed, or raises why not."""

    def __init__(self, namespace: Namespace, blocks: Blocks, changing: Callable[[], Awaitable[None]]) -> None:
        self._namespace = namespace
        self._blocks = blocks
        self._changing = changing
        self._waiting: deque[int] = deque()
        self._wake = trio.Event()
        self._done = trio.Event()
        self._held = False

    def remove(self, ino: int) -> None:
        """The end of an inode without links and without uses."""
        inode = self._namespace.inode(ino)
        if self._blocks.step(ino, 0, inode.allocated, STEP):
            if not self._waiting:
                self._done = trio.Event()
            self._waiting.append(ino)
            self._wake.set()
            return
        if inode.allocated:
            self._blocks.remove_extents(ino, inode.allocated)
        self._namespace.remove(ino)

    async def run(self) -> None:
        """Remove what waits, until nothing may be changed any more."""
        try:
            while not self._held:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._remove_all()
        finally:
            self.hold()

    async def _remove_all(self) -> None:
        while self._waiting:
            try:
                await self._changing()
            except InfinitfsError:  # for good; whoever changes something is told why
                self.hold()
            if self._held:  # what was changed now would come behind the release of the volume
                return
            self._shorten(self._waiting[0])
            await trio.lowlevel.checkpoint()
        self._done.set()

    def hold(self) -> None:
        """From now on nothing is done; what waits is left to the next mount."""
        self._held = True
        self._done.set()

    async def done(self) -> None:
        """Return once nothing waits but what is left to the next mount."""
        if self._waiting and not self._held:
            await self._done.wait()

    def _shorten(self, ino: int) -> None:
        """One step of the first that waits."""
        allocated = self._namespace.inode(ino).allocated
        end = self._blocks.step(ino, 0, allocated, STEP)
        allocated = self._blocks.shorten(ino, end, allocated)
        if end:
            self._namespace.update(ino, size=end, allocated=allocated)
        else:
            self._waiting.popleft()
            self._namespace.remove(ino)
