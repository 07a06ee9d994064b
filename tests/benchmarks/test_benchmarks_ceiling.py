"""The filesystem that is the ceiling really does what it is measured at, and every workload leaves what it says."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.measuring import Meter, Sample
from benchmarks.subjects import Nothing
from benchmarks.workloads import MIB, PAGE
from tests.support.mounted import needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def nothing(tmp_path: Path) -> Iterator[Nothing]:
    subject = Nothing(tmp_path / "nothing", None)
    with subject.running():
        yield subject


def test_every_workload_runs_on_the_ceiling(nothing: Nothing) -> None:
    folder = nothing.folder
    assert workloads.write(folder, "large", 3 * MIB)[1] == 3 * MIB
    assert workloads.read(folder, "large")[1] == 3 * MIB
    before = (folder / "large").read_bytes()
    assert workloads.read_random(folder, "large", 50)[1] == 50
    assert workloads.write_random(folder, "large", 50)[1] == 50
    assert workloads.write_random(folder, "large", 50, durable=False)[1] == 50
    after = (folder / "large").read_bytes()
    assert len(after) == len(before) and after != before
    (folder / "large").unlink()
    assert workloads.create(folder, 20)[1] == 20
    assert {path.stat().st_size for path in folder.iterdir()} == {PAGE}
    assert workloads.stat(folder, 20)[1] == workloads.scan(folder)[1] == workloads.read_files(folder, 20)[1] == 20
    assert workloads.remove(folder, 20)[1] == 20
    assert not [*folder.iterdir()]


def test_the_ceiling_holds_a_tree_of_files_and_links(nothing: Nothing, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_text("content")
    (tree / "link").symlink_to("folder/file")
    subprocess.run(["cp", "-a", str(tree), str(nothing.folder)], check=True)
    subprocess.run(["diff", "-r", str(tree), str(nothing.folder / "tree")], check=True)
    (nothing.folder / "tree" / "folder").rename(nothing.folder / "folder")
    assert (nothing.folder / "folder" / "file").read_text() == "content"


def test_a_step_is_measured_with_its_cpu_and_memory(nothing: Nothing) -> None:
    samples: list[Sample] = []
    Meter(nothing, 0, 0, samples).measure("write", "MB/s", workloads.write, "large", 4 * MIB)
    (sample,) = samples
    assert (sample.subject, sample.count) == ("nothing", 4 * MIB)
    assert sample.figure == pytest.approx(4.194304 / (sample.seconds or 0))
    assert sample.cpu is not None and sample.cpu >= 0
    assert sample.memory is not None and sample.memory > 4 * MIB
