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
from infinitfs.file.extents import Edit
from infinitfs.volume.blocks import END, STEP, Blocks
from infinitfs.volume.namespace import Namespace

_PAUSE = 1.0  # seconds


class Removal:
    """`changing` returns when something may be changed, or raises why not."""

    def __init__(self, namespace: Namespace, blocks: Blocks, changing: Callable[[], Awaitable[None]]) -> None:
        self._namespace = namespace
        self._blocks = blocks
        self._changing = changing
        self._waiting: deque[int] = deque()
        self._wake = trio.Event()
        self._held = False

    def remove(self, ino: int) -> None:
        """The end of an inode without links and without uses."""
        inode = self._namespace.inode(ino)
        if self._blocks.step(ino, 0, inode.allocated, STEP):
            self._waiting.append(ino)
            self._wake.set()
            return
        if inode.allocated:
            self._blocks.remove_extents(ino, inode.allocated)
        self._namespace.remove(ino)

    async def run(self) -> None:
        """Remove what waits, for as long as the volume is open."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting and not self._held:
                try:
                    await self._changing()
                except InfinitfsError:  # which whoever changes something is told, too
                    await trio.sleep(_PAUSE)
                    continue
                self._shorten(self._waiting[0])
                await trio.lowlevel.checkpoint()

    def hold(self) -> None:
        """From now on nothing is done; what waits is left to the next mount."""
        self._held = True

    def _shorten(self, ino: int) -> None:
        """One step of the first that waits."""
        allocated = self._namespace.inode(ino).allocated
        end = self._blocks.step(ino, 0, allocated, STEP)
        allocated = self._blocks.edit(ino, [Edit(end, END, ())], allocated)
        if end:
            self._namespace.update(ino, size=end, allocated=allocated)
        else:
            self._waiting.popleft()
            self._namespace.remove(ino)
