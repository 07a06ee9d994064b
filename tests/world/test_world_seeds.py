"""Worlds, as many as fit in the time: nothing acknowledged is lost in any of them.

WORLD_SECONDS (45 where it is not set) says how long, WORLD_START the first seed; `python -m tests.support.world` goes
on for hours.
"""

import os
import time
from collections import Counter

import pytest

from tests.support.world.run import run

_SECONDS = float(os.environ.get("WORLD_SECONDS", "45"))
_START = int(os.environ.get("WORLD_START", "0"))


def test_nothing_acknowledged_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    played = changes = 0
    crashes: Counter[tuple[str, str]] = Counter()
    while time.monotonic() - began < _SECONDS:
        outcome = run(_START + played)
        assert not outcome.failure, "\n".join([f"seed {outcome.seed}", *outcome.trace[-30:], outcome.failure])
        played += 1
        changes += outcome.changes
        crashes += outcome.crashes
    with capsys.disabled():
        print(f" {played} worlds from seed {_START}, {changes} changes, {crashes.total()} crashes at points ", end="")
    assert played and changes
