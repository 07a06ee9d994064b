"""A volume opened from its checkpoints: damaged ones, and what trimming leaves."""

from collections import Counter
from pathlib import Path

import pytest
import zstandard
from trio.testing import MockClock

from infinitfs.errors import DamagedObject, Fenced, HistoryRolledBack, InfinitfsError
from infinitfs.keys.frame import FrameType
from infinitfs.keys.ring import Purpose
from infinitfs.storage.memory import MemoryStorage
from infinitfs.volume import checkpoint as module
from infinitfs.volume.checkpoint import CHECKPOINTS
from infinitfs.volume.journal import JOURNAL
from infinitfs.volume.namespace import ROOT
from tests.support.checkpoints import OPENED, VOLUME, fill, flip, manifest_at, pack_object, packs_of
from tests.support.faults import FaultyStorage
from tests.support.volumes import (
    checkpointed,
    drained,
    folders_of,
    opened_volume,
    packs,
    picture,
    positions,
    put,
)


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACK", 32 * 1024)


async def refused(storage: MemoryStorage, home: Path, expected: type[InfinitfsError]) -> InfinitfsError:
    with pytest.raises(expected) as caught:
        async with opened_volume(storage, home, OPENED):
            pass
    return caught.value


# --- damage ---


async def two_checkpoints(storage: MemoryStorage, home: Path) -> tuple[int, int]:
    async with opened_volume(storage, home, OPENED) as session:
        await fill(session, 900)
        older = await checkpointed(session)
        await fill(session, 900, b"second")
        newer = await checkpointed(session)
        await fill(session, 5, b"third")
        await session.drain()
    return older, newer


def damaged(storage: MemoryStorage, position: int, how: str, spared: set[str]) -> str:
    """Damage a checkpoint, but none of the packs in `spared`; returns the key of the object."""
    key = CHECKPOINTS.key(VOLUME, position)
    if how == "manifest":
        flip(storage, key)
        return key
    if how == "manifest emptied":
        storage.objects[key] = b""
        return key
    manifest = manifest_at(storage, position)
    last = [group for group in manifest.groups if group.pack not in spared][-1]
    key = pack_object(last.pack)
    if how == "pack":
        flip(storage, key, last.offset + last.length - 1)
    elif how == "pack cut":
        storage.objects[key] = storage.objects[key][:-1]
    elif how == "pack lost":
        del storage.objects[key]
    return key


DAMAGES = ["manifest", "manifest emptied", "pack", "pack cut", "pack lost"]


@pytest.mark.parametrize("how", DAMAGES)
async def test_an_older_checkpoint_is_tried_where_the_newest_is_damaged(
    autojump_clock: MockClock, tmp_path: Path, how: str
) -> None:
    storage = MemoryStorage()
    older, newer = await two_checkpoints(storage, tmp_path / "one")
    damaged(storage, newer, how, packs_of(manifest_at(storage, older)))
    async with opened_volume(storage, tmp_path / "two", OPENED) as session:
        assert len(list(session.volume.entries(ROOT, 0))) == 1805
        await fill(session, 1, b"fourth")
        await checkpointed(session)
    async with opened_volume(storage, tmp_path / "three", OPENED) as session:
        assert len(list(session.volume.entries(ROOT, 0))) == 1806


@pytest.mark.parametrize("how", DAMAGES[:-1])
async def test_where_all_are_damaged_the_newest_is_named(autojump_clock: MockClock, tmp_path: Path, how: str) -> None:
    storage = MemoryStorage()
    older, newer = await two_checkpoints(storage, tmp_path / "one")
    damaged(storage, older, "manifest", set())
    key = damaged(storage, newer, how, set())
    error = await refused(storage, tmp_path / "two", DamagedObject)
    assert error.fields["key"] == key
    assert not folders_of(tmp_path / "two", OPENED).database.exists()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        assert len(list(session.volume.entries(ROOT, 0))) == 1805, "who has the state needs no checkpoint"


async def test_a_manifest_is_refused_in_the_place_of_another(autojump_clock: MockClock, tmp_path: Path) -> None:
    storage = MemoryStorage()
    older, newer = await two_checkpoints(storage, tmp_path / "one")
    storage.objects[CHECKPOINTS.key(VOLUME, newer)] = storage.objects[CHECKPOINTS.key(VOLUME, older)]
    with pytest.raises(DamagedObject):
        manifest_at(storage, newer)
    async with opened_volume(storage, tmp_path / "two", OPENED) as session:
        assert len(list(session.volume.entries(ROOT, 0))) == 1805


async def test_a_group_that_is_not_the_one_it_is_named_for_is_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Sealed with the volume's key for the right place: only the digest of the opened group tells."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 300)
        position = await checkpointed(session)
    group = manifest_at(storage, position).groups[-1]
    key = pack_object(group.pack)
    frame = storage.objects[key][group.offset : group.offset + group.length]
    opened = OPENED.ring.open(Purpose.METADATA, FrameType.CHECKPOINT_GROUP, group.digest, frame)
    plain = bytearray(zstandard.decompress(opened.payload))
    plain[-1] ^= 1
    payload = zstandard.ZstdCompressor(level=3).compress(plain)
    forged = OPENED.ring.seal(Purpose.METADATA, FrameType.CHECKPOINT_GROUP, group.digest, payload, compressed=True)
    assert len(forged) == group.length
    data = storage.objects[key]
    storage.objects[key] = data[: group.offset] + forged + data[group.offset + group.length :]
    error = await refused(storage, tmp_path / "two", DamagedObject)
    assert error.fields["key"] == key


