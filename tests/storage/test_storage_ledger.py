"""Ledger: kinds, sums and what they cost."""

import pytest

from infinitfs.errors import ObjectNotFound, StorageUnreachable
from infinitfs.storage.ledger import KINDS, PRICES, Ledger, Usage
from infinitfs.storage.memory import MemoryStorage
from infinitfs.storage.trace import Trace, TraceStorage
from tests.support.faults import FailBefore, FaultyStorage, script


async def test_every_request_is_counted_by_kind() -> None:
    ledger = Ledger()
    storage = TraceStorage(FaultyStorage(MemoryStorage(), script(FailBefore())), ledger.note)
    with pytest.raises(StorageUnreachable):
        await storage.put("a", b"12345")
    await storage.put("a", b"12345")
    await storage.get("a", 1, 3)
    await storage.size("a")
    with pytest.raises(ObjectNotFound):
        await storage.get("b")
    await storage.delete("a")
    assert [info async for info in storage.list("")] == []
    assert ledger.requests == {"put": Usage(2, 5, 1), "get": Usage(3, 3), "list": Usage(1), "delete": Usage(1)}


async def test_a_list_makes_a_request_for_every_thousand_keys() -> None:
    ledger, inner = Ledger(), MemoryStorage()
    inner.objects = {f"{number:05}": b"" for number in range(2001)}
    assert len([info async for info in TraceStorage(inner, ledger.note).list("")]) == 2001
    assert ledger.requests["list"] == Usage(3)


def test_what_is_taken_is_added_elsewhere_and_nowhere_twice() -> None:
    near, far = Ledger(), Ledger()
    for _ in range(3):
        far.note(Trace("put", "a", 10))
        far.note(Trace("get", "a", 5))
        near.add(far.take())
        near.add(far.take())
    assert near.requests == {"put": Usage(3, 30), "get": Usage(3, 15), "list": Usage(), "delete": Usage()}


def test_the_cost() -> None:
    ledger = Ledger()
    ledger.add({"put": Usage(1000, 10**12), "get": Usage(10_000, 10**9), "list": Usage(1000), "delete": Usage(10**6)})
    assert ledger.cost == pytest.approx(0.005 + 0.004 + 0.09 + 0.005)
    assert Ledger(billed=False).cost is None


def test_every_operation_has_a_kind_and_every_kind_a_price() -> None:
    assert set(KINDS.values()) == set(PRICES)
