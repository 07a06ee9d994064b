"""`infinitfs benchmark`: tables, JSON, pictures, and results that are kept."""

import json
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.regions.line import lines, missing
from infinitfs.benchmark.storage import measure_storage
from tests.support.far_service import far_service
from tests.support.mounts import Run

ROUND_TRIPS = (0.002, 0.050)
needs_lines = pytest.mark.skipif(bool(missing()), reason=missing())


@needs_lines
def test_regions_are_ranked_kept_drawn_and_compared(run: Run, tmp_path: Path, environ: dict[str, str]) -> None:
    picture = tmp_path / "regions.svg"
    with lines(ROUND_TRIPS) as made, far_service(tmp_path, made.here, made.far) as service:
        near, far = made.far
        asked = ["benchmark", "regions", "--endpoint", f"https://{{region}}:{service.port}", "--count", "4"]
        asked += ["--regions", f"{far},127.0.0.1,{near}"]
        trusted = {"SSL_CERT_FILE": str(service.certificate)}
        first = run(*asked, "--json", "--plot", str(picture), **trusted)
        second = run(*asked, **trusted)
    assert first.exit_code == 0, first.stderr
    result = json.loads(first.stdout)
    assert [row["name"] for row in result["rows"]] == [near, far, "127.0.0.1"]
    assert result["rows"][2]["error"] == "connection refused"

    lines_ = second.stdout.splitlines()
    assert lines_[0].split() == ["REGION", "PLACE", "DNS", "CONNECT", "TLS", "REQUEST", "P95", "JITTER", "LOSS"]
    assert lines_[1].startswith(f"*  {near}")
    assert "unreachable: connection refused" in lines_[3]
    assert any(line.startswith(f"{near}, is closest: a request takes ") for line in lines_)
    assert second.stderr == "Kept as benchmark 2.\n"

    _numbers_are_those_of_the_result(picture, result)

    listed = run("benchmark", "list").stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [["NAME", "KIND"], ["1", "regions"], ["2", "regions"]]
    assert json.loads(run("benchmark", "show", "1", "--json").stdout) == result

    changes = run("benchmark", "compare", "1", "2", "--json").stdout.splitlines()
    found = {(change["name"], change["measure"]): change for change in map(json.loads, changes)}
    medians = {row["name"]: row["values"]["request"]["median"] for row in result["rows"][:2]}
    assert found[near, "request"]["before"] == medians[near]
    assert found[far, "request"]["ratio"] == found[far, "request"]["after"] / medians[far]
    shown = run("benchmark", "compare", "1", "2").stdout.splitlines()
    assert shown[0].split() == ["NAME", "MEASURE", "1", "2", "RATIO"]


def _numbers_are_those_of_the_result(
    picture: Path, result: dict[str, list[dict[str, dict[str, dict[str, float]]]]]
) -> None:
    root = ElementTree.fromstring(picture.read_text())
    exact = [found.text for found in root.iter("{http://www.w3.org/2000/svg}title")][1:]
    expected = []
    for row in result["rows"]:
        if "request" in row["values"]:
            request = row["values"]["request"]
            expected += [f"{row['name']}: {request['median']!r}", f"{row['name']}: {request['p95']!r}"]
    assert exact == expected


def test_a_storage_is_measured(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = partial(measure_storage, samples=2, seconds=0.0, levels=(1, 2))
    monkeypatch.setattr("infinitfs.benchmark.storage.measure_storage", short)
    run("storage", "create", "--filesystem", "shelf", "--path", str(tmp_path / "shelf"))
    picture = tmp_path / "storage.svg"
    shown = run("benchmark", "storage", "shelf", "--plot", str(picture))
    assert shown.exit_code == 0, shown.stderr
    assert "CONNECTIONS" in shown.stdout
    (options,) = [line for line in shown.stdout.splitlines() if line.startswith("Options: ")]
    assert options.split()[1] == "--connections"
    ElementTree.fromstring(picture.read_text())
    result = json.loads(run("benchmark", "show", "1", "--json").stdout)
    assert result["options"] == options.split()[1:]
    assert set(result["curves"]) == {"upload", "download", "small reads"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["regions", "--regions", "eu-central-1", "--all"], "exclude each other"),
        (["regions", "--regions", "Frankfurt"], "did you mean eu-central-1?"),
        (["regions", "--endpoint", "https://s3.example.com"], "has no {region}"),
        (["regions", "--endpoint", "s3.{region}.example.com"], "is not an endpoint"),
        (["storage"], "--name"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(run: Run, arguments: list[str], expected: str) -> None:
    done = run("benchmark", *arguments)
    assert done.exit_code == 2, done.stderr
    assert expected in done.stderr


def test_results_that_are_not_there_or_of_two_kinds(run: Run, tmp_path: Path) -> None:
    done = run("benchmark", "show", "7")
    assert done.exit_code == 10
    assert "infinitfs benchmark list" in done.stderr
    assert run("benchmark", "list").stdout == ""
