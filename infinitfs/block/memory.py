"""Open blocks kept in memory, up to a number of bytes, least recently used out first.

Above: `block.reader`. Below: nothing; a core without I/O. Invariant: never more than `limit` bytes, and plaintext is
held here and in dirty ranges only.
"""

from collections import OrderedDict


class OpenBlocks:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.used = 0

    def get(self, block: int) -> bytes | None:
        data = self._blocks.get(block)
        if data is not None:
            self._blocks.move_to_end(block)
        return data

    def put(self, block: int, data: bytes) -> None:
        if len(data) > self._limit or block in self._blocks:
            return
        self._blocks[block] = data
        self.used += len(data)
        while self.used > self._limit:
            _, old = self._blocks.popitem(last=False)
            self.used -= len(old)
