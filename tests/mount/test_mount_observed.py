"""A real mount, observed: its status, its metrics, its log, its profile."""

import json
import pstats
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infinitfs import __version__
from infinitfs.config.paths import Paths
from infinitfs.errors import LocalFileFailed, UsageError
from infinitfs.mount import control
from infinitfs.mount.profile import profiled
from tests.support.mounted import VOLUME, Home, needs_fuse, wait_until

pytestmark = needs_fuse


def test_what_a_mount_tells_of_itself(home: Home, drive: Path, tmp_path: Path) -> None:
    log, profile = tmp_path / "a.log", tmp_path / "profile"
    options = ("--log-file", str(log), "--log-format", "json", "--debug", "--profile", str(profile))
    mounted = home.mount(drive, *options)
    for number in range(20):
        (mounted / f"unspoken-name-{number}").write_bytes(b"unspoken content")
    mounted.stored()

    state = mounted.status()
    assert state["version"] == __version__
    assert state["operations"]["create"]["count"] == 20
    assert 0 < state["operations"]["create"]["seconds"] < 60
    assert state["operations"]["create"]["slowest"] <= state["operations"]["create"]["seconds"]
    assert state["requests"]["put"]["count"] > 0
    assert state["requests"]["put"]["bytes"] == state["uploaded_bytes"]
    assert state["upload_rate"] > 0 and state["drain_seconds"] == 0
    assert f"mount {VOLUME}: ready at {drive}" in home.attempt("doctor")[1]

    families = {
        family.name: family for family in text_string_to_metric_families(home.run("status", str(drive), "--prometheus"))
    }
    created = families["infinitfs_operation_duration_seconds"].samples
    assert 20 in [sample.value for sample in created if sample.labels["operation"] == "create"]

    log.rename(tmp_path / "b.log")
    mounted.signal(signal.SIGHUP)
    wait_until(log.exists, "opening the log again")
    mounted.unmount()
    mounted.wait()
    lines = (tmp_path / "b.log").read_text() + log.read_text()
    events = [json.loads(line) for line in lines.splitlines()]
    assert {event["level"] for event in events} <= {"debug", "info"}
    assert any(event["message"].endswith(f"is mounted at {drive}.") for event in events)
    assert "unspoken" not in lines

    assert profile.stat().st_mode & 0o777 == 0o600
    functions = {function.split("(")[0] for function in pstats.Stats(str(profile)).get_stats_profile().func_profiles}
    assert "create" in functions


def test_a_command_of_another_version_is_refused_and_the_mount_goes_on(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)
    paths = Paths.from_environment({"INFINITFS_HOME": str(home.root)})
    (volume_id,) = control.mounted(paths)
    with pytest.raises(UsageError, match="mount the volume again"):
        list(control.ask(paths, volume_id, "defragment"))
    assert mounted.status()["volume"] == VOLUME


def test_a_profile_that_cannot_be_written_is_a_sentence_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(LocalFileFailed, match="could not be written"), profiled(str(tmp_path / "no" / "folder")):
        raise AssertionError("this runs")
