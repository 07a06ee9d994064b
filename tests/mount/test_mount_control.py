"""Asking a mount that does not answer."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from infinitfs.config.paths import Paths, make_private
from infinitfs.errors import MountSilent, NotFound
from infinitfs.mount.control import MountRecord, ask, mounted

VOLUME = "6472697665".ljust(32, "0")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.from_environment({"INFINITFS_HOME": str(tmp_path)})


@pytest.fixture
def listening(paths: Paths) -> Iterator[socket.socket]:
    """A socket where that of a mount would be."""
    folder = os.open(make_private(paths.runtime), os.O_PATH)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{VOLUME}.sock")  # a socket's address has 107 bytes, a test's folder more
        made.listen(2)
        yield made
        os.close(folder)


def test_one_that_hangs_is_not_waited_for(paths: Paths, listening: socket.socket) -> None:
    with pytest.raises(MountSilent, match="nothing came in 0 s"):
        next(ask(paths, VOLUME, "status", patience=0.05))


def test_one_that_ends_over_the_question(paths: Paths, listening: socket.socket) -> None:
    def end() -> None:
        listening.accept()[0].close()

    ending = Thread(target=end)
    ending.start()
    with pytest.raises(MountSilent, match="it ended meanwhile"):
        next(ask(paths, VOLUME, "status", patience=10))
    ending.join()


def test_none_at_all(paths: Paths) -> None:
    with pytest.raises(NotFound):
        next(ask(paths, VOLUME, "status"))


def test_one_whose_queue_is_full_is_there_and_not_waited_for(paths: Paths, listening: socket.socket) -> None:
    record = MountRecord("drive", VOLUME, "/mnt", os.getpid())
    (paths.runtime / f"{VOLUME}.json").write_bytes(msgspec.json.encode(record))
    with ExitStack() as stack:
        with pytest.raises(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                waiting.connect(listening.getsockname())
        found: list[list[str]] = []
        looking = Thread(target=lambda: found.append(mounted(paths)), daemon=True)
        looking.start()
        looking.join(10)
        assert found == [[VOLUME]]
        with pytest.raises(MountSilent, match="others wait"):
            next(ask(paths, VOLUME, "status", patience=10))
