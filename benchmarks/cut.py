"""How fast one core cuts, and what the other threads of Python get done meanwhile.

Role: above `infinitfs._native`, whose sizes are those of a volume. Run as `python -m benchmarks.cut`.
Invariant: a rate is the best of its rounds over the same buffer in memory, so other work can only lower it.
"""

import argparse
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from infinitfs import _native

MIB = 1 << 20
SEED = 20160622
ROUNDS = 5
SOLO_SECONDS = 1.0


@dataclass(frozen=True)
class Result:
    """`rate` in GB/s; `progress` of a counting thread during the calls, as a share of its rate alone."""

    function: str
    data: str
    pieces: int
    rate: float
    progress: float


class Counter:
    """A thread that counts in plain Python, and so runs only while it has the GIL."""

    def __init__(self) -> None:
        self.count = 0
        self._stop = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop:
            self.count += 1

    def __enter__(self) -> "Counter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()


def text(size: int) -> bytes:
    """Lines of words from a small vocabulary, some of them in columns: like a log."""
    source = random.Random(SEED)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 10))) for _ in range(2000)]
    lines = (" ".join(source.choices(words, k=12)) + "\n" for _ in iter(int, 1))
    part = bytearray()
    while len(part) < min(size, 4 * MIB):
        part += next(lines).encode()
    return bytes((part * (size // len(part) + 1))[:size])


def solo_rate() -> float:
    """Counts a second with nothing else running."""
    with Counter() as counter:
        time.sleep(SOLO_SECONDS)
        return counter.count / SOLO_SECONDS


def measure(function: str, data: str, buffer: bytes, call: Callable[[bytes], list[object]], solo: float) -> Result:
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        pieces = call(buffer)
        best = min(best, time.perf_counter() - begin)
    with Counter() as counter:
        counted, begin = counter.count, time.perf_counter()
        while time.perf_counter() - begin < SOLO_SECONDS:
            call(buffer)
        progress = (counter.count - counted) / (time.perf_counter() - begin) / solo
    return Result(function, data, len(pieces), round(len(buffer) / best / 1e9, 2), round(progress, 2))


def results(size: int) -> list[Result]:
    source = random.Random(SEED)
    gear = source.randbytes(2048)
    functions: dict[str, Callable[[bytes], list[object]]] = {
        "cut": lambda buffer: [*_native.cut(buffer, gear, MIB // 4, MIB, 4 * MIB, 4096, True)],
        "cut_fixed": lambda buffer: [*_native.cut_fixed(buffer, MIB, MIB, True)],
    }
    buffers = {
        "random": b"".join(source.randbytes(MIB) for _ in range(size // MIB)),
        "text": text(size),
        "zeros": b"\0" * size,  # written, unlike bytes(size), so it is read from memory
    }
    solo = solo_rate()
    return [
        measure(function, data, buffer, call, solo)
        for function, call in functions.items()
        for data, buffer in buffers.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cut", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of each buffer (default 256 MiB)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.size < 1:
        parser.error("--size must be 1 MiB or more")
    measured = results(arguments.size * MIB)
    if arguments.json:
        print(json.dumps([asdict(result) for result in measured], indent=2))
        return
    print(f"{'function':<10} {'data':<7} {'pieces':>7} {'GB/s':>7} {'other threads':>14}")
    for result in measured:
        print(f"{result.function:<10} {result.data:<7} {result.pieces:>7} {result.rate:>7.2f} {result.progress:>14.0%}")


if __name__ == "__main__":
    main()
