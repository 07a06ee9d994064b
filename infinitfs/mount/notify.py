"""What systemd is told of a mount: that it is ready, how it is, that it stops, that it lives.

Source: sd_notify(3), sd_watchdog_enabled(3) and "sd_notify()'s protocol" there: lines of NAME=VALUE in one datagram to
the socket in $NOTIFY_SOCKET. Above: `serving`, which runs one beside the mount. Below: that socket.
Invariant: every word comes from the loop that serves the mount, so one that is blocked is silent, and systemd notices.
Without a socket, or when nobody reads it, the mount is the same.
"""

import logging
import os
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import NamedTuple

import trio

from infinitfs.config.sizes import format_size

_log = logging.getLogger(__name__)

BEAT = 2.0  # seconds between two looks at the mount
_PATIENCE = 10.0  # seconds for one message
EXTENSION = 180  # seconds more for what is under way: one pack on a slow line moves no figure for as long


class Phase(Enum):
    OPENING = auto()
    MOUNTED = auto()
    UNMOUNTED = auto()
    """By a user: what waits is still sent, for as long as it takes."""
    STOPPING = auto()


class Progress(NamedTuple):
    """How a mount is: sizes in bytes, `position` that of the journal, `trouble` what keeps the storage from taking
    more."""

    backlog: int
    uploaded: int
    position: int
    trouble: str | None


class Notifier:
    """Tells systemd about one mount. `look` is asked for its progress, from the moment that a volume is open."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog(environ)
        self._phase = Phase.OPENING
        self._told: str | None = None
        self._moved: tuple[int, ...] | None = None
        self.look: Callable[[], Progress] | None = None

    async def run(self) -> None:
        """Tell, again and again, until cancelled; returns where nobody asked to be told."""
        if not self._address:
            return
        period = min(BEAT, self._watchdog / 4) if self._watchdog else BEAT
        while True:
            await self._send(self._lines())
            await trio.sleep(period)

    async def enter(self, phase: Phase) -> None:
        """Tell of a new phase at once."""
        if phase is self._phase or self._phase is Phase.STOPPING:
            return
        self._phase = phase
        news = {Phase.MOUNTED: ["READY=1"], Phase.STOPPING: ["STOPPING=1"]}.get(phase, [])
        await self._send([*news, *self._lines()])

    async def reloading(self, *, done: bool) -> None:
        """Around a reload: `systemctl` shows it."""
        if self._phase is Phase.MOUNTED:
            await self._send(["READY=1" if done else "RELOADING=1"])

    def _lines(self) -> list[str]:
        progress = self.look() if self.look is not None else None
        lines = ["WATCHDOG=1"] if self._watchdog else []
        if self._extends(progress):
            lines.append(f"EXTEND_TIMEOUT_USEC={EXTENSION * 10**6}")
        words = _words(self._phase, progress)
        if words != self._told:
            self._told = words
            lines.append(f"STATUS={words}")
        return lines

    def _extends(self, progress: Progress | None) -> bool:
        """Whether more time is needed: opening a volume gives up by itself, an end takes as long as something moves."""
        if self._phase is Phase.OPENING:
            return True
        if self._phase is not Phase.STOPPING or progress is None:
            return False
        before, self._moved = self._moved, (progress.backlog, progress.uploaded, progress.position)
        return self._moved != before

    async def _send(self, lines: list[str]) -> None:
        if not self._address or not lines:
            return
        with (
            trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM) as connection,
            trio.move_on_after(_PATIENCE),  # it waits where the socket holds what nobody has read
        ):
            try:
                await connection.connect(_name(self._address))  # else it is ready to send whoever does not read
                await connection.send("\n".join(lines).encode())
            except OSError as error:
                _log.debug("The service manager cannot be told: %s", error)


def _name(address: str) -> str:
    """An abstract socket's name is written with @ for the byte 0 (unix(7))."""
    return f"\0{address[1:]}" if address.startswith("@") else address


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Seconds within which systemd wants to hear of this process, None where it does not."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environ["WATCHDOG_USEC"]) / 10**6 or None
    except (KeyError, ValueError):
        return None


def _words(phase: Phase, progress: Progress | None) -> str:
    """The line of `systemctl status`."""
    if progress is None:
        return "Opening the volume"
    mounted = {Phase.OPENING: "Mounting", Phase.MOUNTED: "Mounted", Phase.UNMOUNTED: "Unmounted"}.get(phase, "Stopping")
    waiting = f"{format_size(progress.backlog)} wait for the storage" if progress.backlog else "everything is stored"
    trouble = f" ({' '.join(progress.trouble.split())})" if progress.trouble else ""
    return f"{mounted}; {waiting}{trouble}"
