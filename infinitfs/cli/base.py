"""What every command is made of: lazy groups, `--json` and `--debug`, examples, and one place for errors.

Above: `main.py` and the nouns. Below: click.
Invariant: a failure leaves the program as one sentence and an exit code of `errors.py`, never as a
traceback unless `--debug` asks for it. Loading this module imports nothing heavier than click.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import click

from infinitfs.cli.invocation import Invocation
from infinitfs.cli.words import give_words
from infinitfs.errors import InfinitfsError

F = TypeVar("F", bound=Callable[..., Any])

USAGE = 2
INTERRUPTED = 130

pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


class Command(click.Command):
    """A command with `--json`, `--debug` and an `example`, shown verbatim at the end of its help."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        give_words(self.params)
        self.params.append(_flag("--json", "json", "Print JSON: one object, or one a line."))
        self.params.append(_flag("--debug", "debug", "Show the traceback of a failure."))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Group(click.Group):
    """A noun: its verbs are `Command`s."""

    command_class = Command


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for, and not to list them.

    `commands_in` maps a command's name to `module:attribute` and its one line in the group's help.
    """

    def __init__(self, *args: Any, commands_in: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_in = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_in:
            return None
        module, _, attribute = self.commands_in[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.commands_in.items()])


class Root(LazyGroup):
    """The outermost group, where every failure becomes a sentence and an exit code."""

    def main(  # type: ignore[override]  # click's own overloads differ between its versions
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> NoReturn:
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            exit_code = self._exit_code(arguments, prog_name, extra)
        except OSError:
            # Nobody takes what is printed; the interpreter's own flush at exit must not meet that again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            exit_code = 1
        sys.exit(exit_code)

    def _exit_code(self, arguments: list[str], prog_name: str | None, extra: dict[str, Any]) -> int:
        """Run the command; what it raises is told. Raises OSError where that cannot be."""
        try:
            result = super().main(arguments, prog_name=prog_name, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            return _report(error, as_json="--json" in arguments, debug="--debug" in arguments)
        # `--help` and `--version` leave as a number (click.exceptions.Exit), and so does a command's own exit code.
        return result if isinstance(result, int) else 0


def sentence_of(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code of a failure."""
    if isinstance(error, InfinitfsError):
        return str(error), error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message(), USAGE
    if isinstance(error, click.UsageError):
        command = f' Try "{error.ctx.command_path} --help".' if error.ctx is not None else ""
        return f"{error.format_message()}{command}", USAGE
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort, EOFError)):
        return "Interrupted.", INTERRUPTED
    detail = " ".join(str(error).split()) or "no detail"
    return f"Unexpected failure: {type(error).__name__}: {detail} (--debug shows where).", 1


def _report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    sentence, exit_code = sentence_of(error)
    if debug:
        import traceback

        traceback.print_exception(error)
    if as_json:
        import json

        print(json.dumps({"error": sentence, "exit_code": exit_code}), flush=True)
    else:
        print(sentence, file=sys.stderr)
    return exit_code


def _flag(option: str, attribute: str, text: str) -> click.Option:
    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        setattr(ctx.ensure_object(Invocation), attribute, value)

    return click.Option([option], is_flag=True, expose_value=False, callback=remember, help=text)
