"""Leftovers: packs in the storage that nothing names, since what was to name them was never finished.

A checkpoint that was cut off leaves some, and so does a machine that lost the volume between a pack and its record.

Above: `collector`, which frees them. Below: `database`, `publisher`, `checkpoint`, `transfer`.
Invariants.
- Whatever names a pack does so before the pack is sent, and names are looked for once the packs are listed: nothing of
  this machine names a pack that was listed and whose name is not found then.
- Nothing of another owner does: a leftover goes only once the storage has acknowledged a record that was cut after the
  listing, and who owned the volume before can publish nothing any more.
- A manifest that was on its way when its machine crashed or lost the volume may still arrive. So a leftover goes only
  once there is a younger checkpoint, which does not use it: the late one is never the newest.
"""

import re

import trio

from infinitfs.block.pack import object_key as pack_key
from infinitfs.transfer.base import Transfer
from infinitfs.volume.blocks import Blocks
from infinitfs.volume.checkpoint import Checkpointer
from infinitfs.volume.database import Database
from infinitfs.volume.publisher import Publisher

FOUND = 2**63 - 1
"""What `condemned` says of a leftover until a checkpoint is younger than its row: behind every position."""

_PORTION = 1000  # packs that are looked for, or entered, in one step of the event loop


class Leftovers:
    """`volume` in hex."""

    def __init__(
        self,
        *,
        volume: str,
        database: Database,
        blocks: Blocks,
        publisher: Publisher,
        checkpointer: Checkpointer,
        transfer: Transfer,
    ) -> None:
        self._volume = volume
        self._database = database
        self._blocks = blocks
        self._publisher = publisher
        self._checkpointer = checkpointer
        self._transfer = transfer

    async def hand_over(self) -> None:
        """Every leftover is a pack without a live block from now on, as long as a checkpoint could be made."""
        await self._enter(await self._find())
        await self._checkpointer.finished()
        if self._is_waiting(">"):
            self._set("birth = ?", self._database.position, ">")
            self._checkpointer.forced = True
            await self._publisher.publish_all()
            await self._checkpointer.finished()
        if self._is_waiting("<="):
            self._set("condemned = ?", None, "<=")

    async def _find(self) -> dict[str, int]:
        """Names and sizes of the packs that nothing names; none where a manifest cannot be read, which may name any."""
        listed = await self._transfer.list(f"{self._volume}/packs/")
        named = await self._checkpointer.named()
        if named is None:
            return {}
        sizes: dict[str, int] = {}
        for info in listed:
            name = info.key.rpartition("/")[2]
            is_pack = _NAME.fullmatch(name) and info.key == pack_key(self._volume, name) and info.size
            if is_pack and name not in named:
                sizes[name] = info.size
        found: dict[str, int] = {}
        for portion in _portions(list(sizes)):
            rows = self._database.rows_of_each(_UNKNOWN, [(bytes.fromhex(name),) * 3 for name in portion])
            found |= {name: sizes[name] for (row,) in rows if (name := bytes(row).hex())}
            await trio.lowlevel.checkpoint()
        return found

    async def _enter(self, found: dict[str, int]) -> None:
        """A row for each: a pack that is there, and in which there is no block."""
        for portion in _portions(list(found)):
            used = self._checkpointer.packs  # also of a manifest that came since the others were listed
            leftovers = [name for name in portion if name not in used]
            self._database.begin()
            self._database.connection.executemany(
                "INSERT INTO packs (name, size, live, birth, condemned) VALUES (?, ?, 0, ?, ?)",
                [(bytes.fromhex(name), found[name], self._database.position, FOUND) for name in leftovers],
            )
            self._blocks.stored += sum(found[name] for name in leftovers)
            await trio.lowlevel.checkpoint()

    # --- those that are older (<=) or younger (>) than the last checkpoint ---

    def _is_waiting(self, age: str) -> bool:
        return bool(self._database.value(f"SELECT EXISTS (SELECT 1 FROM packs{_WAITING} birth {age} ?)", self._age))

    def _set(self, change: str, value: int | None, age: str) -> None:
        self._database.begin()
        self._database.connection.execute(f"UPDATE packs SET {change}{_WAITING} birth {age} ?", (value, *self._age))

    @property
    def _age(self) -> tuple[int, int]:
        return FOUND, self._checkpointer.last


_NAME = re.compile("[0-9a-f]{32}")
_WAITING = " WHERE live = 0 AND condemned = ? AND"
_UNKNOWN = (
    "SELECT ? WHERE NOT EXISTS (SELECT 1 FROM packs WHERE name = ?)"
    " AND NOT EXISTS (SELECT 1 FROM staged WHERE pack = ?)"
)


def _portions(names: list[str]) -> list[list[str]]:
    return [names[start : start + _PORTION] for start in range(0, len(names), _PORTION)]
