"""`infinitfs benchmark volume` on a real mount, which it leaves as it was."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import STORAGE, USER, VOLUME, Home, Mounted, needs_fuse, wait_until

pytestmark = needs_fuse

SMALL = ("--size", "4MiB", "--files", "20")


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    folder = tmp_path_factory.mktemp("machine")
    home = Home(folder)
    try:
        home.run("user", "create", USER)
        home.run("storage", "create", "--filesystem", STORAGE, "--path", str(folder / "store"))
        home.run("volume", "create", VOLUME, "--storage", STORAGE)
        yield home.mount(folder / "drive")
    finally:
        home.close()


def packs(mounted: Mounted) -> list[Path]:
    return list((mounted.home.folder / "store").glob("*/packs/*/*"))


def test_what_a_folder_does(mounted: Mounted) -> None:
    before = mounted.status()
    result = json.loads(mounted.home.run("benchmark", "volume", str(mounted.directory), *SMALL, "--json"))
    rows = {row["name"]: row["values"] for row in result["rows"]}
    assert len(rows) == 13
    assert rows["create files of 4 KiB"]["latency"]["count"] == 20
    assert rows["read in sequence, cold"]["rate"]["median"] > 0
    # Cold is cold, and warm is not: the large file was fetched, and random places of it, and the small files.
    after = mounted.status()
    assert after["downloaded_bytes"] - before["downloaded_bytes"] >= 2 * (4 << 20)
    assert list(mounted.directory.iterdir()) == []
    assert packs(mounted) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(mounted: Mounted, number: int) -> None:
    process = mounted.home.start("benchmark", "volume", str(mounted.directory), "--size", "4MiB")
    wait_until(lambda: any(mounted.directory.glob(".benchmark-*/small-*")), "the middle of the benchmark")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, "Interrupted.")
    assert list(mounted.directory.iterdir()) == []
    assert packs(mounted) == []


def test_a_folder_that_is_no_mount_is_refused(mounted: Mounted, tmp_path: Path) -> None:
    assert "not found" in mounted.home.refused(10, "benchmark", "volume", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
