"""``dpotrain completion``: the script that makes a shell complete commands, options, recipes and keys."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dpotrain.cli.group import debug_option

_SHELLS = ("bash", "zsh", "fish")
#: Where each shell reads its settings, and the line that they need.
_LINES = {
    "bash": ("~/.bashrc", 'eval "$(dpotrain completion bash)"'),
    "zsh": ("~/.zshrc", 'eval "$(dpotrain completion zsh)"'),
    "fish": ("~/.config/fish/config.fish", "dpotrain completion fish | source"),
}
#: bash adds a space after a word, also after ``--set training.epochs=``.
_END, _NO_SPACE = "    return 0\n", "    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n    return 0\n"


@click.command("completion", short_help="Print the script that makes a shell complete dpotrain.")
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@debug_option
def command(shell: str | None) -> None:
    """Print the completion script of SHELL, yours unless given.

    It completes commands, options, recipes, run folders, plugins and the keys of --set. One line in the settings of
    the shell switches it on:

    \b
    bash  ~/.bashrc                   eval "$(dpotrain completion bash)"
    zsh   ~/.zshrc                    eval "$(dpotrain completion zsh)"
    fish  ~/.config/fish/config.fish  dpotrain completion fish | source
    """  # noqa: D301  # click wants the backspace itself
    from click.shell_completion import get_completion_class

    from dpotrain.cli import main
    from dpotrain.core.errors import RecipeError

    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in _SHELLS:
        raise RecipeError(f"name the shell: dpotrain completion {' | '.join(_SHELLS)}")
    found = get_completion_class(shell)
    assert found is not None  # click has these three
    source = found(main, {}, "dpotrain", "_DPOTRAIN_COMPLETE").source()
    file, line = _LINES[shell]
    click.echo(f"# In {file}: {line}\n{source.replace(_END, _NO_SPACE) if shell == 'bash' else source}")
