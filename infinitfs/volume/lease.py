"""The lease: whether this machine still owns the volume.

Above: `volume.Volume` asks before a change that follows a pause. Below: the journal in the storage, through `transfer`.
Invariant: the journal is the lease and no clock decides: another owner's claim has the number that our next record
would have, so looking for that number is enough. A machine that has been in touch with the storage within PAUSE
seconds is not asked again; one that cannot reach it goes on, and its next record collides.
"""

import logging

import trio

from infinitfs.errors import InfinitfsError, ObjectNotFound
from infinitfs.keys.ring import KeyRing
from infinitfs.transfer.base import Transfer
from infinitfs.volume.clock import Clock
from infinitfs.volume.journal import JOURNAL, describe_owner
from infinitfs.volume.publisher import Publisher
from infinitfs.volume.signed import Members

_log = logging.getLogger(__name__)

PAUSE = 30.0  # seconds without word from the storage after which an owner looks, and between two looks
_PATIENCE = 3.0  # seconds that a change waits for the look; an unreachable storage must not stop local work


class Lease:
    def __init__(
        self, *, ring: KeyRing, members: Members, transfer: Transfer, publisher: Publisher, clock: Clock
    ) -> None:
        self._ring = ring
        self._members = members
        self._transfer = transfer
        self._publisher = publisher
        self._clock = clock
        self._asked = clock.elapsed()
        self._looking = trio.Lock()

    async def run(self) -> None:
        """Look every PAUSE seconds in which nothing else was heard of the storage, until the lease is lost."""
        while self._publisher.fenced is None:
            await trio.sleep(PAUSE / 3)
            if self.paused():
                await self._look()

    async def before_change(self) -> None:
        """Look, where there was a pause (a suspended laptop wakes up) before the change that follows it."""
        with trio.move_on_after(_PATIENCE):
            await self._look()

    def paused(self) -> bool:
        """Whether there was one, and so who changes something is to ask."""
        long_ago = self._clock.elapsed() - PAUSE
        return self._asked <= long_ago and self._publisher.heard <= long_ago  # an acknowledgement is as good as a look

    async def _look(self) -> None:
        async with self._looking:
            if not self.paused():
                return
            self._asked = self._clock.elapsed()  # also where it fails: nobody waits for every change
            position = self._publisher.position + 1
            try:
                data = await self._transfer.get(JOURNAL.key(self._ring.volume_id.hex(), position))
                owner = describe_owner(self._ring, self._members, position, data)
            except ObjectNotFound:
                return
            except InfinitfsError as error:
                _log.info("The storage cannot be asked whether this machine still owns the volume: %s", error)
                return
            if position == self._publisher.position + 1 and not self._publisher.is_own(position, data):
                self._publisher.fence(owner)
