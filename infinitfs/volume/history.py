"""Where in the volume's history this machine's state stands.

Above: `publisher` advances it, `opening` replays and checks against it, `checkpoint` writes and reads it. Below: the
`local` table.
Invariant: `position` and `hash` are those of the last record that the storage acknowledged or that was applied from
it; they are pinned in the same transaction as the effect of that record, so a storage that shows another record there
was rolled back or forked. Claims are listed for ever: their records are never trimmed.
"""

import msgspec

from infinitfs.volume.database import Database
from infinitfs.volume.journal import START, Kind, Owner

_NAME = "history"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A point in the history, as it is pinned here and written in a checkpoint's manifest."""

    position: int = 0
    hash: bytes = START
    owner: Owner | None = None
    """Whose claim is in force, None after a release."""
    claims: list[int] = []
    journal_bytes: int = 0
    """Bytes of records since the last checkpoint."""
    checkpoints: list[int] = []
    """Positions of the checkpoints that are kept, ascending."""
    trimmed: int = 0
    """Records up to this position are gone, but for claims."""


class History:
    def __init__(self, database: Database) -> None:
        self._database = database
        stored = database.get_local(_NAME)
        self.point = msgspec.msgpack.decode(stored, type=Point) if stored else Point()

    @property
    def position(self) -> int:
        return self.point.position

    @property
    def hash(self) -> bytes:
        return self.point.hash

    def advance(self, position: int, hash: bytes, kind: Kind, owner: Owner, size: int) -> None:
        """One record further, `size` bytes long; part of the caller's transaction."""
        point = self.point
        self.set(
            msgspec.structs.replace(
                point,
                position=position,
                hash=hash,
                owner=None if kind is Kind.RELEASE else owner if kind is Kind.CLAIM else point.owner,
                claims=[*point.claims, position] if kind is Kind.CLAIM else point.claims,
                journal_bytes=point.journal_bytes + size,
            )
        )

    def set(self, point: Point) -> None:
        self.point = point
        self._database.set_local(_NAME, msgspec.msgpack.encode(point))
