"""A minute of 503 for every request: few are sent, and soon after its end all is as before. On a real socket, with the
service in a process of its own; MOUNT_TESTS=long, since a minute is a minute."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

import msgspec
import pytest
import trio

from infinitfs.errors import StorageBusy
from infinitfs.transfer.client import TransferClient, open_transfer
from infinitfs.transfer.protocol import Open
from tests.support.s3_faults import KEYS, record
from tests.support.s3_stub import Refuse, S3Stub, always, healthy

_BEFORE, _STORM, _AFTER = 10.0, 60.0, 15.0
_LATENCY = 0.02


def serve(pipe: Connection) -> None:
    """A service that does as it is told, and then tells when requests came."""
    with S3Stub(latency=_LATENCY, objects={"blocks/a": bytes(1000)}) as stub:
        pipe.send(record(stub).endpoint)
        while (word := pipe.recv()) != "end":
            stub.plan = always(Refuse(503, "SlowDown")) if word == "storm" else healthy
        pipe.send([came for came, _, _ in stub.received])


@pytest.fixture
def service() -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    yield ours
    process.terminate()
    process.join(10)


async def ask(client: TransferClient, answered: list[float]) -> None:
    while True:
        with suppress(StorageBusy):
            await client.get("a")
            answered.append(time.monotonic())


@pytest.mark.skipif(os.environ.get("MOUNT_TESTS") != "long", reason="takes a minute and a half: MOUNT_TESTS=long")
async def test_a_minute_of_refusals(service: Connection) -> None:
    with S3Stub() as unused:
        made = msgspec.structs.replace(record(unused), endpoint=service.recv())
    answered: list[float] = []
    async with open_transfer(Open(record=made, account=KEYS, deadline=30)) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(64):
                    nursery.start_soon(ask, client, answered)
                await trio.sleep(_BEFORE)
                service.send("storm")
                begin = time.monotonic()
                await trio.sleep(_STORM)
                service.send("calm")
                end = time.monotonic()
                await trio.sleep(_AFTER)
                scope.cancel()
    service.send("end")
    arrived: list[float] = service.recv()

    def rate(times: list[float], first: float, last: float) -> float:
        return sum(first <= time < last for time in times) / (last - first)

    before, during = rate(answered, begin - 7, begin), rate(arrived, begin + 1, end)
    print(f"{before:.0f} a second before; {during:.2f} arrived a second while all were refused; then, by the second:")
    print(*(f"{rate(answered, end + second, end + second + 1):.0f}" for second in range(int(_AFTER))))
    assert during < before / 10
    assert rate(answered, end + 5, end + 15) > 0.9 * before
