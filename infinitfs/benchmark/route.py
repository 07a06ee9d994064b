"""The way to a place that speaks HTTP: name, connection, encryption, one request on a connection that is open.

Above: `regions`. Below: sockets. Nothing is authenticated and nothing is asked of the service but a HEAD of its root,
to which any status is an answer.
Invariant: a sample is what one round trip of its kind took when no packet of it had to be sent again: who waits for a
retransmission measures the kernel's timer. Such a sample is a lost one.
"""

import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio

from infinitfs import __version__
from infinitfs.benchmark.summary import Summary, summarize

TIMEOUT = 3.0  # seconds after which a sample counts as lost
PHASES = ("dns", "connect", "tls", "request")

_LONGEST_ANSWER = 1 << 16  # bytes of headers
# struct tcp_info of linux/tcp.h: eight bytes, then 32-bit fields, of which tcpi_total_retrans is number 23.
_RETRANSMITS = slice(8 + 4 * 23, 8 + 4 * 24)

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass
class Samples:
    """Seconds each, in the order they were taken."""

    seconds: list[float] = field(default_factory=list)
    lost: int = 0

    def summary(self) -> Summary | None:
        return summarize(self.seconds, lost=self.lost) if self.seconds else None


class Route:
    """The way to `url`. Each phase is sampled by the method of its name, in the order of PHASES; an error of one ends
    that sample only, and is the last one's in `error`."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._context = context if parts.scheme == "https" else None
        self._request = (
            f"HEAD {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: infinitfs/{__version__}\r\n\r\n"
        ).encode()
        self._address: tuple[socket.AddressFamily, tuple[str, int]] | None = None
        self._fresh: trio.SocketStream | None = None
        self._open: Stream | None = None
        self.samples = {phase: Samples() for phase in PHASES}
        self.error = ""

    @property
    def answers(self) -> bool:
        """Whether anything was heard from there yet."""
        return bool(self.samples["connect"].seconds)

    async def dns(self) -> None:
        async def resolve() -> None:
            found = await trio.socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            family, _, _, _, address = found[0]
            self._address = family, (str(address[0]), self._port)

        await self._sample("dns", resolve)

    async def connect(self) -> None:
        if self._address is None:
            return
        family, address = self._address
        plain = trio.socket.socket(family, socket.SOCK_STREAM)
        if await self._sample("connect", lambda: plain.connect(address), plain):
            self._fresh = trio.SocketStream(plain)
        else:
            plain.close()

    async def tls(self) -> None:
        """On the connection just made; the first one stays open for requests."""
        plain, self._fresh = self._fresh, None
        if plain is None:
            return
        stream: Stream | None = plain
        if self._context is not None:
            encrypted = trio.SSLStream(plain, self._context, server_hostname=self._host, https_compatible=True)
            stream = encrypted if await self._sample("tls", encrypted.do_handshake, plain.socket) else None
        if stream is not None and self._open is None:
            self._open = stream
        else:
            await trio.aclose_forcefully(plain)

    async def request(self) -> None:
        """On the open connection. Where an answer ends it, the next fresh one takes its place."""
        stream = self._open
        if stream is None:
            self.samples["request"].lost += bool(self.error)
            return
        plain = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        stays = False

        async def ask() -> None:
            nonlocal stays
            await stream.send_all(self._request)
            stays = await _answer(stream)

        await self._sample("request", ask, plain.socket)
        if not stays:
            self._open = None
            await trio.aclose_forcefully(plain)

    async def aclose(self) -> None:
        for stream in (self._fresh, self._open):
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _sample(
        self, phase: str, step: Callable[[], Awaitable[object]], plain: "trio.socket.SocketType | None" = None
    ) -> bool:
        """Time a step. Returns whether it came to its end, in time or not."""
        samples = self.samples[phase]
        before = _retransmits(plain)
        began = trio.current_time()
        try:
            with trio.fail_after(TIMEOUT):
                await step()
        except trio.TooSlowError:
            self.error = f"no answer in {TIMEOUT:g} s"
        except (OSError, ssl.SSLError, trio.BrokenResourceError, ValueError) as error:
            self.error = _reason(error)
        else:
            seconds = trio.current_time() - began
            if _retransmits(plain) == before:
                samples.seconds.append(seconds)
            else:
                samples.lost += 1
            return True
        samples.lost += 1
        return False


async def _answer(stream: Stream) -> bool:
    """Read the answer to a HEAD, which has no body. Returns whether the connection stays. Raises ValueError."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = await stream.receive_some(4096)
        if not part or len(data) > _LONGEST_ANSWER:
            raise ValueError("the answer ended in its middle" if data else "the connection was closed")
        data += part
    head = data.partition(b"\r\n\r\n")[0].lower()
    if not head.startswith(b"http/1."):
        raise ValueError("what answers does not speak HTTP")
    return head.startswith(b"http/1.1") and b"\r\nconnection: close" not in head


def _retransmits(plain: "trio.socket.SocketType | None") -> int:
    """How many packets of a connection were sent again."""
    if plain is None:
        return 0
    try:
        told = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMITS.stop)
    except OSError:
        return 0
    return int.from_bytes(told[_RETRANSMITS], sys.byteorder)


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, socket.gaierror):
        return "no such host"
    if isinstance(cause, ssl.SSLError):
        return "what answers does not speak TLS"
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno).lower()
    return str(cause) or type(cause).__name__
