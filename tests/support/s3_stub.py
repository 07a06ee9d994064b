"""A small S3 on a loopback socket that fails as told.

Above: tests of what a service, a network or a clock can do to us. Below: a thread for each connection, objects in
memory. Keys of any kind are taken and signatures not looked at; checksums of a PUT are, and `If-None-Match`.
Invariant: what goes wrong depends on `plan` alone, which is asked once for every request, after all of it was read.
"""

import contextlib
import socket
import struct
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape
from zlib import crc32

BUCKET = "bucket"
_PAGE = 1000


@dataclass(frozen=True)
class Request:
    """`key` is that in the bucket; `attempt` counts, from 0, equal requests of before: method, key and range."""

    method: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    attempt: int

    @property
    def kind(self) -> str:
        """As the ledger has it."""
        if self.method == "GET" and not self.key:
            return "list"
        return {"PUT": "put", "GET": "get", "HEAD": "get", "DELETE": "delete"}[self.method]


@dataclass(frozen=True)
class Refuse:
    """Answered by an error; the body is XML only where `code` is given."""

    status: int
    code: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Reset:
    """The connection is reset: instead of an answer, or in the `middle` of its body; `applied` or not."""

    applied: bool = False
    middle: bool = False


@dataclass(frozen=True)
class Hang:
    """No answer and no end of the connection, for `seconds` or until the stub is closed."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """The answer's body ends half-way, in good order, though more was announced."""


@dataclass(frozen=True)
class Flip:
    """A bit of the body is another one: of the request's before it is looked at, or of the answer's."""


@dataclass(frozen=True)
class Page:
    """What something else answers in the service's place: 200 and a page, whatever was asked. Nothing is applied."""

    body: bytes = b"<html>Log in</html>"


Fault = Refuse | Page | Reset | Hang | Cut | Flip
Plan = Callable[[Request], Fault | None]


def healthy(request: Request) -> Fault | None:
    return None


def at_first(*faults: Fault, of: Callable[[Request], bool] = lambda request: True) -> Plan:
    """Each request meets every fault once, and is then carried out."""
    return lambda request: faults[request.attempt] if request.attempt < len(faults) and of(request) else None


def always(fault: Fault, of: Callable[[Request], bool] = lambda request: True) -> Plan:
    return lambda request: fault if of(request) else None


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None


