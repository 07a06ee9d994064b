"""A world crashes before and after every kind of thread call, transfer call, sync and write of the database.

The points that ordinary worlds meet and do not crash at are aimed at in others, until each was hit.
"""

from collections import Counter

from tests.support.world.run import run

SEEDS = range(12, 27)
ATTEMPTS = 300

# Points that a world must meet, whatever else it meets: the path of a write and of an opening.
REQUIRED = {
    "thread Intents._extend",
    "thread Intents._read",
    "sync of a file in intents",
    "thread BlockWriter._cut",
    "thread BlockWriter._seal",
    "thread Staging._append",
    "thread Staging.recover",
    "thread seal_record",
    "transfer upload packs",
    "transfer put journal",
    "transfer get journal",
    "SQLite writes volume.db-wal",
    "sync of volume.db-wal",
    "sync of a file in staging",
}


def test_a_crash_at_every_point_loses_nothing() -> None:
    seen: set[tuple[str, str]] = set()
    crashes: Counter[tuple[str, str]] = Counter()
    for seed in SEEDS:
        outcome = run(seed)
        assert not outcome.failure, f"seed {seed}: {outcome.failure}"
        seen |= outcome.seen.keys()
        crashes += outcome.crashes
    required = {(name, side) for name in REQUIRED for side in ("before", "after")}
    assert seen >= required
    for seed in range(ATTEMPTS):
        if not (aims := seen - crashes.keys()):
            break
        outcome = run(seed, crash_at=aims)
        assert not outcome.failure, f"seed {seed}, aimed at {sorted(aims)}: {outcome.failure}"
        crashes += outcome.crashes
    assert seen <= crashes.keys(), seen - crashes.keys()
