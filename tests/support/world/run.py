"""A world from its first life to its end.

Above: the runner (`__main__`) and tests/world. Below: `life`.
Invariant: a run is a function of its seed: the order in which trio runs tasks is drawn from it, too.
"""

import hashlib
import logging
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio
import trio.testing
from trio._core import _run as scheduler

from infinitfs.keys.ring import KeyRing
from infinitfs.volume.descriptor import Member, OpenedVolume, Parameters, descriptor_key
from tests.support.randomness import seeded
from tests.support.world.disk import Disk, Watch
from tests.support.world.life import Life, World
from tests.support.world.model import Floor

KIB = 1024
PARAMETERS = Parameters(minimum=4 * KIB, target=8 * KIB, maximum=16 * KIB, zeros=4 * KIB, pack=64 * KIB)
SMALL_PACK = 8 * KIB
"""In small worlds, so that one flush fills several, which are written beside one another."""
_MEMORY = Path("/dev/shm")
_watch = Watch()


@dataclass(frozen=True)
class Outcome:
    """How a world went: `failure` with its traceback or "", what it did, the crash points it met and those at which
    it crashed, and a digest of everything the storage held in the end."""

    seed: int
    failure: str
    trace: list[str]
    seen: Counter[tuple[str, str]]
    crashes: Counter[tuple[str, str]]
    changes: int
    digest: str


def run(seed: int, *, crash_at: Collection[tuple[str, str]] = ()) -> Outcome:
    """Play the world of a seed. `crash_at`: crash points (name, side) at each of which it crashes the first time it
    meets it, beside whatever else happens."""
    folder = Path(tempfile.mkdtemp(prefix="world-", dir=_MEMORY if _MEMORY.is_dir() else None))
    world = World(seed, folder, crash_at)
    failure = ""
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(seed)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with _watch.entered():
            trio.run(_play, world, clock=trio.testing.MockClock(autojump_threshold=0))
    except Exception:
        failure = traceback.format_exc()
    finally:
        logging.disable(level)
        shutil.rmtree(folder)
    digest = hashlib.sha256()
    for key, data in sorted(world.storage.objects.items()):
        digest.update(f"{key} {len(data)}\n".encode() + data)
    return Outcome(seed, failure, world.trace, world.seen, world.crashes, world.history.last, digest.hexdigest())


async def _play(world: World) -> None:
    source = world.source
    opened = _volume(world)
    world.storage.objects[descriptor_key(opened.volume_id, 1)] = b""  # that one is there counts, nothing reads it
    disk, floor, take_over = _new_disk(world), Floor(), False
    cut = False
    lives = source.randint(2, 6)
    for number in range(lives + 1):
        last = number == lives
        while True:
            life = Life(world, opened, disk, floor, take_over=take_over, quiet=last, after_cut=cut)
            _watch.disk = disk
            world.note(f"life {number} in {disk.root.name}")
            try:
                await life.run()
            finally:
                _watch.disk = None
            if life.over or life.is_clean:
                break
            await trio.sleep(source.uniform(1, 100))
        floor, cut = life.floor, life.power_cut
        take_over = take_over and not life.has_opened
        if life.left is not None:
            disk.close()
            disk = life.left
        elif not last and source.random() < 0.3:
            world.note("power cut while it is closed")
            old, disk = disk, disk.after_power_cut(world.new_home(), source)
            old.close()
            cut = True
        if not last and source.random() < 0.15:
            world.note("the machine is lost")
            disk.close()
            disk, floor, take_over, cut = _new_disk(world), world.remote.copy(), True, False
            world.local = world.remote.copy()
    await world.check_storage(opened)
    disk.close()


def _new_disk(world: World) -> Disk:
    home = world.new_home()
    home.mkdir()
    return Disk(home)


def _volume(world: World) -> OpenedVolume:
    """The volume without its descriptor, which is never the same twice (HPKE) and says nothing more."""
    public = world.identity.public
    ring = KeyRing.generate(seeded(world.source.randbytes(8)))
    parameters = msgspec.structs.replace(PARAMETERS, pack=SMALL_PACK) if world.is_small else PARAMETERS
    members = (Member("user", public),)
    return OpenedVolume(ring.volume_id, "world", "user", ring, parameters, public, members, 1, "2026-01-01T00:00:00Z")
