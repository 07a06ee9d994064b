"""What systemd is told, on a socket of the test's own and a clock that jumps."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from infinitfs.mount.notify import BEAT, EXTENSION, Notifier, Phase, Progress
from infinitfs.transfer.background import background

EXTENDED = f"EXTEND_TIMEOUT_USEC={EXTENSION * 10**6}"


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))
        self.socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": address}

    def heard(self) -> list[list[str]]:
        """The lines of every message that came since."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode().splitlines())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    with made.socket:
        yield made


class Mount:
    """What a notifier looks at."""

    def __init__(self) -> None:
        self.progress = Progress(backlog=0, uploaded=0, position=1, trouble=None)

    def look(self) -> Progress:
        return self.progress

    def becomes(self, **changes: object) -> None:
        self.progress = self.progress._replace(**changes)  # type: ignore[arg-type]


async def test_a_life(manager: Manager, autojump_clock: MockClock) -> None:
    mount, notifier = Mount(), Notifier(manager.environ)
    async with background() as nursery:
        nursery.start_soon(notifier.run)
        await trio.sleep(BEAT * 1.5)
        opening = [EXTENDED, "STATUS=Opening the volume"]
        assert manager.heard() == [opening, [EXTENDED]], "opening gives up by itself, so it has all the time it needs"
        notifier.look = mount.look
        await notifier.enter(Phase.MOUNTED)
        assert manager.heard() == [["READY=1", "STATUS=Mounted; everything is stored"]]
        await trio.sleep(3 * BEAT)
        assert manager.heard() == [], "what is known is not told again"
        mount.becomes(backlog=1_540_000_000, trouble="cannot be\nreached")
        await trio.sleep(BEAT)
        assert manager.heard() == [["STATUS=Mounted; 1.54 GB wait for the storage (cannot be reached)"]]
        await notifier.enter(Phase.UNMOUNTED)
        assert manager.heard() == [["STATUS=Unmounted; 1.54 GB wait for the storage (cannot be reached)"]]
        await notifier.enter(Phase.STOPPING)
        assert manager.heard() == [
            ["STOPPING=1", EXTENDED, "STATUS=Stopping; 1.54 GB wait for the storage (cannot be reached)"]
        ]
        await notifier.enter(Phase.STOPPING)
        assert manager.heard() == [], "it stops once"


async def test_a_stop_has_more_time_as_long_as_anything_moves(manager: Manager, autojump_clock: MockClock) -> None:
    mount, notifier = Mount(), Notifier(manager.environ)
    notifier.look = mount.look
    await notifier.enter(Phase.MOUNTED)
    await notifier.enter(Phase.STOPPING)
    manager.heard()
    async with background() as nursery:
        nursery.start_soon(notifier.run)
        await trio.sleep(BEAT / 2)
        for change in ({"uploaded": 5}, {"backlog": 7}, {"position": 2}):
            manager.heard()
            mount.becomes(**change)
            await trio.sleep(BEAT)
            (lines,) = manager.heard()
            assert EXTENDED in lines, change
        await trio.sleep(5 * BEAT)
        assert manager.heard() == []


async def test_a_reload_is_seen(manager: Manager) -> None:
    notifier = Notifier(manager.environ)
    await notifier.reloading(done=False)
    assert manager.heard() == [], "not before it is ready"
    notifier.look = Mount().look
    await notifier.enter(Phase.MOUNTED)
    manager.heard()
    await notifier.reloading(done=False)
    await notifier.reloading(done=True)
    assert manager.heard() == [["RELOADING=1"], ["READY=1"]]


async def test_the_watchdog_hears_of_a_loop_that_runs(manager: Manager, autojump_clock: MockClock) -> None:
    mine = {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
    for environ, pings in ((mine, 10), (mine | {"WATCHDOG_PID": "1"}, 0), (mine | {"WATCHDOG_USEC": "x"}, 0), ({}, 0)):
        notifier = Notifier(manager.environ | environ)
        notifier.look = Mount().look
        await notifier.enter(Phase.MOUNTED)
        manager.heard()
        with trio.move_on_after(9.5):
            await notifier.run()
        assert sum(lines == ["WATCHDOG=1"] for lines in manager.heard()) == pings, environ


def test_a_blocked_loop_is_silent(manager: Manager) -> None:
    notifier = Notifier(manager.environ | {"WATCHDOG_USEC": "100000"})
    blocked, go_on = threading.Event(), threading.Event()

    async def main() -> None:
        async with background() as nursery:
            nursery.start_soon(notifier.run)
            await trio.sleep(0.1)
            blocked.set()
            go_on.wait(10)  # the defect that is looked for
            await trio.sleep(0.1)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert blocked.wait(10) and manager.heard()
    manager.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        manager.socket.recv(4096)
    go_on.set()
    manager.socket.settimeout(10)
    assert b"WATCHDOG=1" in manager.socket.recv(4096)
    thread.join()


async def test_an_abstract_socket(tmp_path: Path) -> None:
    manager = Manager(f"@infinitfs-test-{os.getpid()}")
    with manager.socket:
        notifier = Notifier(manager.environ)
        notifier.look = Mount().look
        await notifier.enter(Phase.MOUNTED)
        assert manager.heard()[0][0] == "READY=1"


async def test_nobody_who_listens(tmp_path: Path) -> None:
    await Notifier({}).run()  # returns
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "missing")})
    await notifier.enter(Phase.MOUNTED)


async def test_a_manager_that_reads_nothing_holds_nothing_up(manager: Manager, autojump_clock: MockClock) -> None:
    full = pytest.raises(BlockingIOError)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender, full:
        while True:
            sender.sendto(b"X=1", manager.environ["NOTIFY_SOCKET"])
    with trio.fail_after(60):
        await Notifier(manager.environ).enter(Phase.STOPPING)
