"""Something that answers every HTTP request with an empty 200, over TLS: a region's service, as far as distance counts.

Above: tests of `infinitfs benchmark regions`. Below: a process of its own, so that it shares no interpreter with who
measures; the lines of `benchmarks.regions.line`.
Invariant: it answers at once, keeps connections open, and is gone with its certificate when the block ends.
"""

import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.support.listeners import make_certificate


@dataclass(frozen=True)
class FarService:
    """`certificate` is a file; who trusts it trusts the service at every address it was made for."""

    port: int
    certificate: Path


@contextmanager
def far_service(folder: Path, host: str, addresses: Sequence[str]) -> Iterator[FarService]:
    """Listens at `host`, and may call itself by any of `addresses`."""
    certificate, key = make_certificate(folder, addresses)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.far_service", host, str(certificate), str(key)],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            yield FarService(int(process.stdout.readline()), certificate)
        finally:
            process.kill()


async def _main(host: str, certificate: str, key: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    (listener,) = await trio.open_ssl_over_tcp_listeners(0, context, host=host, https_compatible=True)
    bound = listener.transport_listener
    assert isinstance(bound, trio.SocketListener)
    print(bound.socket.getsockname()[1], flush=True)
    await trio.serve_listeners(_answer, [listener])


async def _answer(stream: "trio.SSLStream[trio.SocketStream]") -> None:
    try:
        data = b""
        while part := await stream.receive_some(4096):
            data += part
            while b"\r\n\r\n" in data:
                _, _, data = data.partition(b"\r\n\r\n")
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], sys.argv[2], sys.argv[3])
