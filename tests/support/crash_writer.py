"""A program that writes to a folder and notes what was acknowledged, and the check of what is left after a kill.

Above: tests that kill a mount, which run it as `python -m tests.support.crash_writer FOLDER NOTES SEED`. Below: plain
system calls.
Invariant: a line of the notes is written only after the system call that it acknowledges has returned (`done`), or
before the first one of an operation (`begin`), so at most the last operation begun is in doubt.

Operations, each ended by fsync of the file and, where a name changed, of the folder:
    replace NAME   a new version is written aside and renamed over the old one: old or new, never a mix
    append NAME    bytes are added at the end: what was acknowledged stays, more may follow
    patch NAME     one page is overwritten: every other page stays
    mkdir, rename, remove NAME
"""

import hashlib
import json
import os
import random
import sys
import time
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TextIO

PAGE = 4096
_NAMES = 12


def content(seed: int, version: int, size: int) -> bytes:
    """The bytes of a version: a function of its number, so that notes stay short."""
    return random.Random(f"{seed} {version}").randbytes(size)


class Writer:
    def __init__(self, folder: Path, notes: TextIO, seed: int) -> None:
        self._folder = folder
        self._notes = notes
        self._seed = seed
        self._random = random.Random(seed)
        self._version = 0
        self._sizes: dict[str, int] = {}

    def run(self) -> None:
        """Until a system call fails, because the mount is gone."""
        while True:
            kind = self._random.choice(["replace", "replace", "append", "append", "patch", "mkdir", "rename", "remove"])
            getattr(self, f"_{kind}")()

    def _note(self, state: str, **what: Any) -> None:
        self._notes.write(json.dumps({"state": state, "at": time.monotonic(), **what}) + "\n")
        self._notes.flush()

    def _step(self, **what: Any) -> dict[str, Any]:
        self._version += 1
        what["version"] = self._version
        self._note("begin", **what)
        return what

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _replace(self) -> None:
        name = f"file{self._random.randrange(_NAMES)}"
        size = self._random.choice([0, 1, 100, 5000, 70000, 300000])
        what = self._step(kind="replace", name=name, size=size)
        with (self._folder / f".{name}.new").open("wb") as file:
            file.write(content(self._seed, what["version"], size))
            file.flush()
            os.fsync(file.fileno())
        (self._folder / f".{name}.new").rename(self._folder / name)
        self._sync_folder()
        self._sizes[name] = size
        self._note("done", **what)

    def _append(self) -> None:
        name = f"log{self._random.randrange(3)}"
        size = self._random.randrange(1, 20000)
        what = self._step(kind="append", name=name, size=size)
        with (self._folder / name).open("ab") as file:
            file.write(content(self._seed, what["version"], size))
            file.flush()
            os.fsync(file.fileno())
        self._sync_folder()
        self._note("done", **what)

    def _patch(self) -> None:
        pages = [name for name, size in self._sizes.items() if size >= PAGE]
        if not pages:
            return
        name = self._random.choice(sorted(pages))
        page = self._random.randrange(self._sizes[name] // PAGE)
        what = self._step(kind="patch", name=name, page=page)
        descriptor = os.open(self._folder / name, os.O_WRONLY)
        try:
            os.pwrite(descriptor, content(self._seed, what["version"], PAGE), page * PAGE)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._note("done", **what)

    def _mkdir(self) -> None:
        what = self._step(kind="mkdir", name=f"folder{self._version}")
        (self._folder / what["name"]).mkdir()
        self._sync_folder()
        self._note("done", **what)

    def _rename(self) -> None:
        if not self._sizes:
            return
        name = self._random.choice(sorted(self._sizes))
        target = f"file{self._random.randrange(_NAMES)}"
        if target == name:
            return
        what = self._step(kind="rename", name=name, target=target)
        (self._folder / name).rename(self._folder / target)
        self._sync_folder()
        self._sizes[target] = self._sizes.pop(name)
        self._note("done", **what)

    def _remove(self) -> None:
        if len(self._sizes) < 3:
            return
        what = self._step(kind="remove", name=self._random.choice(sorted(self._sizes)))
        (self._folder / what["name"]).unlink()
        self._sync_folder()
        del self._sizes[what["name"]]
        self._note("done", **what)


class Outcome(NamedTuple):
    """What the check looked at: operations acknowledged, and problems found, one sentence each."""

    acknowledged: int
    problems: list[str]


def check(folder: Path, notes: Path, seed: int, until: float = inf) -> Outcome:
    """Compare a folder with what its writer's notes acknowledge until then, by the monotonic clock; operations that
    were begun, and not acknowledged by then, may have happened or not, one after the other."""
    steps, doubtful = _read_notes(notes, until)
    state: dict[str, bytes | None] = {}
    for step in steps:
        _apply(state, step, seed)
    states = [state]
    for step in doubtful:
        states.append(dict(states[-1]))
        _apply(states[-1], step, seed)
    there = {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}
    problems = []
    for name in {name for state in states for name in state} | {name for name in there if not name.startswith(".")}:
        found = there.get(name, "absent")
        allowed = [state.get(name, "absent") for state in states]
        steps_between = list(pairwise(allowed))
        if found not in allowed and not any(_grew(two, found) or _torn(two, found) for two in steps_between):
            problems.append(f"{name} is {_show(found)} instead of {' or '.join(map(_show, allowed))}")
    return Outcome(len(steps), problems)


def _read_notes(notes: Path, until: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The operations that were acknowledged until then, and those that were begun and not."""
    acknowledged, begun = [], []
    for line in notes.read_text().splitlines():
        try:
            step = json.loads(line)
        except ValueError:
            break  # the writer was killed in the middle of a line
        state, at = step.pop("state"), step.pop("at")
        if state == "begin":
            begun.append(step)
        elif at < until:
            acknowledged.append(step)
            begun.remove(step)
    return acknowledged, begun


def _apply(state: dict[str, bytes | None], step: dict[str, Any], seed: int) -> None:
    name, version = step["name"], step["version"]
    if step["kind"] == "replace":
        state[name] = content(seed, version, step["size"])
    elif step["kind"] == "append":
        state[name] = (state.get(name) or b"") + content(seed, version, step["size"])
    elif step["kind"] == "patch":
        old, start = state[name] or b"", step["page"] * PAGE
        state[name] = old[:start] + content(seed, version, PAGE) + old[start + PAGE :]
    elif step["kind"] == "mkdir":
        state[name] = None
    elif step["kind"] == "rename":
        state[step["target"]] = state.pop(name)
    elif step["kind"] == "remove":
        del state[name]


def _grew(allowed: tuple[Any, Any], found: Any) -> bool:
    """An append in doubt: all that was acknowledged, then part of what was being added."""
    old, new = allowed
    return (
        isinstance(found, bytes)
        and isinstance(new, bytes)
        and (old == "absent" or (isinstance(old, bytes) and new.startswith(old) and found.startswith(old)))
        and len(found) <= len(new)
        and old != new
        and (new.startswith(found) or not any(found[len(old) if isinstance(old, bytes) else 0 :]))
    )


def _torn(allowed: tuple[Any, Any], found: Any) -> bool:
    """A patch in doubt: each half page old or new; only the page in doubt differs between the two versions."""
    old, new = allowed
    if not (isinstance(old, bytes) and isinstance(new, bytes) and isinstance(found, bytes)):
        return False
    return len(old) == len(new) == len(found) and all(f in (o, n) for f, o, n in zip(found, old, new, strict=True))


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes ({hashlib.sha256(value).hexdigest()[:8]})"
    return "a folder" if value is None else str(value)


if __name__ == "__main__":
    with Path(sys.argv[2]).open("a") as log:
        try:
            Writer(Path(sys.argv[1]), log, int(sys.argv[3])).run()
        except OSError as gone:
            print(gone, file=sys.stderr)
