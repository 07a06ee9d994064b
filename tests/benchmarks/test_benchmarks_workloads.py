"""Programs as a workload: what fails, and what takes too long, is no figure."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import workloads


def test_a_program_that_succeeds_is_one(tmp_path: Path) -> None:
    seconds, count = workloads.program(tmp_path, "touch", "here")
    assert count == 1 and seconds > 0
    assert (tmp_path / "here").exists()


def test_a_program_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        workloads.program(tmp_path, "false")


def test_a_program_that_hangs_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "LIMIT", 0.01)
    with pytest.raises(subprocess.CalledProcessError):
        workloads.program(tmp_path, "sleep", "60")
