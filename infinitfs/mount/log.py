"""Where a mount's log goes and what a line of it looks like.

Above: `daemon`, before its loop runs. Below: `logging` of the standard library.

Standard error is the journal where systemd says so (`JOURNAL_STREAM`, systemd.exec(5)): lines begin with their priority
as in sd-daemon(3), and bear no time, which the journal adds. A log file is opened again when it was moved away
(logrotate needs no signal), and moves itself away when it is full.
Invariant: an event is one line, whatever is in its text. Of events of one kind only so many are written in a while,
and how many were left out is said. No name of a file, no content and no key is ever given to a logger.
"""

import json
import logging
import logging.handlers
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Literal

from infinitfs.errors import LocalFileFailed

Form = Literal["text", "json"]

_FULL = 4 * 2**20  # bytes of a file, which then becomes FILE.1
_BURST = 20  # events of a kind ...
_PERIOD = 60.0  # ... in so many seconds
_KINDS = 1000  # that are told apart, so that memory stays bounded
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


def start_log(file: Path | None, *, form: Form, debug: bool, environ: Mapping[str, str]) -> None:
    """Log to `file`, else to standard error. Raises LocalFileFailed where the file cannot be opened."""
    try:
        handler = logging.StreamHandler() if file is None else LogFile(file)
    except OSError as error:
        raise LocalFileFailed(path=str(file), action="opened", reason=error.strerror or str(error)) from None
    journal = file is None and is_journal(sys.stderr.fileno(), environ)
    text = "%(message)s" if journal else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    lines = JsonLine() if form == "json" else TextLine(text)
    handler.setFormatter(JournalLine(lines) if journal else lines)
    handler.addFilter(Repeats(time.monotonic))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    warnings.simplefilter("default")


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether what is written to `descriptor` goes straight to the journal: systemd named this very stream."""
    status = os.fstat(descriptor)
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class LogFile(logging.handlers.WatchedFileHandler):
    """A private file that follows its name: after it was moved the next event makes a new one. Full, it is kept as
    `FILE.1`, in the place of the one before."""

    def __init__(self, path: Path, full: int = _FULL) -> None:
        self._path = path
        self._full = full
        super().__init__(path, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def reopenIfNeeded(self) -> None:
        if self.stream is not None and os.fstat(self.stream.fileno()).st_size >= self._full:
            self._path.replace(f"{self._path}.1")
        super().reopenIfNeeded()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # of opening it again; what is told of must not fail because it cannot be told
            self.handleError(record)


class TextLine(logging.Formatter):
    """An event as text, its traceback in the same line."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class JsonLine(logging.Formatter):
    """An event as an object: time (RFC 3339, UTC), level, source, message and, of a defect, its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event)


class JournalLine(logging.Formatter):
    """What `inner` makes of an event, after its priority (syslog(3))."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITIES.get(record.levelno, 5)}>{self._inner.format(record)}"


def one_line(text: str) -> str:
    """`text` without breaks or control characters, which could forge a line or steer a terminal."""
    return " | ".join(part.strip() for part in text.splitlines() if part.strip()).translate(_CONTROLS)


class Repeats(logging.Filter):
    """Lets so many events of one kind pass in a period; the last one and the next one tell that others did not.

    A kind is a place, a level and a text without its arguments or, where the text is an error's own, that error.
    """

    def __init__(self, clock: Callable[[], float], *, burst: int = _BURST, period: float = _PERIOD) -> None:
        super().__init__()
        self._clock = clock
        self._burst = burst
        self._period = period
        self._kinds: dict[tuple[object, ...], tuple[float, int]] = {}  # -> when it began, how many since

    def filter(self, record: logging.LogRecord) -> bool:
        first = record.args[0] if isinstance(record.args, tuple) and record.args else None
        kind = (record.name, record.levelno, record.msg, str(first) if isinstance(first, Exception) else None)
        now = self._clock()
        began, count = self._kinds.get(kind, (now, 0))
        note = ""
        if now - began >= self._period:
            note = f" ({count - self._burst} more like this were left out)" if count > self._burst else ""
            began, count = now, 0
        if len(self._kinds) >= _KINDS:
            self._kinds.clear()
        self._kinds[kind] = began, count + 1
        if count + 1 == self._burst:
            note += f" (more like this are left out for {self._period - (now - began):.0f} s)"
        if note:
            record.msg, record.args = record.getMessage() + note, ()
        return count < self._burst
