"""`infinitfs completion`: what a shell needs to complete this program's command lines.

Above: `main.py`; the files in `completion/`, which are installed where shells look, run it. Below: click.
"""

import click

from infinitfs.cli.base import Command, pass_invocation
from infinitfs.cli.invocation import Invocation

VARIABLE = "_INFINITFS_COMPLETE"
"""The variable in which click expects the question of a shell (see click's documentation, Shell Completion)."""


@click.command(
    "completion",
    cls=Command,
    example="infinitfs completion bash > ~/.local/share/bash-completion/completions/infinitfs.bash\n"
    "infinitfs completion fish > ~/.config/fish/completions/infinitfs.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@pass_invocation
def completion(invocation: Invocation, ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete this program's command lines."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    script = found(ctx.find_root().command, {}, "infinitfs", VARIABLE).source()
    invocation.answer({"shell": shell, "script": script}, script)
