"""What a process keeps to itself, seen from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import ctypes, resource, subprocess, sys
from infinitfs.config.secrecy import keep_secrets, no_core
{"both": keep_secrets, "no core": no_core, "nothing": lambda: None}[sys.argv[1]]()
print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
print(subprocess.check_output(["sh", "-c", "ulimit -c"], text=True).strip(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("what", "dumpable"), [("both", "0"), ("no core", "1")])
def test_no_core_and_no_debugger(what: str, dumpable: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline().split() == ["0", dumpable]
        assert process.stdout.readline().split() == ["0"]
        if os.geteuid() == 0 and dumpable == "0":  # what is not dumpable belongs to root in /proc, whoever runs it
            assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0
        process.stdin.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_runs_it_cannot_look_into_it(tmp_path: Path) -> None:
    look = (sys.executable, "-c", "import sys; open(f'/proc/{sys.argv[1]}/mem', 'rb')")
    seen = {}
    for what in ("both", "nothing"):
        with subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=65_534,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        ) as process:
            assert process.stdout is not None and process.stdin is not None
            process.stdout.readline()
            done = subprocess.run([*look, str(process.pid)], user=65_534, capture_output=True, text=True)
            seen[what] = done.returncode
            process.stdin.close()
    assert seen == {"both": 1, "nothing": 0}
