"""A seed is one world: the same operations, the same crashes, the same bytes in the storage."""

import pytest

from tests.support.world.run import run


@pytest.mark.parametrize("seed", range(20, 28))
def test_a_seed_gives_the_same_world_twice(seed: int) -> None:
    one, other = run(seed), run(seed)
    assert one.trace == other.trace
    assert one.seen == other.seen
    assert one.digest == other.digest


def test_seeds_give_different_worlds() -> None:
    assert len({run(seed).digest for seed in range(5)}) == 5
