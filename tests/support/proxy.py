"""A TCP proxy that can be told to refuse or to hang: a network that comes and goes.

Above: tests of outages. Below: threads and sockets on loopback; the server behind it never notices.
Invariant: a mode holds for connections that are open as well as for new ones.
"""

import contextlib
import select
import socket
import threading
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Mode(Enum):
    OPEN = "open"
    REFUSE = "refuse"
    """Connections are closed as soon as they come, those that are open at once."""
    HANG = "hang"
    """Connections are accepted and nothing passes."""


class Proxy:
    """Stands before the server at `endpoint` (a URL); `endpoint` of the proxy is its own."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.endpoint = f"{parts.scheme}://127.0.0.1:{self._listening.getsockname()[1]}"
        self._mode = Mode.OPEN
        self._changed = threading.Condition()
        self._ended = False
        self.connections = 0
        """How many connections were let through to the server."""
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self.set_mode(Mode.REFUSE)
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(5)

    def set_mode(self, mode: Mode) -> None:
        with self._changed:
            self._mode = mode
            self._changed.notify_all()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self._mode is Mode.REFUSE:
                client.close()
                continue
            thread = threading.Thread(target=self._relay, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._wait_while_hanging()
            if self._mode is Mode.REFUSE:
                return
            with socket.create_connection(self._server) as server:
                self.connections += 1
                self._pump(client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        ends = {client.fileno(): (client, server), server.fileno(): (server, client)}
        waiting = select.poll()  # select(2) knows no descriptor above 1023
        for descriptor in ends:
            waiting.register(descriptor, select.POLLIN)
        while True:
            ready = waiting.poll(100)
            self._wait_while_hanging()
            if self._mode is Mode.REFUSE:
                return
            for descriptor, _ in ready:
                source, target = ends[descriptor]
                data = source.recv(1 << 16)
                if not data:
                    return
                target.sendall(data)

    def _wait_while_hanging(self) -> None:
        with self._changed:
            while self._mode is Mode.HANG:
                self._changed.wait()
