"""kill -9 at random moments: whatever a program was told is durable is there after the next mount.

Rounds go on with the same volume. `KILL_ROUNDS` sets their number (10), `KILL_FILES` how many files the volume holds
beside (0): the time to be ready again may not depend on it.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.crash_writer import check
from tests.support.mounted import Home, Mounted, needs_fuse, wait_until

pytestmark = needs_fuse

WRITERS = 3
_ROOT = Path(__file__).resolve().parents[2]
_NOISE = r"transfer process|cannot be reached|Transport endpoint|The transfer"


def start_writers(folder: Path, notes: Path, seed: int) -> "list[subprocess.Popen[bytes]]":
    writers = []
    for number in range(WRITERS):
        (folder / f"writer{number}").mkdir()
        command = [sys.executable, "-m", "tests.support.crash_writer", str(folder / f"writer{number}")]
        command += [str(notes / f"{folder.name}-{number}"), str(seed + number)]
        writers.append(subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL))
    return writers


def victims(mounted: Mounted, what: str) -> list[int]:
    transfer = mounted.transfer()
    return {
        "filesystem": [mounted.pid],
        "transfer": [transfer] if transfer else [],
        "both": [mounted.pid, *([transfer] if transfer else [])],
    }[what]


def test_whatever_was_acknowledged_survives_kills(home: Home, drive: Path, tmp_path: Path) -> None:
    home.expect(_NOISE)
    rounds = int(os.environ.get("KILL_ROUNDS", "10"))
    notes = tmp_path / "notes"
    notes.mkdir()
    mounted = home.mount(drive)
    for number in range(int(os.environ.get("KILL_FILES", "0"))):
        folder = drive / "many" / str(number // 1000)
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / str(number)).touch()
    chance, slowest, acknowledged = random.Random(rounds), 0.0, 0
    for turn in range(rounds):
        folder = drive / f"round{turn}"
        folder.mkdir()
        what = ["filesystem", "transfer", "both"][turn % 3]
        writers = start_writers(folder, notes, turn * 100)
        wait_until((notes / f"round{turn}-0").exists, "the first note")
        time.sleep(chance.uniform(0.1, 2.0))
        for pid in victims(mounted, what):
            os.kill(pid, signal.SIGKILL)
        if what == "transfer":
            time.sleep(0.5)
            assert not mounted.over, "the mount outlives its transfer process"
            for writer in writers:
                assert writer.poll() is None, "no writer met an error"
            mounted.kill()
        mounted.wait()
        for writer in writers:
            writer.wait(30)
        started = time.monotonic()
        mounted = home.mount(drive)
        slowest = max(slowest, time.monotonic() - started)
        for earlier in range(max(0, turn - 2), turn + 1):
            for number in range(WRITERS):
                outcome = check(
                    drive / f"round{earlier}" / f"writer{number}",
                    notes / f"round{earlier}-{number}",
                    earlier * 100 + number,
                )
                assert not outcome.problems, f"round {earlier}, writer {number}: {outcome.problems}"
                acknowledged += outcome.acknowledged if earlier == turn else 0
    mounted.unmount()
    print(f"{rounds} rounds, {acknowledged} acknowledged operations, slowest mount {slowest:.2f} s")
    assert acknowledged > rounds * WRITERS


@pytest.mark.parametrize("mode", ["local", "remote"])
def test_a_killed_machine_loses_nothing_that_the_storage_acknowledged(
    mode: str, home: Home, drive: Path, tmp_path: Path, new_home: Callable[[str], Home]
) -> None:
    """With --fsync remote the storage and the key are enough; with local they hold a consistent earlier state."""
    home.expect(_NOISE)
    notes = tmp_path / "notes"
    notes.mkdir()
    mounted = home.mount(drive, "--fsync", mode)
    writers = start_writers_in(drive, notes)
    time.sleep(4)
    mounted.kill()
    for writer in writers:
        writer.wait(30)
    mounted.clear()
    other = new_home("other")
    shutil.copytree(home.root / "config", other.root / "config")
    second = other.mount(tmp_path / "elsewhere", "--take-over")
    if mode == "remote":
        for number in range(WRITERS):
            outcome = check(tmp_path / "elsewhere" / "all" / f"writer{number}", notes / f"all-{number}", number)
            assert outcome.acknowledged
            assert not outcome.problems, outcome.problems
    for path in (tmp_path / "elsewhere").rglob("*"):
        if path.is_file():
            path.read_bytes()
    second.unmount()


def start_writers_in(drive: Path, notes: Path) -> "list[subprocess.Popen[bytes]]":
    (drive / "all").mkdir()
    return start_writers(drive / "all", notes, 0)
