"""A storage's capacity: the bucket never holds more, whatever is written, and deleting makes room."""

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio.testing

from infinitfs.errors import NoSpace
from infinitfs.storage.base import Buffer
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume.namespace import ROOT
from infinitfs.volume.room import RESERVE, Room, most_sealed
from infinitfs.volume.volume import Volume
from tests.support.volumes import checkpointed, drained, make_volume, opened_volume, put

MIB = 1 << 20
CAPACITY = 14 * MIB


class Bucket(MemoryStorage):
    """Knows the most that it has ever held."""

    most = 0

    async def put(self, key: str, data: Buffer, *, create: bool = False) -> None:
        await super().put(key, data, create=create)
        self.most = max(self.most, sum(map(len, self.objects.values())))


def step(source: random.Random, kind: str, number: int, taken: int) -> tuple[bytes, int, bytes]:
    """The name, the offset and the bytes of a write."""
    match kind:
        case "large":
            return b"large", taken, source.randbytes(200_000)
        case "small":
            return b"small%d" % number, 0, source.randbytes(source.randrange(1, 3000))
        case "scattered":
            return b"scattered", source.randrange(2**30) & -4096, source.randbytes(4096)
        case _:
            return b"text%d" % (number % 20), number * 40_000, source.randbytes(4000) + bytes(36_000)


async def fill(volume: Volume, source: random.Random, kind: str) -> int:
    """Write until there is no space; returns the bytes taken."""
    taken = number = 0
    while True:
        name, offset, data = step(source, kind, number, taken)
        try:
            await put(volume, name, data, offset=offset, durable=number % 50 == 0)
        except NoSpace as error:
            assert "raise the storage's capacity" in str(error)
            return taken
        taken += len(data)
        number += 1


@pytest.mark.parametrize("kind", ["large", "small", "scattered", "text"])
async def test_the_capacity_is_never_exceeded_and_mostly_used(
    kind: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    bucket = Bucket()
    async with opened_volume(bucket, tmp_path / "home", make_volume(), capacity=CAPACITY) as session:
        volume = session.volume
        taken = await fill(volume, random.Random(kind), kind)
        await checkpointed(session)
        assert taken > 3 * MIB
        assert bucket.most <= CAPACITY
        space = volume.space()
        assert space.left < 400_000, "nothing is kept back that was not needed"
        assert space.stored + space.left <= space.capacity == CAPACITY
        if kind == "large":
            await volume.unlink(ROOT, b"large")
            await drained(session)
            await volume.collector.collect()
            assert volume.space().left > 2 * MIB
            await put(volume, b"again", b"there is room again")
            await drained(session)
        assert bucket.most <= CAPACITY


def test_the_bound_holds_for_frames_of_any_size() -> None:
    """40 bytes of header, 4 of length, 16 of tag, Padmé's zeros, and 44 in the index, which is padded too."""

    def padme(length: int) -> int:
        if length < 2:
            return length
        exponent = length.bit_length() - 1
        free = exponent - exponent.bit_length()
        return length + (-length & (1 << free) - 1)

    for size in [*range(1, 5000), *range(5000, 2 * MIB, 977)]:
        assert 40 + padme(4 + size) + 16 + 44 * 9 / 8 <= most_sealed(size, 1)


def room_on(free: int, looks: list[Path]) -> Room:
    """With so many bytes free on the local disk."""

    def disk(folder: Path) -> os.statvfs_result:
        looks.append(folder)
        return os.statvfs_result((4096, 4096, 2**28, free // 4096, free // 4096, 0, 0, 0, 0, 255))

    nothing: Any = SimpleNamespace(waiting=0, outbox_bytes=0, look_at_disk=lambda: None)
    return Room(
        folder=Path("/"),
        blocks=nothing,
        staging=nothing,
        database=nothing,
        cache=nothing,
        capacity=0,
        backlog=2**40,
        disk=disk,
    )


def test_a_disk_is_looked_at_seldom_while_it_has_plenty_of_room_and_always_where_not() -> None:
    looks: list[Path] = []
    room = room_on(2**30, looks)
    for _ in range(100):
        room.check(MIB)
    assert len(looks) == 7
    looks.clear()
    room = room_on(RESERVE + 60 * MIB, looks)
    for _ in range(100):
        room.check(MIB)
    assert len(looks) == 100
    with pytest.raises(NoSpace, match="the local disk"):
        room.check(61 * MIB)