@pytest.mark.parametrize("times", [1, 2])
async def test_a_record_that_was_damaged_on_its_way_is_asked_for_once_more(
    autojump_clock: MockClock, tmp_path: Path, times: int
) -> None:
    """Those that follow, and the one that is pinned."""

    class Flipping(MemoryStorage):
        """Of every record the first answers have a wrong bit."""

        def __init__(self, objects: dict[str, bytes]) -> None:
            super().__init__()
            self.objects = objects
            self.asked = Counter[str]()

        async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            data = await super().get(key, start, length)
            self.asked[key] += 1
            if "/journal/" in key and self.asked[key] <= times:
                return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
            return data

    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 5)
        await session.drain()
        seen = await picture(session.volume)
    for home in ("two", "one"):
        flipping = Flipping(storage.objects)
        if times > 1:
            error = await refused(flipping, tmp_path / home, DamagedObject)
            assert "/journal/" in error.fields["key"]
            continue
        async with opened_volume(flipping, tmp_path / home, OPENED) as session:
            assert await picture(session.volume) == seen
        assert max(count for key, count in flipping.asked.items() if "/journal/" in key) >= 2


# --- trimming ---


async def test_trimming_keeps_claims_and_what_the_kept_checkpoints_need(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage = MemoryStorage()
    claims, taken = [], []
    for number, home in enumerate(["one", "two", "one", "three"]):
        async with opened_volume(storage, tmp_path / home, OPENED) as session:
            claims.append(session.volume.publisher.position)
            await fill(session, 100, b"%d" % number)
            taken.append(await checkpointed(session))
            await put(session.volume, b"data", b"%d" % number * 5000)
            await session.drain()
            seen = await picture(session.volume)
    assert positions(storage, CHECKPOINTS) == taken[-2:]
    records = positions(storage, JOURNAL)
    assert [position for position in records if position <= taken[-2]] == claims[:3]
    assert records[3:] == list(range(taken[-2] + 1, records[-1] + 1))
    needed = packs_of(manifest_at(storage, taken[-1])) | packs_of(manifest_at(storage, taken[-2]))
    async with opened_volume(storage, tmp_path / "four", OPENED, read_only=True) as session:
        assert await picture(session.volume) == seen
        data = {bytes(row[0]).hex() for row in session.volume.database.rows("SELECT name FROM packs")}
    assert packs(storage) == needed | data, "and nothing else is left behind"


async def test_a_machine_whose_position_was_trimmed_away_starts_from_a_checkpoint(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The record that follows its position is the next owner's claim, which is never trimmed: it must not pass for
    the end of the history."""
    storage = MemoryStorage()
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 10)
        await session.drain()
    left = positions(storage, JOURNAL)[-1]
    async with opened_volume(storage, tmp_path / "two", OPENED) as session:
        for number in range(4):
            await fill(session, 10, b"%d" % number)
            await checkpointed(session)
        await session.drain()
        seen = await picture(session.volume)
    assert left + 1 in positions(storage, JOURNAL)
    assert left + 2 not in positions(storage, JOURNAL)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        assert await picture(session.volume) == seen
        await fill(session, 1, b"last")
        await session.drain()
        assert session.volume.publisher.fenced is None


async def test_a_machine_left_behind_with_unsent_changes_is_not_made_anew(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage = FaultyStorage(MemoryStorage(), lambda call: None)
    async with opened_volume(storage, tmp_path / "one", OPENED) as session:
        await fill(session, 10)
        await drained(session)
        storage.partitioned = True
        await fill(session, 1, b"unsent")
        await session.volume.sync()
    storage.partitioned = False
    async with opened_volume(storage, tmp_path / "two", OPENED, take_over=True) as session:
        for number in range(4):
            await fill(session, 10, b"%d" % number)
            await checkpointed(session)
        await session.drain()
    for _ in range(2):
        with pytest.raises(Fenced):
            async with opened_volume(storage, tmp_path / "one", OPENED):
                pass


async def test_missing_records_behind_a_checkpoint_are_no_end_of_history(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    storage = MemoryStorage()
    older, newer = await two_checkpoints(storage, tmp_path / "one")
    everything = dict(storage.objects)
    del storage.objects[JOURNAL.key(VOLUME, newer + 1)]
    await refused(storage, tmp_path / "two", HistoryRolledBack)
    storage.objects = {key: data for key, data in everything.items() if "/checkpoints/" not in key}
    await refused(storage, tmp_path / "three", HistoryRolledBack)
    storage.objects = dict(everything)
    flip(storage, CHECKPOINTS.key(VOLUME, newer))
    del storage.objects[JOURNAL.key(VOLUME, older + 1)]
    await refused(storage, tmp_path / "four", HistoryRolledBack)
    storage.objects = everything
    for home in ("one", "two", "three", "four"):
        async with opened_volume(storage, tmp_path / home, OPENED) as session:
            assert len(list(session.volume.entries(ROOT, 0))) == 1805
            await session.drain()
