"""What a line of the log looks like, how many there are, and where they go."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infinitfs.errors import DamagedObject, LocalFileFailed, StorageUnreachable
from infinitfs.mount.log import JournalLine, JsonLine, LogFile, Repeats, TextLine, is_journal, one_line, start_log


def event(text: str, *arguments: object, level: int = logging.INFO, defect: bool = False) -> logging.LogRecord:
    made = logging.LogRecord("infinitfs.somewhere", level, "somewhere.py", 1, text, arguments, None)
    if defect:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            made.exc_info = sys.exc_info()
    return made


# --- lines ---


def test_an_event_is_one_line_whatever_is_in_its_text() -> None:
    forged = "a file\n2026-01-01 00:00:00,000 ERROR root: all is lost\x1b[2J\x85\u2028end\r\n"
    line = one_line(forged)
    assert line == r"a file | 2026-01-01 00:00:00,000 ERROR root: all is lost\x1b[2J | end"
    text = TextLine("%(levelname)s %(message)s").format(event("It broke: %s", forged, defect=True))
    assert text.startswith("INFO It broke: a file | 2026") and "\n" not in text
    assert "Traceback" in text and text.endswith("ValueError: first | second")


def test_an_event_as_json() -> None:
    made = event("%s of %d\n", "one", 2, level=logging.WARNING)
    made.created = 1_700_000_000.1234
    line = JsonLine().format(made)
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123+00:00",
        "level": "warning",
        "source": "infinitfs.somewhere",
        "message": "one of 2\n",
    }
    assert "\n" not in JsonLine().format(event("x", defect=True))
    assert "ValueError: first\nsecond" in json.loads(JsonLine().format(event("x", defect=True)))["traceback"]


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_the_journal_gets_priorities(level: int, priority: int) -> None:
    assert JournalLine(TextLine("%(message)s")).format(event("hello", level=level)) == f"<{priority}>hello"


def test_only_the_very_stream_that_systemd_names_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        assert is_journal(stream.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(stream.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not is_journal(stream.fileno(), {})


# --- how many ---


class Passed:
    """What of many events comes through, by a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self._repeats = Repeats(lambda: self.now, burst=3, period=60)

    def __call__(self, text: str, *arguments: object, level: int = logging.INFO) -> str | None:
        made = event(text, *arguments, level=level)
        return made.getMessage() if self._repeats.filter(made) else None


def test_a_storm_becomes_a_few_lines_that_say_so() -> None:
    passed = Passed()
    assert [passed("block %d", number) for number in range(100)] == [
        "block 0",
        "block 1",
        "block 2 (more like this are left out for 60 s)",
        *[None] * 97,
    ]
    passed.now = 59.9
    assert passed("block %d", 100) is None
    passed.now = 60.0
    assert passed("block %d", 101) == "block 101 (98 more like this were left out)"
    assert passed("block %d", 102) == "block 102"


def test_other_events_are_not_left_out_with_them() -> None:
    passed = Passed()
    for _ in range(5):
        passed("%s", StorageUnreachable(storage="s", reason="r"))
    assert passed("%s", StorageUnreachable(storage="s", reason="r")) is None
    assert passed("%s", DamagedObject(key="k", reason="r")) is not None
    assert passed("%s", StorageUnreachable(storage="s", reason="r"), level=logging.ERROR) is not None
    assert passed("another") == "another"


def test_a_few_now_and_then_are_never_left_out() -> None:
    passed = Passed()
    for _ in range(10):
        assert [passed("slow"), passed("slow")] == ["slow", "slow"]
        passed.now += 60


# --- where ---


@pytest.fixture
def root_log() -> Iterator[None]:
    """The logging of the test's process, put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)


@pytest.mark.usefixtures("root_log")
def test_a_log_file_is_private_and_follows_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mount.log"
    start_log(path, form="text", debug=False, environ={})
    log = logging.getLogger("infinitfs.somewhere")
    log.info("before")
    log.debug("not asked for")
    assert path.stat().st_mode & 0o777 == 0o600
    path.rename(tmp_path / "mount.log.old")
    log.info("after")
    assert [line.split(": ")[1] for line in path.read_text().splitlines()] == ["after"]
    assert [line.split(": ")[1] for line in (tmp_path / "mount.log.old").read_text().splitlines()] == ["before"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_log_file_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "mount.log"
    handler = LogFile(path, full=100)
    for number in range(30):
        handler.emit(event("event %02d", number))
    handler.close()
    kept = Path(f"{path}.1").read_text() + path.read_text()
    assert kept.splitlines()[-1] == "event 29"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mount.log", "mount.log.1"]
    assert all(file.stat().st_size < 120 for file in tmp_path.iterdir())


def test_a_log_that_cannot_be_written_does_not_fail_what_is_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    handler = LogFile(folder / "mount.log")
    (folder / "mount.log").unlink()
    folder.rmdir()
    handler.emit(event("nobody reads this"))
    assert "FileNotFoundError" in capsys.readouterr().err
    folder.mkdir()
    handler.emit(event("there again"))
    handler.close()
    assert (folder / "mount.log").read_text() == "there again\n"


def test_a_log_file_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LocalFileFailed, match="could not be opened"):
        start_log(tmp_path / "no" / "folder", form="text", debug=False, environ={})


def test_standard_error_of_a_service_and_of_a_person(tmp_path: Path) -> None:
    """In a process of its own, as nothing of a test's own standard error is what it seems."""
    program = (
        "import logging, os, sys\n"
        "from infinitfs.mount.log import start_log\n"
        "status = os.fstat(2)\n"
        "service = {'JOURNAL_STREAM': f'{status.st_dev}:{status.st_ino}'}\n"
        "log = logging.getLogger('infinitfs.somewhere')\n"
        "for environ, form in ((service, 'text'), ({}, 'text'), (service, 'json'), ({}, 'json')):\n"
        "    start_log(None, form=form, debug=False, environ=environ)\n"
        "    log.warning('Beware\\nof this')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    service, person, service_json, person_json = done.stderr.splitlines()
    assert service == "<4>Beware | of this"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING infinitfs.somewhere: Beware \| of this", person)
    assert service_json.startswith('<4>{"time"')
    told = json.loads(person_json)
    assert told["message"] == "Beware\nof this"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(told["time"])).total_seconds()) < 3600
