"""`python -m benchmarks`: infinitfs beside the ceiling, the local disk, bare boto3 and its peers, in one run.

Above: you. Below: `scenes` and `limits` played by `subjects` and `peers`; `table`, `plot`, `acceptance`.
Invariant: run 1 of every subject comes before run 2 of any; between two subjects nothing of the first is left, but
memory that the machine's host has given, or taken back: so every second run has them in the opposite order.
"""

import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from benchmarks import limits, scenes, storage
from benchmarks.acceptance import outcomes
from benchmarks.measuring import Meter, Sample
from benchmarks.peers import PEERS
from benchmarks.plot import plot
from benchmarks.scenes import QUICK, Sizes
from benchmarks.storage import Service
from benchmarks.subjects import Both, Boto3, Disk, Infinitfs, Nothing, Subject
from benchmarks.table import show_outcomes, show_samples

Scene = Callable[[Subject, Meter, Sizes], None]
T = TypeVar("T")

FOLDER: tuple[Scene, ...] = (scenes.large_file, scenes.small_files, scenes.source_tree)
"""What happens in the folder: the storage's distance has no part in it."""

STORED: tuple[Scene, ...] = (scenes.stored_large_file, scenes.stored_small_files)
"""What waits for the storage."""

ONCE: tuple[Scene, ...] = (limits.growth,)
"""What takes so long that one run must do."""

ROWS: dict[str, tuple[tuple[Scene, ...], tuple[type[Subject], ...]]] = {
    "a": (FOLDER, (Disk, Nothing, Infinitfs)),
    "b": (STORED[:1], (Nothing, Boto3, Both, Infinitfs)),
    "c": (STORED[1:], (Boto3, Infinitfs)),
    "d": (FOLDER + STORED, (Infinitfs, *PEERS)),
    "e": ((limits.beside_upload,), (Both, Infinitfs)),
    "f": ((limits.growth,), (Infinitfs,)),
    "g": ((limits.starting,), (Infinitfs,)),
}
"""The rows of `acceptance`: their scenes, and who plays in them."""


@dataclass(frozen=True)
class Turn:
    """One subject's part in one run of a scene."""

    scene: Scene
    run: int
    subject: type[Subject]
    delay: int

    def __str__(self) -> str:
        far = f", {self.delay} ms" if self.delay else ""
        return f"{self.scene.__name__}, run {self.run + 1}{far}: {self.subject.name}"


def turns(rows: Sequence[str], runs: int, delays: Sequence[int], absent: Sequence[type[Subject]]) -> Iterator[Turn]:
    """Every turn, in order; none of those `absent`."""
    for scene in dict.fromkeys(scene for row in rows for scene in ROWS[row][0]):
        players = dict.fromkeys(player for row in rows if scene in ROWS[row][0] for player in ROWS[row][1])
        for run in range(1 if scene in ONCE else runs):
            for delay in delays if scene in STORED else [0]:
                for player in reversed(players) if run % 2 else players:
                    if player not in absent and (player.remote or not delay):
                        yield Turn(scene, run, player, delay)


@click.command(epilog="Example: python -m benchmarks --rows a,b --runs 3 --json figures.json")
@click.option("--rows", default=",".join(ROWS), show_default=True, help="Which rows to measure.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="How often; row f once.")
@click.option("--delay", default="0,20,80", show_default=True, help="Milliseconds that the storage takes longer.")
@click.option("--quick", is_flag=True, help="Small sizes: to see that it works, not how fast.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work [default: the temporary folder].")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every sample there.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw the ratios there, as SVG.")
def main(
    rows: str,
    runs: int,
    delay: str,
    quick: bool,
    folder: Path | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure infinitfs side by side with others, and print tables of figures and ratios.

    \b
    a  in the folder, against a filesystem that does nothing
    b  a large file to the storage and back, against boto3
    c  small files to the storage and back, against boto3
    d  all of that, against s3ql and what other peers are found in PATH
    e  stat while a large file uploads; of a filesystem that does nothing, while boto3 sends as much
    f  a volume of 1,000,000 files
    g  how fast it starts

    Needs root and /dev/fuse; and versitygw in PATH, an S3 server: without it the storage is a folder, and what
    needs a server is left out.
    """
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        raise click.UsageError("It needs /dev/fuse, and root to have the kernel drop its caches.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # with everything unmounted
    wanted = _listed(rows, str)
    delays = _listed(delay, int)
    if unknown := set(wanted) - set(ROWS):
        raise click.UsageError(f"There is no row {', '.join(sorted(unknown))}.")
    sizes = QUICK if quick else Sizes()
    samples: list[Sample] = []
    try:
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="infinitfs-benchmark-", dir=folder)))
            services = _services(stack, {0, *delays}, sizes, place)
            absent = [*_absent(wanted, served=bool(services))]
            for turn in turns(wanted, runs, delays if services else [0], absent):
                note(str(turn))
                _play(turn, place, services.get(turn.delay), sizes, samples)
                if services:
                    services[0].empty()
    finally:
        _report(samples, wanted, json_file, plot_file)


def _listed(text: str, kind: Callable[[str], T]) -> list[T]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise click.UsageError(f"{text!r} is no list with commas: {error}.") from None


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _services(stack: ExitStack, delays: Iterable[int], sizes: Sizes, place: Path) -> dict[int, Service]:
    """The server, by its delay; none where none is installed."""
    reason = storage.missing()
    if reason:
        note(f"The storage is a folder: {reason}.")
        return {}
    service = stack.enter_context(storage.running(4 * sizes.large, place))
    return {delay: stack.enter_context(storage.delayed(service, delay)) for delay in delays}


def _absent(rows: Sequence[str], *, served: bool) -> Iterator[type[Subject]]:
    """Who cannot play; what is said of it once."""
    for player in dict.fromkeys(player for row in rows for player in ROWS[row][1]):
        reason = player.missing()
        if not served and player.needs_server:
            reason = "there is no server"
        if reason:
            note(f"Without {player.name}: {reason}.")
            yield player


def _play(turn: Turn, place: Path, service: Service | None, sizes: Sizes, samples: list[Sample]) -> None:
    name = f"{turn.scene.__name__}-{turn.run}-{turn.delay}"
    subject = turn.subject(place / turn.subject.__name__ / name, service)
    try:
        with subject.running():
            turn.scene(subject, Meter(subject, turn.run, turn.delay, samples), sizes)
    except Exception as error:
        if turn.subject is Infinitfs:
            raise
        note(f"{turn}: failed: {error}")


def _report(samples: Sequence[Sample], rows: Sequence[str], json_file: Path | None, plot_file: Path | None) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    found = outcomes(samples, rows)
    show_samples(console, samples)
    show_outcomes(console, found)
    if json_file is not None:
        machine = {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
        figures = {
            "machine": machine,
            "samples": [asdict(sample) for sample in samples],
            "rows": [asdict(one) for one in found],
        }
        json_file.write_text(json.dumps(figures, indent=1))
    if plot_file is not None:
        plot_file.write_text(plot(samples))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
