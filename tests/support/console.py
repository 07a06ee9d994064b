"""A person at a terminal: runs a program on a pseudo-terminal, waits for prompts, types answers.

Above: tests of the command line. Below: `os.openpty`.
Invariant: it cannot hang (every wait has a deadline), and the program's controlling terminal is its own, so
that an interrupt typed reaches it alone.
"""

import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

_START = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
PATIENCE = 30.0
"""Seconds to wait for a prompt or an exit."""


class Console:
    """`with Console(arguments, environ) as console:` runs `python ARGUMENTS` on a terminal of its own."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self.seen = ""
        self._arguments = arguments
        self._environ = environ
        self._searched = 0

    def __enter__(self) -> "Console":
        self._terminal, theirs = os.openpty()
        self._theirs = theirs  # kept open: the terminal's settings can be looked at after the program's end
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, sys.executable, *self._arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=self._environ,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._theirs)
        os.close(self._terminal)

    def expect(self, text: str) -> None:
        """Wait until `text` has appeared after what was expected before."""
        deadline = time.monotonic() + PATIENCE
        while (place := self.seen.find(text, self._searched)) < 0:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} did not appear after {self.seen!r}")
        self._searched = place + len(text)

    def type(self, keys: str) -> None:
        """Press keys; `\\n` is the return key, `\\x03` an interrupt."""
        os.write(self._terminal, keys.encode())

    def settings(self) -> list[object]:
        """The terminal's settings, as termios shows them."""
        return list(termios.tcgetattr(self._terminal))

    def exit_code(self) -> int:
        """Wait for the program's end and read what is left."""
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            self._read(0.02)
            if time.monotonic() > deadline:
                raise AssertionError(f"the program did not end after {self.seen!r}")
        while self._read(0):
            pass
        return self._process.returncode

    def _read(self, timeout: float) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], max(timeout, 0))
        if not ready:
            return False
        self.seen += os.read(self._terminal, 4096).decode().replace("\r\n", "\n")
        return True
