"""Plays worlds: `python -m tests.support.world --seeds N --seconds S --start K`."""

import argparse
import sys
import time

from tests.support.world.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.support.world", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10**9, help="how many worlds at most")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no world after that time")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--trace", type=int, default=30, help="lines of the trace of a world that failed")
    options = parser.parse_args()
    if options.seconds == float("inf") and options.seeds == 10**9:
        options.seeds = 100
    began = time.monotonic()
    played = changes = crashes = 0
    failed = []
    while played < options.seeds and time.monotonic() - began < options.seconds:
        outcome = run(options.start + played)
        played += 1
        changes += outcome.changes
        crashes += outcome.crashes.total()
        if outcome.failure:
            failed.append(outcome.seed)
            print(f"--- seed {outcome.seed} failed", *outcome.trace[-options.trace :], outcome.failure, sep="\n")
    print(
        f"{played} worlds from seed {options.start} in {time.monotonic() - began:.1f} s:"
        f" {changes} changes, {crashes} crashes at points, {len(failed)} failed {failed[:20]}"
    )
    return 1 if failed else 0


sys.exit(main())
