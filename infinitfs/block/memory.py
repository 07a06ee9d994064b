"""Open blocks kept in memory, up to a number of bytes, least recently used out first.

Above: `block.reader`. Below: nothing; a core without I/O. Invariant: never more than `limit` bytes, and plaintext is
held here and in dirty ranges only. Blocks are known by their id, which says what is in them: a block's number may be
given again after the block was freed. A segment of one is known by that and its number.
"""

from collections import OrderedDict

from infinitfs.storage.base import Buffer

Id = bytes | tuple[bytes, int]


class OpenBlocks:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._blocks: OrderedDict[Id, Buffer] = OrderedDict()
        self.used = 0

    def __contains__(self, id: Id) -> bool:
        return id in self._blocks

    def get(self, id: Id) -> Buffer | None:
        data = self._blocks.get(id)
        if data is not None:
            self._blocks.move_to_end(id)
        return data

    def put(self, id: Id, data: Buffer) -> None:
        if len(data) > self._limit or id in self._blocks:
            return
        self._blocks[id] = data
        self.used += len(data)
        while self.used > self._limit:
            _, old = self._blocks.popitem(last=False)
            self.used -= len(old)

    def clear(self) -> None:
        self._blocks.clear()
        self.used = 0
