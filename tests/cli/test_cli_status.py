"""`infinitfs status`: a table, all about one mount, metrics, and the live view."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console as RichConsole

from infinitfs.cli.status import age, duration, operations
from infinitfs.cli.watch import view, watch
from infinitfs.errors import MountSilent, NotFound
from tests.support.console import Console
from tests.support.mounts import Mounts, Run, status_of

VOLUME = "6472697665".ljust(32, "0")


@pytest.fixture
def drive(run: Run, mounts: Mounts, tmp_path: Path) -> Path:
    """A folder at which a volume is mounted."""
    mounts.mountpoints[VOLUME] = str(tmp_path / "d")
    return tmp_path / "d"


def test_nothing_is_mounted(run: Run, mounts: Mounts) -> None:
    nothing = run("status")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "Nothing is mounted.\n")
    assert run("status", "--json").stdout == ""
    assert run("status", "--prometheus").stdout.splitlines()[-1] == "infinitfs_mounts 0"


def test_all_mounts_are_a_table(run: Run, drive: Path) -> None:
    heading, row = run("status").stdout.splitlines()
    assert heading.split()[:3] == ["VOLUME", "MOUNTED", "AT"]
    assert row.startswith(f"drive   {drive}  ready  1.50 MB, 12 s left  never   120 KB/s  0 B/s  0")


def test_one_mount_has_everything(run: Run, drive: Path) -> None:
    shown = run("status", str(drive)).stdout
    for line in (
        "waiting     1.50 MB, 12 s left",
        "stored      nothing yet",
        "up          120 KB/s, 4.00 KB in all",
        "cache       10.0 MB of 20.0 MB, 75% hits",
        "requests    12 put (2 failed), 3 get",
        "cost        about $0.0125",
        "version     0.1.0",
        "lookup     3,000  20 us   4.0 ms   0",
        "read       200    2.5 ms  250 ms   1",
    ):
        assert f"{line}\n" in shown
    assert run("status", str(drive / "elsewhere")).exit_code == 10


def test_json_is_what_the_mount_said(run: Run, drive: Path) -> None:
    for arguments in ([], [str(drive)]):
        assert json.loads(run("status", *arguments, "--json").stdout) == status_of(VOLUME, str(drive))


def test_metrics_are_read_by_prometheus(run: Run, drive: Path) -> None:
    for arguments in ([], [str(drive)]):
        text = run("status", *arguments, "--prometheus").stdout
        families = {family.name: family for family in text_string_to_metric_families(text)}
        (sample,) = families["infinitfs_backlog_bytes"].samples
        assert (sample.value, sample.labels) == (1_500_000, {"volume": "drive", "mountpoint": str(drive)})


def test_a_mount_of_an_older_version_tells_less(
    run: Run, mounts: Mounts, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = status_of(VOLUME, str(drive))
    newer = ("version", "upload_rate", "download_rate", "drain_seconds", "operations", "requests", "cost")
    for field in (*newer, "restarts", "mounted_since"):
        del older[field]
    monkeypatch.setattr(sys.modules["infinitfs.mount.control"], "ask", lambda *_, **__: iter([older]))
    for arguments in ([], [str(drive)], ["--prometheus"]):
        assert run("status", *arguments).exit_code == 0
    assert shown_at(80, [older], {})[0].startswith("drive ")


def test_a_mount_that_ends_meanwhile_is_none(
    run: Run, mounts: Mounts, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        raise NotFound(what="The mount", remedy="look again")

    monkeypatch.setattr(sys.modules["infinitfs.mount.control"], "ask", gone)
    assert run("status").stderr == "Nothing is mounted.\n"


@pytest.mark.parametrize("arguments", [["--prometheus", "--json"], ["--prometheus", "--watch"], ["--watch"]])
def test_what_does_not_go_together(run: Run, mounts: Mounts, arguments: list[str]) -> None:
    assert run("status", *arguments).exit_code == 2


# --- the live view ---


def shown_at(width: int, states: list[dict[str, Any]], before: dict[str, Any], passed: float = 2.0) -> list[str]:
    console = RichConsole(width=width, file=StringIO(), record=True)
    console.print(view(states, before, passed))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_view_fits_and_shows_rates() -> None:
    then = status_of(VOLUME, "/home/alice/drive")
    now = status_of(VOLUME, "/home/alice/drive")
    now["operations"]["read"] = {"count": 240, "seconds": 0.9, "slowest": 0.25, "failures": 1}
    lines = shown_at(80, [now], {VOLUME: then})
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("drive  /home/alice/drive") and "ready, mounted" in lines[0]
    (read,) = [line for line in lines if line.startswith("read ")]
    assert read.split() == ["read", "20", "10", "ms", "3.8", "ms", "250", "ms", "240", "1"]
    (lookup,) = [line for line in lines if line.startswith("lookup ")]
    assert lookup.split() == ["lookup", "20", "us", "4.0", "ms", "3,000"]


def test_the_view_fits_whatever_is_long() -> None:
    state = status_of(VOLUME, "/home/alice/" + "a-very-long-name/" * 8)
    state["trouble"] = "https://s3.example.com cannot be reached (Connection refused): " + "check the network " * 9
    state["state"] = "offline"
    for width in (80, 60):
        lines = shown_at(width, [state, state], {})
        assert max(map(len, lines)) <= width
        assert any(line.startswith("trouble") for line in lines)


def test_the_view_at_a_terminal_ends_with_an_interrupt(environ: dict[str, str], tmp_path: Path) -> None:
    program = (
        "import select, time\n"
        "import infinitfs.mount.control as control\n"
        "from tests.support.mounts import status_of\n"
        f"control.mounted = lambda paths: ['{VOLUME}']\n"
        f"control.ask = lambda *_, **__: iter([status_of('{VOLUME}', '/home/alice/drive')])\n"
        "def pause(_):\n"
        "    while not select.select([0], [], [], 0.1)[0]:\n"  # an interrupt just before a wait is seen after it
        "        pass\n"
        "    input()\n"
        "time.sleep = pause\n"
        "from infinitfs.cli.main import run; run()\n"
    )
    environ.update(TERM="xterm", COLUMNS="80", LINES="24")
    with Console(["-c", program, "status", "--watch"], environ) as console:
        console.expect("\x1b[?1049h")
        console.expect("/home/alice/drive")
        console.type("\n")
        console.expect("/home/alice/drive")
        console.type("\x03")
        assert console.exit_code() == 0
        assert "\x1b[?1049l" in console.seen


def test_watch_ends_with_what_it_watches() -> None:
    def looks() -> Iterator[list[dict[str, Any]]]:
        yield []
        raise NotFound(what="A mount at /d", remedy="look again")

    with pytest.raises(NotFound):
        watch(looks())


# --- words ---


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0000021, "2.1 us"),
        (0.000034, "34 us"),
        (0.0034, "3.4 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3 * 3600 + 59, "3 h 0 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ages() -> None:
    assert age(None) == "never"
    assert age((datetime.now(UTC) - timedelta(minutes=5)).isoformat()).startswith("5 min ")
    assert age((datetime.now(UTC) + timedelta(hours=1)).isoformat()) == "0 s ago"


def test_the_most_frequent_operation_comes_first() -> None:
    assert [row["operation"] for row in operations(status_of(VOLUME, "/d"))] == ["lookup", "read"]


def test_a_mount_that_hangs_hides_no_other(run: Run, mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = "0" * 32
    mounts.mountpoints = {hanging: "/hangs", VOLUME: "/d"}
    ask = sys.modules["infinitfs.mount.control"].ask

    def silent(paths: Any, volume_id: str, *arguments: Any, **options: Any) -> Any:
        if volume_id == hanging:
            raise MountSilent(reason="nothing came in 10 s")
        return ask(paths, volume_id, *arguments, **options)

    monkeypatch.setattr(sys.modules["infinitfs.mount.control"], "ask", silent)
    result = run("status")
    assert result.exit_code == 16
    assert "/d " in result.stdout and hanging in result.stderr
