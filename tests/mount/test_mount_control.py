"""Asking a mount that does not answer."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from infinitfs.config.paths import Paths, make_private
from infinitfs.errors import MountSilent, NotFound
from infinitfs.mount.control import ask

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
        os.close(folder)
        made.listen()
        yield made


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
