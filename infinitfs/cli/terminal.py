"""Asking the user: lines, secrets behind asterisks, and the same from a pipe.

Above: the commands. Below: the terminal's line discipline (termios).
Invariant: prompts go to standard error, a secret is never echoed, and the terminal leaves every call in the
state in which it entered, whatever ended the call. Reads are unbuffered, so that no byte meant for the next
reader is taken.
"""

import codecs
import os
import sys
import termios
from collections.abc import Callable

from infinitfs.errors import UsageError

_ERASE = "\b\x7f"
_ERASE_LINE = "\x15"
_END_OF_INPUT = "\x04"


def interactive() -> bool:
    """Whether there is somebody at a terminal to answer a question."""
    try:
        return sys.stdin.isatty()
    except ValueError:  # closed
        return False


def say(text: str) -> None:
    """A line before a question."""
    _show(f"{text}\n")


def ask(prompt: str, problem: Callable[[str], str | None] = lambda answer: None) -> str:
    """The line typed after `prompt`, asked again while `problem` names one. Raises EOFError at end of
    input."""
    return _ask_until_right(prompt, problem, _read_line)


def ask_secret(prompt: str, problem: Callable[[str], str | None] = lambda answer: None) -> str:
    """As `ask`, showing one asterisk a character."""
    return _ask_until_right(prompt, problem, _read_secret)


def ask_new_passphrase() -> str:
    """A passphrase typed twice, empty where its user wants none."""
    say("A passphrase seals the private key; without one, whoever reads its file can read all that it opens.")
    while True:
        passphrase = ask_secret("New passphrase (empty for none): ")
        if not passphrase or ask_secret("Repeat the passphrase: ") == passphrase:
            return passphrase
        say("The two passphrases differ.")


def read_line_from_input(what: str) -> str:
    """The next line of a standard input that is no terminal; UsageError naming `what` where there is none."""
    line = sys.stdin.readline()
    if not line:
        raise UsageError(problem=f"{what} missing on standard input: there is no terminal to ask at.")
    return line.rstrip("\r\n")


def _ask_until_right(prompt: str, problem: Callable[[str], str | None], read: Callable[[str, int], str]) -> str:
    while True:
        answer = read(prompt, sys.stdin.fileno())
        wrong = problem(answer)
        if wrong is None:
            return answer
        _show(f"{wrong}\n")


def _show(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _read_line(prompt: str, descriptor: int) -> str:
    _show(prompt)
    line = bytearray()
    while (byte := os.read(descriptor, 1)) not in (b"\n", b""):
        line += byte
    if not byte and not line:
        raise EOFError
    return line.decode(errors="replace").rstrip("\r")


def _read_secret(prompt: str, descriptor: int) -> str:
    before = termios.tcgetattr(descriptor)
    quiet = termios.tcgetattr(descriptor)
    quiet[0] |= termios.ICRNL
    quiet[3] &= ~(termios.ICANON | termios.ECHO)  # ISIG stays: ^C interrupts, and `finally` restores
    quiet[6][termios.VMIN] = 1
    quiet[6][termios.VTIME] = 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    secret: list[str] = []
    try:
        # DRAIN, not FLUSH: what was typed ahead (or pasted with the line before) belongs to this answer.
        termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
        _show(prompt)  # only now: an answer typed the moment it appears must not be echoed
        while True:
            byte = os.read(descriptor, 1)
            if not byte:
                raise EOFError
            for character in decoder.decode(byte):
                if character in "\r\n":
                    return "".join(secret)
                if character == _END_OF_INPUT and not secret:
                    raise EOFError
                _edit(secret, character)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        _show("\n")


def _edit(secret: list[str], character: str) -> None:
    """Apply one typed character, with the asterisks to match."""
    if character in _ERASE:
        erased = len(secret[-1:])
    elif character == _ERASE_LINE:
        erased = len(secret)
    else:
        secret.append(character)
        _show("*")
        return
    del secret[len(secret) - erased :]
    _show("\b \b" * erased)
