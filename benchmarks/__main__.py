"""`python -m benchmarks`: infinitfs beside the ceiling, the local disk, bare boto3 and its peers, in one run.

Above: you. Below: `scenes` for each of `subjects`, interleaved; `table`, `acceptance`.
Invariant: run 1 of every subject comes before run 2 of any.
"""

import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from benchmarks import scenes, subjects
from benchmarks.acceptance import outcomes
from benchmarks.measuring import Meter, Sample
from benchmarks.scenes import QUICK, Scene, Sizes
from benchmarks.storage import Service
from benchmarks.subjects import Subject
from benchmarks.table import show_outcomes, show_samples

SCENES: dict[str, tuple[Scene, ...]] = {
    "a": (scenes.large_file, scenes.small_files, scenes.source_tree),
    "b": (scenes.stored_large_file,),
    "c": (scenes.stored_small_files,),
}
ALWAYS: tuple[type[Subject], ...] = (subjects.Disk, subjects.Nothing, subjects.Infinitfs)


@click.command(epilog="Example: python -m benchmarks --rows a,b --runs 3 --json figures.json")
@click.option("--rows", default=",".join(SCENES), show_default=True, help="Which rows to measure.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="How often.")
@click.option("--quick", is_flag=True, help="Small sizes: to see that it works, not how fast.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work [default: the temporary folder].")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every sample there.")
def main(rows: str, runs: int, quick: bool, folder: Path | None, json_file: Path | None) -> None:
    """Measure infinitfs side by side with others, and print a table of ratios. Needs root and /dev/fuse."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        raise click.UsageError("It needs /dev/fuse, and root to have the kernel drop its caches.")
    wanted = rows.replace(",", "")
    sizes = QUICK if quick else Sizes()
    samples: list[Sample] = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="infinitfs-benchmark-", dir=folder)))
        service = None
        for scene in dict.fromkeys(scene for row in wanted for scene in SCENES[row]):
            for run in range(runs):
                for subject in ALWAYS:
                    _perform(scene, subject(place / f"{subject.__name__}-{run}", service), run, service, sizes, samples)
    console = Console(width=None if sys.stdout.isatty() else 140)
    show_samples(console, samples)
    found = outcomes(samples, wanted)
    show_outcomes(console, found)
    if json_file is not None:
        figures = {"samples": [asdict(s) for s in samples], "outcomes": [asdict(o) for o in found]}
        json_file.write_text(json.dumps(figures, indent=1))


def _perform(
    scene: Scene, subject: Subject, run: int, service: Service | None, sizes: Sizes, samples: list[Sample]
) -> None:
    print(f"{scene.__name__}, run {run + 1}: {subject.name}", file=sys.stderr)
    delay = service.delay if service is not None else 0
    with subject.running():
        scene(subject, Meter(subject, run, delay, samples), sizes)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
