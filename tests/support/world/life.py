"""One opening of a volume in a world, from its session to its crash or its end.

Above: `run` strings lives together. Below: `infinitfs.mount.compose` over a faulty storage and a watched disk.
Invariant: the crash is one step: what the disk keeps is taken, the storage's gate closes and the history ends in it;
what the code of this life does after that is seen by nobody.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from random import Random
from typing import TypeVar, cast
from unittest import mock

import trio

from infinitfs.errors import InfinitfsError, NotDrained
from infinitfs.keys.identity import Identity
from infinitfs.mount.compose import Machine
from infinitfs.mount.request import MountRequest
from infinitfs.mount.session import Session
from infinitfs.storage.memory import MemoryStorage
from infinitfs.transfer.client import TransferClient, local_transfer
from infinitfs.transfer.files import inline
from infinitfs.volume import removal, writeback
from infinitfs.volume.clock import Clock
from infinitfs.volume.descriptor import OpenedVolume
from infinitfs.volume.journal import JOURNAL, Kind, open_record
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.volume import Volume
from tests.support.faults import FaultyStorage
from tests.support.randomness import seeded
from tests.support.world.disk import Disk
from tests.support.world.look import check_tables, observe, observe_storage, open_volume
from tests.support.world.model import AGE, Floor, History, Lost, Seen, Tree, differences
from tests.support.world.program import User
from tests.support.world.storage import Crashed, Gate, Plans, PointedTransfer

T = TypeVar("T")

_EPOCH = 1_700_000_000 * 10**9
_STUCK = 3 * 3600.0
_SMALL_MEMORY = {"SOME": 12 * 1024, "HIGH": 12 * 1024, "MOST": 24 * 1024, "FULL": 64 * 1024}
_CHECKS = 3
"""Looks at the storage through another home, in one life at most."""


class World:
    """What outlives a life: the volume, its storage and its history. `crash_at` are points (name, side) at which
    the first life that comes there ends, whatever else is drawn."""

    def __init__(self, seed: int, folder: Path, crash_at: Collection[tuple[str, str]]) -> None:
        self.seed = seed
        self.source = Random(seed)
        self.folder = folder
        self.crash_at = set(crash_at)
        self.identity = Identity(bytes(32), bytes(range(32)))
        self.storage = MemoryStorage()
        self.history = History(tears=self.is_small)
        self.local = Floor()
        """What must be there after a power cut."""
        self.remote = Floor()
        """What must be there when the machine is lost."""
        self.pool: list[bytes] = []
        self.trace: list[str] = []
        self.seen: Counter[tuple[str, str]] = Counter()
        self.crashes: Counter[tuple[str, str]] = Counter()
        self._ticks = 0
        self._homes = 0

    @property
    def is_small(self) -> bool:
        """Whether packs and memory are, as in every third world."""
        return self.seed % 3 == 0

    def note(self, text: str) -> None:
        self.trace.append(f"{trio.current_time():.3f} {text}")

    def now(self) -> int:
        """Never twice the same."""
        self._ticks += 1
        return _EPOCH + int(trio.current_time() * 10**9) + self._ticks

    def new_home(self) -> Path:
        self._homes += 1
        return self.folder / f"home-{self._homes}"

    async def check_storage(self, opened: OpenedVolume) -> None:
        """What the storage holds now opens on a home that has nothing, and is a state that may be there."""
        storage = MemoryStorage()
        storage.objects = dict(self.storage.objects)
        floor = self.remote.copy()
        host = Machine(Clock(self.now), seeded(bytes(self._ticks)), inline, "another host")
        seen = await observe_storage(opened, self.identity, storage, self.new_home(), host)
        if seen.tree.nodes:
            match = self.history.find(seen, floor)
            self.remote.raise_to(match.namespace)
            self.note(f"the storage holds #{match.namespace} of #{self.history.last}")
        elif floor.namespace:
            raise Lost(f"the storage is empty, change {floor.namespace} was in it")


class Life:
    """The volume of `world`, opened on `disk`; `take_over` where the disk is a new one."""

    def __init__(
        self,
        world: World,
        opened: OpenedVolume,
        disk: Disk,
        floor: Floor,
        *,
        take_over: bool,
        quiet: bool,
        after_cut: bool,
    ) -> None:
        source = world.source
        self.world = world
        self.history, self.local, self.remote, self.pool = world.history, world.local, world.remote, world.pool
        self.over = False
        self.remote_fsync = source.random() < 0.3
        self.power_cut = False
        self.left: Disk | None = None
        """The disk after the crash."""
        self.floor = floor
        """What had to be there at opening; after a crash, at the next one."""
        self.has_opened = False
        self.is_clean = False
        self._opened = opened
        self._disk = disk
        self._take_over = take_over
        self._little = source.choice((writeback._LITTLE, 3000, 0))
        self._source = source
        self._plans = Plans(Random(source.random()), 0.0 if quiet else source.choice((0.0, 0.0, 0.03, 0.2)))
        self._gate = Gate(world.storage)
        self._quiet = quiet
        self._after_cut = after_cut
        self._countdown = None if quiet else self._draw_countdown()
        self._crash_time = None if quiet else source.choice((None, None, 10 ** source.uniform(-2, 2)))
        self._scope = trio.CancelScope()
        self._session: Session | None = None
        self._since = 0.0
        self._committed = self._committing = 0
        self._checks = 0
        self._pauses = Random(source.random())

    def _draw_countdown(self) -> int | None:
        if self._source.random() < 0.4:
            return None
        return int(10 ** self._source.uniform(0, 3.2))

    @property
    def volume(self) -> Volume:
        assert self._session is not None
        return self._session.volume

    def note(self, text: str) -> None:
        if not self.over:
            self.world.note(text)

    # --- crash points ---

    def point(self, name: str, side: str) -> None:
        if self.over:
            return
        self.world.seen[name, side] += 1
        if self._countdown is not None:
            self._countdown -= 1
        if self._countdown == 0 or (name, side) in self.world.crash_at:
            self.world.crash_at.discard((name, side))
            self.world.crashes[name, side] += 1
            self.crash(f"{side} {name}", inside_commit=name.startswith("SQLite"))

    def crash(self, reason: str, *, inside_commit: bool = False) -> None:
        """The end of this life, now."""
        self.power_cut = self._source.random() < 0.6
        self.note(f"{'power cut' if self.power_cut else 'killed'} {reason}")
        self.over = True
        self._gate.closed = True
        before, self.floor = self.floor, self.local.copy()
        self._raise_by_age()
        home = self.world.new_home()
        if self.power_cut:
            self.left = self._disk.after_power_cut(home, self._source)
        else:
            self._raise_by_commits(before, inside_commit)
            self.left = self._disk.after_kill(home)
        self._disk.point = lambda name, side: None
        self._scope.cancel()

    def _raise_by_age(self) -> None:
        now = trio.current_time()
        if self.has_opened and now - self._since > AGE:
            upto = self.history.done_before(now - AGE)
            self.floor.raise_all(upto, self.history.files())
            self.local.raise_all(upto, self.history.files())

    def _raise_by_commits(self, before: Floor, inside_commit: bool) -> None:
        if not self.has_opened:
            self.floor.raise_to(before.namespace)
        elif not self.volume.database.in_transaction:
            self.floor.raise_to(self.history.last)
        else:
            self.floor.raise_to(self._committed if inside_commit else self._committing)

    async def offload(self, call: Callable[[], T]) -> T:
        """A thread's call: at once, but some time after it was asked for and before it is answered."""
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):
            await self._pause()
            if self.over:
                raise Crashed
            name = f"thread {_name(call)}"
            self.point(name, "before")
            value = call()
            self.point(name, "after")
            await self._pause()
            if self.over:
                raise Crashed
        return value

    async def _pause(self) -> None:
        draw = self._pauses.random()
        if not self.over and draw < 0.3:
            await trio.sleep(0.3 if draw < 0.01 else draw / 10)

    # --- living ---

    async def run(self) -> None:
        """Return at the crash or the end. Raises Lost, and any error that should not have come."""
        self._disk.point = self.point
        # Worlds write little: some of them make blocks of all that is fsynced, others only of what is least; and where
        # memory is small, one batch is cut while others are on their way.
        with ExitStack() as patched:
            sizes = {"_LITTLE": self._little, "_PIECE": min(writeback._PIECE, self._little)}
            for name, size in (sizes | (_SMALL_MEMORY if self.world.is_small else {})).items():
                patched.enter_context(mock.patch.object(writeback, name, size))
            if self.world.is_small:
                for module in removal, writeback:
                    patched.enter_context(mock.patch.object(module, "STEP", 2))
            await self._run()

    async def _run(self) -> None:
        try:
            with trio.move_on_after(_STUCK) as patience, self._scope:
                async with local_transfer(FaultyStorage(self._gate, self._plans.plan()), connections=8) as client:
                    await self._live(cast(TransferClient, PointedTransfer(client, self.point)))
        except Exception:
            if not self.over:
                raise
        if patience.cancelled_caught and not self.over:
            raise AssertionError("the world does not go on")

    async def _live(self, transfer: TransferClient) -> None:
        request = MountRequest(
            volume="world",
            fsync="remote" if self.remote_fsync else "local",
            cache_size=self._source.choice((0, 200_000, 10**9)),
            memory=self._source.choice((0, 50_000)),
            take_over=self._take_over,
        )
        try:
            async with self._compose(transfer, request) as session:
                self._session = session
                await self._begin()
                async with trio.open_nursery() as nursery:
                    if self._crash_time is not None:
                        nursery.start_soon(self._crash_at, self._crash_time)
                    await self._use()
                    nursery.cancel_scope.cancel()
                await self._leave()
        except InfinitfsError as error:
            if self.has_opened or not self.excuses(error):
                raise
            self.note(f"not opened: {error}")
            return
        if not self.over:
            self.is_clean = True
            self.local.raise_all(self.history.last, self.history.files())
            self.floor = self.local.copy()
            self.note("closed")

    def excuses(self, error: InfinitfsError) -> bool:
        """Whether an error comes of a fault of the storage."""
        return self._plans.excuse(error)

    def _compose(self, transfer: TransferClient, request: MountRequest) -> AbstractAsyncContextManager[Session]:
        host = f"host {self._disk.root.name}"
        return open_volume(
            self._opened,
            self.world.identity,
            self._disk.root,
            transfer,
            request,
            Machine(Clock(self.world.now), seeded(self._source.randbytes(8)), self.offload, host),
        )

    async def _begin(self) -> None:
        """Look at what was opened, and go on from there."""
        self._plans.on = False
        seen = await self._observed()
        check_tables(self.volume)
        self._find(seen)
        self._plans.on = True
        self.has_opened = True
        self._since = trio.current_time()
        previous = self.volume.database.before_commit

        def before_commit() -> None:
            previous()
            self._committed, self._committing = self._committing, self.history.last

        self.volume.database.before_commit = before_commit
        self._committed = self._committing = 0

    def _find(self, seen: Seen) -> None:
        history = self.history
        root = seen.tree.nodes[ROOT]
        try:
            match = history.find(seen, self.floor)
        except Lost:
            if self.floor.namespace or seen.tree != Tree({ROOT: root}):
                raise
            # The root is made at the first opening, and again where it was lost, with other times.
            self.note("opened anew")
            history.changes.clear()
            history.tree = Tree()
            history.record(trio.current_time(), "root", apply=lambda tree: tree.nodes.__setitem__(ROOT, root))
            return
        self.note(f"opened at #{match.namespace} of #{history.last}")
        history.go_on_from(match, trio.current_time(), seen)
        if self._after_cut:
            self.local.raise_all(history.last, seen.contents)

    async def _crash_at(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.crash("at any time")

    async def _use(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self._source.choice((1, 2, 3))):
                user = User(self, Random(self._source.random()))
                nursery.start_soon(user.run, self._source.randint(1, 40))

    async def _leave(self) -> None:
        seen = await self._observed()
        wrong = differences(self.history.tree, seen.tree)
        if wrong:
            raise Lost(f"the open volume shows something else: {wrong}")
        for ino, content in seen.contents.items():
            if content != self.history.content(ino):
                raise Lost(f"the open volume shows another content of {ino}")
        assert self._session is not None
        upto = self.history.last
        if self._quiet or self._source.random() < 0.7:
            try:
                await self._session.drain()
                self.remote.raise_all(upto, self.history.files())
                self.note("drained")
            except NotDrained as error:
                if self._quiet:
                    raise
                self.note(str(error))

    async def _observed(self) -> Seen:
        while True:
            try:
                return await observe(self.volume)
            except InfinitfsError as error:
                if not self.excuses(error):
                    raise
                await trio.sleep(5)

    async def check_storage(self) -> None:
        """What the storage holds now opens on another home and is a state that may be."""
        if self._checks < _CHECKS and not self.over:
            self._checks += 1
            self._check_owner()
            await self.world.check_storage(self._opened)

    def _check_owner(self) -> None:
        """Nobody may believe that the volume is free while it is open here."""
        objects, volume = self.world.storage.objects, self._opened.volume_id.hex()
        for key in sorted((key for key in objects if key.startswith(f"{volume}/journal/")), reverse=True):
            position = JOURNAL.position(key)
            assert position is not None
            record = open_record(self._opened.ring, self._opened.member, position, objects[key])
            if record.kind is not Kind.CHANGES:
                if record.kind is Kind.RELEASE:
                    raise Lost(f"the volume is open and record {position} releases it")
                return


def _name(call: Callable[[], object]) -> str:
    while isinstance(call, functools.partial):
        call = call.func
    return str(getattr(call, "__qualname__", call)).replace(".<locals>", "")
