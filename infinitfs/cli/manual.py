"""The manual: a page for every command, made of what the command says of itself.

Above: `python -m infinitfs.cli.manual`, which writes the pages in `share/man`; a test tells when they are not current.
Below: click's description of the commands. Format: man(7) of groff.
Invariant: a page depends on the commands alone, on no date, no machine and no version.
"""

from collections.abc import Iterator
from pathlib import Path

import click

from infinitfs.cli.base import Command
from infinitfs.cli.main import COMMANDS, root

PAGES = Path(__file__).parent.parent / "share" / "man"

_EXITS = {
    "0": "done",
    "1": "unexpected, or a local disk failed or is full",
    "2": "wrong usage",
    "10": "not found",
    "11": "in use, or exists already",
    "12": "wrong key or passphrase",
    "13": "the storage cannot be reached, or rejected it; not everything is stored",
    "14": "the storage refused access",
    "15": "something stored is damaged, or was rolled back",
    "16": "the mount failed",
    "130": "interrupted",
}
_ENVIRONMENT = {
    "INFINITFS_HOME": "A folder in which everything is kept, in the place of those below.",
    "INFINITFS_USER": "The user to act as, where --as names none.",
    "INFINITFS_PASSPHRASE": "The passphrase of the user's key.",
    "INFINITFS_PASSPHRASE_FILE": "A file that has it.",
    "INFINITFS_PASSPHRASE_COMMAND": "A command that prints it.",
    "CREDENTIALS_DIRECTORY": "Of systemd: the file passphrase in it has the passphrase.",
    "NO_COLOR": "Where it is set, nothing is coloured.",
}
_FILES = {
    "~/.config/infinitfs": "Users, credentials, storages and volumes, a file each.",
    "~/.local/state/infinitfs": "Of each volume the database, what was not sent yet, and the log of its mount.",
    "~/.cache/infinitfs": "Sealed packs, kept to be read again.",
    "~/.local/state/infinitfs/run": "The sockets of mounts.",
}


def pages() -> dict[str, str]:
    """The text of each page, by its file's name."""
    found = {"infinitfs.1": _root_page()}
    for path, command, summary in _commands():
        found[f"{'-'.join(path)}.1"] = "".join(f"{line}\n" for line in _page(path, command, summary))
    return found


def _commands() -> Iterator[tuple[list[str], click.Command, str]]:
    """Every noun and every verb: the words that name it, and one line about it."""
    context = click.Context(root, info_name="infinitfs")
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        summary = COMMANDS[name][1]
        yield ["infinitfs", name], command, summary
        if isinstance(command, click.Group):
            for verb in command.list_commands(context):
                inner = command.commands[verb]
                yield ["infinitfs", name, verb], inner, (inner.help or "").partition("\n")[0]


def _page(path: list[str], command: click.Command, summary: str) -> Iterator[str]:
    yield from _head(path, summary)
    if isinstance(command, click.Group):
        yield _line(".B", " ".join(path), "VERB")
    else:
        yield _line(".B", " ".join(path), *_synopsis(command))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(command.help or "")
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for verb, inner in command.commands.items():
            yield from _term(_bold("-".join([*path, verb])) + "(1)", (inner.help or "").partition("\n")[0])
    else:
        yield ".SH OPTIONS"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield from _term(_option(parameter), parameter.help or "")
        yield from _term(_bold("--help"), "Show a summary of this page.")
    if isinstance(command, Command):
        yield ".SH EXAMPLES"
        yield from [".EX", *map(_escaped, command.example.splitlines()), ".EE"]
    yield ".SH SEE ALSO"
    yield from _see(path)


def _root_page() -> str:
    lines = [*_head(["infinitfs"], "A private drive on storage nobody has to trust."), _line(".B", "infinitfs COMMAND")]
    lines += [".SH DESCRIPTION", *_paragraphs(root.help or "")]
    lines.append(".SH COMMANDS")
    for path, _, summary in _commands():
        lines += _term(_bold("-".join(path)) + "(1)", summary)
    lines.append(".SH EXIT STATUS")
    for heading, table in (("", _EXITS), (".SH ENVIRONMENT", _ENVIRONMENT), (".SH FILES", _FILES)):
        lines += [heading] if heading else []
        for name, text in table.items():
            lines += _term(_bold(name), text)
    return "".join(f"{line}\n" for line in lines)


def _head(path: list[str], summary: str) -> Iterator[str]:
    name = "-".join(path)
    yield r".\" Made by `python -m infinitfs.cli.manual` of the command itself."
    yield f'.TH "{_escaped(name.upper())}" 1 "" "infinitfs" "infinitfs"'
    yield ".SH NAME"
    yield rf"{_escaped(name)} \- {_escaped(summary.rstrip('.'))}"
    yield ".SH SYNOPSIS"


def _see(path: list[str]) -> Iterator[str]:
    above = ["-".join(path[:length]) for length in range(1, len(path))]
    yield ", ".join(f"{_bold(name)}(1)" for name in above)


def _synopsis(command: click.Command) -> list[str]:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    return ["[OPTIONS]", *(argument.metavar or _values(argument) for argument in arguments)]


def _option(option: click.Option) -> str:
    names = ", ".join(map(_bold, option.opts))
    return names if option.is_flag else f"{names} {_italic(option.metavar or _values(option))}"


def _values(parameter: click.Parameter) -> str:
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    return "NUMBER" if isinstance(parameter.type, click.types.IntParamType) else parameter.type.name.upper()


# --- groff ---


def _term(term: str, text: str) -> list[str]:
    return [".TP", term, _escaped(text)]


def _line(*words: str) -> str:
    return f"{words[0]} {_escaped(words[1])}" + "".join(f" {_escaped(word)}" for word in words[2:])


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield _escaped(" ".join(paragraph.split()))


def _bold(text: str) -> str:
    return rf"\fB{_escaped(text)}\fR"


def _italic(text: str) -> str:
    return rf"\fI{_escaped(text)}\fR"


def _escaped(text: str) -> str:
    """Text that groff shows as it is: hyphens that can be copied, no line that is taken for a request."""
    shown = text.replace("\\", r"\e").replace("-", r"\-").replace("~", r"\(ti").replace("^", r"\(ha")
    shown = shown.replace("`", r"\(ga").replace("'", r"\(aq")
    return rf"\&{shown}" if shown.startswith(".") else shown


def main() -> None:
    """Write the pages, and remove those of commands that are no more."""
    made = pages()
    PAGES.mkdir(exist_ok=True)
    for path in PAGES.glob("*.1"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
