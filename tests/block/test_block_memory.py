"""Open blocks in memory, against a list in the order of use."""

from hypothesis import given, settings
from hypothesis import strategies as st

from infinitfs.block.memory import OpenBlocks

LIMIT = 20
BLOCKS = st.integers(0, 7)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(st.tuples(st.booleans(), BLOCKS, st.integers(0, 25)), max_size=60))
def test_the_least_recently_used_go_first(steps: list[tuple[bool, int, int]]) -> None:
    blocks = OpenBlocks(LIMIT)
    model: list[tuple[bytes, bytes]] = []  # least recently used first
    for puts, number, size in steps:
        id = bytes([number])
        held = dict(model)
        if puts:
            blocks.put(id, bytes(size))
            if id not in held and size <= LIMIT:
                model.append((id, bytes(size)))
                while sum(len(data) for _, data in model) > LIMIT:
                    model.pop(0)
        else:
            assert blocks.get(id) == held.get(id)
            if id in held:
                model = [entry for entry in model if entry[0] != id] + [(id, held[id])]
        assert blocks.used == sum(len(data) for _, data in model) <= LIMIT
        assert [bytes([n]) for n in range(8) if bytes([n]) in blocks] == sorted(id for id, _ in model)


def test_what_is_larger_than_all_memory_is_not_kept_and_displaces_nothing() -> None:
    blocks = OpenBlocks(10)
    blocks.put(b"small", bytes(10))
    blocks.put(b"large", bytes(11))
    assert blocks.get(b"large") is None
    assert blocks.get(b"small") == bytes(10)
