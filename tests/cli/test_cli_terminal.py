"""Prompts on a real terminal: what is shown, what is taken, and how the terminal is left."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.console import Console

ASK = """
import pathlib, sys
from infinitfs.cli import terminal
answer = terminal.ask_secret("Secret: ", lambda answer: None if answer else "It is empty.")
pathlib.Path(sys.argv[1]).write_text(ascii(answer))
"""


@pytest.mark.parametrize(
    ("keys", "taken", "shown"),
    [
        ("abc\n", "abc", "***"),
        ("ab\x7fc\n", "ac", "**\b \b*"),
        ("\x7fa\n", "a", "*"),
        ("ab\x15c\n", "c", "**\b \b\b \b*"),
        ("é€\n", "é€", "**"),
        ("a\r", "a", "*"),
        ("\nx\n", "x", "\nIt is empty.\nSecret: *"),
    ],
)
def test_a_secret_is_taken_and_shown_as_asterisks(
    keys: str, taken: str, shown: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    result = tmp_path / "result"
    with Console(["-c", ASK, str(result)], environ) as console:
        before = console.settings()
        console.expect("Secret: ")
        console.type(keys)
        assert console.exit_code() == 0
        assert console.settings() == before
        assert console.seen == f"Secret: {shown}\n"
    assert result.read_text() == ascii(taken)


@pytest.mark.parametrize("key", ["\x03", "\x04"])
def test_an_interrupted_secret_restores_the_terminal(key: str, environ: dict[str, str]) -> None:
    arguments = ["-m", "infinitfs.cli.main", "user", "create", "alice"]
    with Console(arguments, environ) as console:
        before = console.settings()
        console.expect("(empty for none): ")
        console.type("half")
        console.expect("****")
        if key == "\x04":
            console.type("\x15")
        console.type(key)
        assert console.exit_code() == 130
        assert console.settings() == before
        assert "half" not in console.seen
        assert "Traceback" not in console.seen


def test_two_answers_pasted_at_once_reach_two_questions(environ: dict[str, str]) -> None:
    program = (
        "from infinitfs.cli import terminal\n"
        "first = terminal.ask('First: ')\n"
        "second = terminal.ask_secret('Second: ')\n"
        "print(first == 'one', second == 'two')\n"
    )
    with Console(["-c", program], environ) as console:
        console.expect("First: ")
        console.type("one\ntwo\n")
        assert console.exit_code() == 0
        assert console.seen.endswith("True True\n")


def test_without_a_terminal_a_missing_line_is_named(environ: dict[str, str]) -> None:
    program = "from infinitfs.cli import terminal; terminal.read_line_from_input('The key')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environ,
        timeout=30,
    )
    assert b"The key missing on standard input" in done.stderr
