"""Lines to far places: addresses at which this machine finds itself, each a round trip away.

Above: `__main__`, tests of `infinitfs benchmark regions`. Below: a TUN device (Linux,
Documentation/networking/tuntap.rst); making one takes root. `python -m benchmarks.regions.line RATE SECONDS...`.

A packet for a far address waits and comes back with source and destination exchanged. So a connection to
`198.18.0.3:9000` is one from `198.18.0.3` to whatever listens at `198.18.0.1:9000`; both ends are this machine, no
checksum changes, and the kernel's own TCP runs over the line, with its windows, slow start and retransmissions.
Invariant: packets of a line keep their order; each waits for its turn, for as long as its bytes take at the line's
rate (both ways share it), and for half of the round trip. Where the queue is full it is dropped, as a router does it.

198.18.0.0/15 is set aside for benchmarks (RFC 2544), so no route of this machine leads there. Each device has a network
of its own in it, by the number that the kernel gives to it.
"""

import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DEVICE = "infinitfs"

RATE = 25e6
"""Bytes a second: a good line of a house."""

_MASK = "255.255.255.0"
_MTU = 1500
_QUEUE = 1.0  # seconds of bytes that may wait for the line
_ROOT = Path(__file__).resolve().parents[2]
# linux/if_tun.h, linux/sockios.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8914, 0x8916, 0x891C, 0x8922, 0x8943
_IFF_UP = 0x1
_WAITING = 10_000  # packets that may wait for this program
_AT_ONCE = 64  # of them are taken before those whose time has come go on


def missing() -> str:
    """Why there can be no line here, or nothing."""
    if os.geteuid():
        return "making a network device takes root"
    return "" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun here"


@dataclass(frozen=True)
class Lines:
    """`here` is where servers listen, `far` where they are found, a line each."""

    here: str
    far: list[str]


@contextmanager
def lines(round_trips: Sequence[float], rate: float = RATE) -> Iterator[Lines]:
    """For the block, lines with these round trips in seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.regions.line", str(rate), *map(str, round_trips)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        number = process.stdout.readline()
        if not number:
            raise RuntimeError("there is no line")
        yield _addresses(int(number), len(round_trips))
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _addresses(number: int, count: int) -> Lines:
    return Lines(f"198.18.{number}.1", [f"198.18.{number}.{2 + line}" for line in range(count)])


class Line:
    """What happens to a packet, whichever way it goes. A core: times are arguments, in seconds of any one clock."""

    def __init__(self, delay: float, rate: float) -> None:
        self._delay = delay
        self._rate = rate
        self._free_at = 0.0

    def enter(self, now: float, size: int) -> float | None:
        """When a packet of `size` bytes that enters now comes out; None where the queue is full."""
        start = max(now, self._free_at)
        if start - now > _QUEUE:
            return None
        self._free_at = start + size / self._rate
        return self._free_at + self._delay


def open_device() -> tuple[int, int]:
    """A TUN device, up; its descriptor and its number. It goes when that is closed. Raises OSError."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    made = fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", f"{DEVICE}%d".encode(), _IFF_TUN | _IFF_NO_PI))
    name = made[:16]
    number = int(name.rstrip(b"\0").removeprefix(DEVICE.encode()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, address in ((_SIOCSIFADDR, _addresses(number, 0).here), (_SIOCSIFNETMASK, _MASK)):
            packed = struct.pack("16sHH4s16x", name, socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, request, packed)
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name, _MTU))
        fcntl.ioctl(control, _SIOCSIFTXQLEN, struct.pack("16si20x", name, _WAITING))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP))
    return device, number


def run(device: int, round_trips: Mapping[str, float], rate: float, until: int) -> None:
    """Carry packets until the descriptor `until` ends."""
    paths = {socket.inet_aton(address): Line(seconds / 2, rate) for address, seconds in round_trips.items()}
    waiting: list[tuple[float, int, bytes]] = []
    serial = 0
    while True:
        patience = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        ready, _, _ = select.select([device, until], [], [], patience)
        if until in ready:
            return
        for packet in _arrived(device) if device in ready else ():
            source, target = packet[12:16], packet[16:20]
            path = paths.get(target) if packet[0] >> 4 == 4 else None
            due = path.enter(time.monotonic(), len(packet)) if path is not None else None
            if due is not None:
                serial += 1
                heapq.heappush(waiting, (due, serial, packet[:12] + target + source + packet[20:]))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            os.write(device, heapq.heappop(waiting)[2])


def _arrived(device: int) -> Iterator[bytes]:
    with suppress(BlockingIOError):
        for _ in range(_AT_ONCE):
            yield os.read(device, _MTU)


def main(rate: float, *round_trips: float) -> None:
    """Until standard input ends."""
    # What waits for a processor takes longer than it says.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    device, number = open_device()
    print(number, flush=True)
    far = _addresses(number, len(round_trips)).far
    run(device, dict(zip(far, round_trips, strict=True)), rate, sys.stdin.fileno())


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
