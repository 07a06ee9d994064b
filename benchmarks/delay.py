"""A line that delays: what a server answers arrives later, and as fast as it was sent.

Above: `storage`, which runs `python -m benchmarks.delay SERVER_PORT PORT SECONDS`. Below: TCP on loopback.
Invariant: bytes keep their order and each waits the same time; nothing else is slowed, so a request costs one delay
however large it is, and any number of requests wait at once.
"""

import sys
from functools import partial

import trio

_CHUNK = 1 << 18  # bytes


async def pass_on(source: trio.abc.ReceiveStream, target: trio.abc.HalfCloseableStream) -> None:
    async for data in source:
        await target.send_all(data)
    await target.send_eof()


async def pass_on_later(source: trio.abc.ReceiveStream, target: trio.abc.HalfCloseableStream, delay: float) -> None:
    async with trio.open_nursery() as nursery:
        sender, receiver = trio.open_memory_channel[tuple[float, bytes]](1 << 20)

        async def deliver() -> None:
            async for due, data in receiver:
                await trio.sleep_until(due)
                await target.send_all(data)
            await target.send_eof()

        nursery.start_soon(deliver)
        async with sender:
            while data := await source.receive_some(_CHUNK):
                await sender.send((trio.current_time() + delay, bytes(data)))


async def _relay(server_port: int, delay: float, client: trio.SocketStream) -> None:
    try:
        server = await trio.open_tcp_stream("127.0.0.1", server_port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, client, server)
            nursery.start_soon(pass_on_later, server, client, delay)
    except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass  # one end is gone, and now the other


async def main(server_port: int, port: int, delay: float) -> None:
    await trio.serve_tcp(partial(_relay, server_port, delay), port, host="127.0.0.1")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