@dataclass(eq=False)
class S3Stub:
    """`plan` may be replaced at any time. `objects` by key; `received` says of every request when it came and which
    fault it met; `busiest` how many were at work at once."""

    plan: Plan = healthy
    objects: dict[str, bytes] = field(default_factory=dict)
    received: list[tuple[float, Request, Fault | None]] = field(default_factory=list)
    latency: float = 0.0
    """Seconds that every answer takes."""
    busiest: int = 0

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listening.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._attempts: Counter[tuple[str, str, str]] = Counter()
        self._connections: set[socket.socket] = set()
        self._ended = threading.Event()
        self._at_work = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End every connection."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def start(self, plan: Plan) -> None:
        """As new, but for the connections."""
        with self._lock:
            self.objects.clear()
            self.received.clear()
            self._attempts.clear()
        self.plan = plan

    def counts(self) -> Counter[str]:
        """How many requests came, by the ledger's kinds."""
        return Counter(request.kind for _, request, _ in self.received)

    def met(self) -> int:
        """How many requests met a fault."""
        return sum(fault is not None for _, _, fault in self.received)

    # --- connections ---

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
        try:
            with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError, ValueError):
                while (request := self._read(stream)) is not None:
                    if not self._handle(connection, request):
                        return
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _read(self, stream: BinaryIO) -> Request | None:
        line = stream.readline().decode()
        if not line:
            return None
        method, target, _ = line.split(" ")
        headers = {}
        while (line := stream.readline().decode().rstrip("\r\n")) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        with self._lock:
            same = (method, key or str(sorted(query.items())), headers.get("range", ""))
            attempt = self._attempts[same]
            self._attempts[same] += 1
        return Request(method, key, query, headers, body, attempt)

    def _handle(self, connection: socket.socket, request: Request) -> bool:
        """Answer one request; False where the connection has come to its end."""
        fault = self.plan(request)
        self.received.append((time.monotonic(), request, fault))
        with self._lock:
            self._at_work += 1
            self.busiest = max(self.busiest, self._at_work)
        if self.latency:
            time.sleep(self.latency)
        with self._lock:
            self._at_work -= 1
        match fault:
            case Hang():
                self._ended.wait(fault.seconds)
                return False
            case Refuse():
                self._send(connection, request, _error(fault.status, fault.code, fault.headers))
                return True
            case Page():
                self._send(connection, request, _Answer(200, fault.body))
                return True
            case Reset(middle=False):
                if fault.applied:
                    self._apply(request)
                _reset(connection)
                return False
            case Flip() if request.method == "PUT":
                request = Request(**(vars(request) | {"body": _flipped(request.body)}))
        answer = self._apply(request)
        if isinstance(fault, Flip) and request.method == "GET":
            answer = _Answer(answer.status, _flipped(answer.body), answer.headers)
        half = isinstance(fault, Cut | Reset) and request.method == "GET"
        self._send(connection, request, answer, half=half)
        if isinstance(fault, Reset):
            _reset(connection)
        return fault is None

    def _send(self, connection: socket.socket, request: Request, answer: _Answer, *, half: bool = False) -> None:
        length = len(answer.body) if answer.length is None else answer.length
        lines = [f"HTTP/1.1 {answer.status} Because", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        body = b"" if request.method == "HEAD" else answer.body
        head = "\r\n".join([*lines, "", ""]).encode()
        connection.sendall(head + (body[: len(body) // 2] if half else body))

    # --- what S3 does ---

    def _apply(self, request: Request) -> _Answer:
        if not request.key:
            return self._of_bucket(request)
        with self._lock:
            data = self.objects.get(request.key)
            match request.method:
                case "PUT":
                    return self._put(request, data)
                case "DELETE":
                    self.objects.pop(request.key, None)
                    return _Answer(204)
        if data is None:
            return _error(404, "NoSuchKey")
        return _range(request, data)

    def _put(self, request: Request, there: bytes | None) -> _Answer:
        given = request.headers.get("x-amz-checksum-crc32")
        if given is not None and given != b64encode(crc32(request.body).to_bytes(4, "big")).decode():
            return _error(400, "BadDigest")
        if there is not None and request.headers.get("if-none-match") == "*":
            return _error(412, "PreconditionFailed")
        self.objects[request.key] = request.body
        return _Answer(200, headers=(_tag(request.body),))

    def _of_bucket(self, request: Request) -> _Answer:
        if request.method == "HEAD":
            return _Answer(200, headers=(("x-amz-bucket-region", "us-east-1"),))
        if "location" in request.query:
            return _Answer(200, b"<LocationConstraint></LocationConstraint>")
        if "list-type" not in request.query:
            return _error(404, "NoSuchConfiguration")
        after = request.query.get("continuation-token", "")
        with self._lock:
            keys = sorted(key for key in self.objects if key.startswith(request.query.get("prefix", "")))
            rest = [key for key in keys if key > after]
            page = rest[: min(_PAGE, int(request.query.get("max-keys", _PAGE)))]
            entries = [
                f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[key])}</Size></Contents>" for key in page
            ]
        more = len(rest) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        listed = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(entries)}"
        return _Answer(200, f"<ListBucketResult>{listed}</ListBucketResult>".encode())


def _range(request: Request, data: bytes) -> _Answer:
    wanted = request.headers.get("range", "").removeprefix("bytes=")
    if request.method == "HEAD" or not wanted:
        return _Answer(200, data, (_tag(data),))
    first, _, last = wanted.partition("-")
    start, end = int(first), min(int(last) + 1, len(data)) if last else len(data)
    if start >= len(data):
        return _error(416, "InvalidRange")
    return _Answer(206, data[start:end], (_tag(data), ("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")))


def _tag(data: bytes) -> tuple[str, str]:
    return "ETag", f'"{crc32(data):08x}"'


def _error(status: int, code: str, headers: tuple[tuple[str, str], ...] = ()) -> _Answer:
    body = f"<Error><Code>{code}</Code><Message>As planned.</Message></Error>" if code else ""
    return _Answer(status, body.encode(), headers)


def _flipped(data: bytes) -> bytes:
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _reset(connection: socket.socket) -> None:
    """RST instead of FIN (socket(7), SO_LINGER)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
