"""A minute in which a service refuses every request: few are ours, and soon after its end all is as before. On real
sockets, with the service in a process of its own; MOUNT_TESTS=long, since a minute is a minute.

Either others send it a thousand requests a second throughout, and it is its answers that bound ours; or it is ours
alone, about a thousand a second before and after, which is what two processors are good for. The same on a clock that
jumps, and with refusals that let some through: `tests/storage/test_storage_retry.py`."""

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection

import pytest
import trio

from infinitfs.errors import StorageBusy
from infinitfs.transfer.client import open_transfer
from infinitfs.transfer.protocol import Open
from tests.support.s3_faults import KEYS, record
from tests.support.s3_stub import BUCKET, Refuse, S3Stub, always, healthy

_BEFORE, _STORM, _AFTER = 15.0, 60.0, 15.0
_OURS, _THEIRS = "blocks/a", "blocks/b"


def serve(pipe: Connection, latency: float) -> None:
    """A service that does as it is told, and then tells when requests came and whether they were refused."""
    with S3Stub(latency=latency, objects={_OURS: bytes(1000), _THEIRS: bytes(1000)}) as stub:
        pipe.send(stub.port)
        while (word := pipe.recv()) != "end":
            stub.plan = always(Refuse(503, "SlowDown")) if word == "storm" else healthy
        pipe.send([(came, request.key, fault is not None) for came, request, fault in stub.received])


def crowd(port: int) -> None:
    """Clients that know nothing of patience: 80 connections, 1,000 requests a second in sum, whatever the answers."""
    request = f"GET /{BUCKET}/{_THEIRS} HTTP/1.1\r\nHost: stub\r\n\r\n".encode()

    def ask(number: int) -> None:
        due = time.monotonic() + number / 1000
        with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
            while True:
                time.sleep(max(0.0, due - time.monotonic()))
                due += 0.08
                connection.sendall(request)
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    if line.startswith(b"Content-Length:"):
                        length = int(line.partition(b":")[2])
                answers.read(length)

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(80)]
    for thread in threads:
        thread.start()
    threads[0].join()


@contextmanager
def process(target: Callable[..., None], *arguments: object) -> Iterator[None]:
    made = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    made.start()
    try:
        yield
    finally:
        made.kill()
        made.join()


async def work(opening: Open, answered: list[float]) -> None:
    """A client of 32 programs that never stop."""

    async def ask() -> None:
        while True:
            with suppress(StorageBusy):
                await client.get("a")
                answered.append(time.monotonic())

    async with open_transfer(opening) as client, trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(ask)


@pytest.mark.skipif(os.environ.get("MOUNT_TESTS") != "long", reason="takes three minutes: MOUNT_TESTS=long")
@pytest.mark.parametrize(("clients", "latency", "others"), [(2, 0.05, True), (4, 0.02, False)], ids=["among", "alone"])
async def test_a_minute_of_refusals(clients: int, latency: float, others: bool) -> None:
    answered: list[float] = []
    ours, theirs = multiprocessing.Pipe()
    with ExitStack() as processes:
        processes.enter_context(process(serve, theirs, latency))
        theirs.close()
        port = ours.recv()
        if others:
            processes.enter_context(process(crowd, port))
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(work, Open(record=record(port), account=KEYS, deadline=30), answered)
            await trio.sleep(_BEFORE)
            ours.send("storm")
            begin = time.monotonic()
            await trio.sleep(_STORM)
            ours.send("calm")
            end = time.monotonic()
            await trio.sleep(_AFTER)
            nursery.cancel_scope.cancel()
        ours.send("end")
        arrived: list[tuple[float, str, bool]] = ours.recv()

    def rate(times: list[float], first: float, last: float) -> float:
        return sum(first <= time < last for time in times) / (last - first)

    def back(second: float) -> float:
        """How much of the throughput is there again, on an average of two seconds that end then."""
        return rate(answered, end + second - 2, end + second) / before

    mine = [came for came, key, _ in arrived if key == _OURS]
    refused = rate([came for came, _, fault in arrived if fault], begin + 1, end - 1)
    before, during = rate(answered, begin - 8, begin), rate(mine, begin + 1, end)
    soon = next((tenth / 10 for tenth in range(20, 150) if back(tenth / 10) >= 0.9), None)
    print(f"{before:.0f} of ours a second before; in the storm {refused:.0f} are refused a second, {during:.1f} ours;")
    print(f"90 % again on the average of two seconds that end {soon} s after it; by the second:")
    print(*(f"{rate(answered, end + second, end + second + 1):.0f}" for second in range(int(_AFTER))))
    assert refused > 900 or not others
    assert during < before / 10
    assert soon is not None and soon <= 10
    assert rate(answered, end + 5, end + 15) > 0.9 * before
