"""Distances as `infinitfs benchmark regions` measures them, of regions whose distance is known.

With MOUNT_TESTS=long six regions are measured 20 times, and every figure is compared with the distance and with what
plain blocking calls take; that needs a machine with nothing else to do. Otherwise three of them are put in order, once.
"""

import os
import socket
import ssl
import statistics
import time
from collections.abc import Iterator

import pytest

from benchmarks.regions.line import Lines, lines, missing
from infinitfs.benchmark.regions import measure_regions
from infinitfs.benchmark.results import Result
from infinitfs.errors import StorageUnreachable
from tests.support.far_service import FarService, far_service

LONG = os.environ.get("MOUNT_TESTS") == "long"
# Seconds: London, Frankfurt, Ireland, Virginia, Sao Paulo, Tokyo, as seen from Paris.
ROUND_TRIPS = (0.009, 0.012, 0.019, 0.080, 0.218, 0.226) if LONG else (0.009, 0.080, 0.218)
RUNS, ROUNDS = (20, 10) if LONG else (1, 7)

needs_lines = pytest.mark.skipif(bool(missing()), reason=missing())


def silent(done: int, total: int) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def emulated() -> Iterator[Lines]:
    with lines(ROUND_TRIPS) as made:
        yield made


@pytest.fixture(scope="module")
def far(emulated: Lines) -> dict[str, float]:
    """Addresses and the round trip to each."""
    return dict(zip(emulated.far, ROUND_TRIPS, strict=True))


@pytest.fixture(scope="module")
def service(emulated: Lines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarService]:
    folder = tmp_path_factory.mktemp("service")
    with far_service(folder, emulated.here, emulated.far) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(made.certificate))
        yield made


async def measure(far: dict[str, float], service: FarService) -> Result:
    # Not in the order that is wanted.
    places = {address: (f"region {address}", f"https://{address}:{service.port}") for address in reversed(far)}
    return await measure_regions(places, "far", rounds=ROUNDS, progress=silent)


def by_plain_sockets(address: str, service: FarService) -> tuple[float, float]:
    """Median times of a connect and of a TLS handshake, by blocking calls and nothing else."""
    context = ssl.create_default_context()
    connects, handshakes = [], []
    for _ in range(5):
        began = time.perf_counter()
        with socket.create_connection((address, service.port)) as plain:
            connected = time.perf_counter()
            with context.wrap_socket(plain, server_hostname=address):
                handshakes.append(time.perf_counter() - connected)
            connects.append(connected - began)
    return statistics.median(connects), statistics.median(handshakes)


@needs_lines
async def test_every_figure_is_the_distance_that_was_set(far: dict[str, float], service: FarService) -> None:
    near = next(iter(far))
    for _ in range(RUNS):
        result = await measure(far, service)
        assert [row.name for row in result.rows] == list(far)
        for row in result.rows:
            set_, allowed = far[row.name], 0.1 * far[row.name] + 0.001
            for phase in ("connect", "tls", "request"):
                assert row.values[phase].count + row.values[phase].lost == ROUNDS
                assert row.values[phase].median >= set_
            if LONG:
                connect, tls = by_plain_sockets(row.name, service)
                assert row.values["connect"].median == pytest.approx(connect, abs=allowed)
                assert row.values["connect"].median == pytest.approx(set_, abs=allowed), connect
                assert row.values["request"].median == pytest.approx(set_, abs=allowed), connect
                # One round trip, in TLS 1.3, and a millisecond or two of arithmetic at both ends.
                assert row.values["tls"].median <= tls + allowed
            assert row.values["dns"].median < 0.001
        assert result.conclusion[0].startswith(f"{near}, region {near}, is closest: a request takes ")


@needs_lines
async def test_what_cannot_be_reached_is_reported_and_not_fatal(emulated: Lines, service: FarService) -> None:
    near = emulated.far[0]
    places = {
        "nowhere": ("", "https://nowhere.invalid"),
        "plain": ("", f"http://{near}:{service.port}"),
        "closed": ("", f"https://{near}:9"),
        "near": ("", f"https://{near}:{service.port}"),
        "distrusted": ("", f"https://{emulated.here}:{service.port}"),
    }
    result = await measure_regions(places, "far", rounds=3, progress=silent)
    assert [row.name for row in result.rows] == ["near", "closed", "distrusted", "nowhere", "plain"]
    errors = {row.name: row.error for row in result.rows}
    assert errors["near"] == ""
    assert errors["closed"] == "connection refused"
    assert "not trusted" in errors["distrusted"]
    assert errors["nowhere"] == "no such host"
    assert errors["plain"]
    assert all("request" not in row.values for row in result.rows[1:])


async def test_where_nothing_answers_the_reason_is_said() -> None:
    with pytest.raises(StorageUnreachable) as caught:
        await measure_regions({"closed": ("", "http://127.0.0.1:9")}, "Amazon S3", rounds=1, progress=silent)
    sentence = "Amazon S3 cannot be reached (no region answers, closed: connection refused): check the network"
    assert str(caught.value).startswith(sentence)
