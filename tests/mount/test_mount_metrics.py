"""What a mount counts, and that Prometheus' own parser reads what is told of it."""

import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infinitfs.mount.metrics import Throughput, Timing, prometheus
from tests.support.mounts import status_of

VOLUME = "6472697665".ljust(32, "0")


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample that the parser finds, by name and labels."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name
        assert family.type in ("gauge", "counter", "summary"), family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    """The one sample of that name that has these labels."""
    (one,) = [
        value for (known, of), value in read(text).items() if known == f"infinitfs_{name}" and of >= set(labels.items())
    ]
    return one


@pytest.fixture
def state() -> dict[str, Any]:
    return status_of(VOLUME, "/home/alice/drive")


def test_every_number_of_a_status_is_told(state: dict[str, Any]) -> None:
    state["last_stored"] = "2026-11-22T10:47:17Z"
    text = prometheus([state])
    assert value(text, "mounts") == 1
    assert value(text, "info", version="0.1.0") == 1
    assert value(text, "backlog_bytes") == 1_500_000
    assert value(text, "backlog_drain_seconds") == 12.5
    assert value(text, "last_stored_timestamp_seconds") == 1_795_344_437
    assert value(text, "start_time_seconds") == 1_795_338_000
    assert value(text, "storage_requests_total", kind="put") == 12
    assert value(text, "storage_request_failures_total", kind="put") == 2
    assert value(text, "storage_cost_dollars_total") == 0.0125
    assert value(text, "operation_duration_seconds_count", operation="read") == 200
    assert value(text, "operation_duration_seconds_sum", operation="read") == 0.5
    assert value(text, "operation_slowest_seconds", operation="read") == 0.25
    assert value(text, "operation_failures_total", operation="read") == 1
    states = {name: value(text, "state", state=name) for name in ("ready", "offline", "draining", "read-only")}
    assert states == {"ready": 1, "offline": 0, "draining": 0, "read-only": 0}
    assert all(math.isfinite(number) for number in read(text).values())


def test_what_is_not_known_is_left_out(state: dict[str, Any]) -> None:
    """A mount that has stored nothing yet, and one of a version that told less."""
    state["drain_seconds"] = None
    for field in ("operations", "requests", "cost", "version"):
        del state[field]
    text = prometheus([state])
    names = {name for name, _ in read(text)}
    assert "infinitfs_backlog_bytes" in names
    assert not names & {
        "infinitfs_last_stored_timestamp_seconds",
        "infinitfs_backlog_drain_seconds",
        "infinitfs_operation_duration_seconds_count",
        "infinitfs_storage_requests_total",
        "infinitfs_storage_cost_dollars_total",
    }
    assert "nan" not in text.lower() and "none" not in text.lower()


def test_several_mounts_share_their_families(state: dict[str, Any]) -> None:
    other = {**state, "volume": "other", "mountpoint": "/mnt/other", "backlog_bytes": 7}
    text = prometheus([state, other])
    assert text.count("# TYPE infinitfs_backlog_bytes gauge") == 1
    assert value(text, "mounts") == 2
    assert value(text, "backlog_bytes", volume="other", mountpoint="/mnt/other") == 7
    assert value(text, "backlog_bytes", volume="drive") == 1_500_000


def test_a_folder_of_any_name(state: dict[str, Any]) -> None:
    state["mountpoint"] = '/mnt/a "quoted"\\\n}folder'
    assert value(prometheus([state]), "backlog_bytes", mountpoint=state["mountpoint"]) == 1_500_000


def test_nothing_mounted_is_told_too() -> None:
    assert read(prometheus([])) == {("infinitfs_mounts", frozenset()): 0}


def test_timings() -> None:
    timing = Timing()
    for seconds in (0.5, 2.0, 1.0):
        timing.add(seconds)
    assert (timing.count, timing.seconds, timing.slowest) == (3, 3.5, 2.0)


def test_throughput_is_that_of_the_last_seconds() -> None:
    throughput = Throughput()
    assert throughput.observe(0, 0, 0, 0)[:2] == (0, 0)
    assert throughput.observe(10, 1000, 50, 0)[:2] == (100, 5)
    assert throughput.observe(15, 1000, 50, 0)[:2] == (1000 / 15, 50 / 15)
    assert throughput.observe(25, 1000, 50, 0)[:2] == (0, 0)
    assert throughput.observe(1025, 1000, 50, 0)[:2] == (0, 0)


def test_a_burst_within_a_moment_is_no_gigantic_rate() -> None:
    throughput = Throughput()
    throughput.observe(5, 0, 0, 0)
    assert throughput.observe(5.001, 1000, 0, 0)[:2] == (1000, 0)


def test_the_time_to_drain_is_that_of_sending_and_not_of_pauses() -> None:
    throughput = Throughput()
    assert throughput.observe(0, 0, 0, 0).drain == 0
    assert throughput.observe(1, 0, 0, 50_000_000).drain is None, "nothing was sent yet"
    assert throughput.observe(3, 4_000_000, 0, 46_000_000).drain == pytest.approx(23)
    for second in range(4, 26):
        throughput.observe(second, 4_000_000 + 2_000_000 * (second - 3), 0, 2)
    assert throughput.observe(26, 50_000_000, 0, 0).drain == 0
    assert throughput.observe(5000, 50_000_000, 0, 20_000_000).drain == pytest.approx(10, rel=0.1)


def test_a_link_that_is_cut_tells_nothing_after_a_while() -> None:
    throughput = Throughput()
    throughput.observe(0, 0, 0, 10_000_000)
    assert throughput.observe(1, 5_000_000, 0, 5_000_000).drain == pytest.approx(1)
    slower = throughput.observe(60, 5_000_000, 0, 5_000_000).drain
    assert slower is not None and slower > 30
    assert throughput.observe(600, 5_000_000, 0, 5_000_000).drain is None
