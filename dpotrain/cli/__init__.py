"""The command line: one small module for each command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import click

from dpotrain.cli.group import Program, debug_option
from dpotrain.core.version import __version__

#: dpotrain's own commands, and their modules, in the order in which a person needs them.
COMMANDS = {
    "init": "dpotrain.cli.init",
    "run": "dpotrain.cli.run",
    "check": "dpotrain.cli.check",
    "inspect": "dpotrain.cli.inspect",
    "plan": "dpotrain.cli.plan",
    "watch": "dpotrain.cli.watch",
    "chat": "dpotrain.cli.chat",
    "show": "dpotrain.cli.show",
    "list": "dpotrain.cli.list_runs",
    "compare": "dpotrain.cli.compare",
    "report": "dpotrain.cli.report",
    "checkpoints": "dpotrain.cli.checkpoints",
    "sync": "dpotrain.cli.sync",
    "convert": "dpotrain.cli.convert",
    "plugins": "dpotrain.cli.plugins",
    "schema": "dpotrain.cli.schema",
    "completion": "dpotrain.cli.completion",
    "help": "dpotrain.cli.help",
}

#: Headings of ``dpotrain --help``; commands under none of them are under "More".
SECTIONS = {
    "Begin": {"init", "convert"},
    "Train": {"run", "watch", "check", "inspect", "plan"},
    "Look at runs": {"show", "list", "compare", "report", "chat", "checkpoints", "sync"},
}


@click.group(
    "dpotrain",
    cls=Program,
    modules=COMMANDS,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-V", "--version", prog_name="dpotrain")
@debug_option
def main() -> None:
    """Train language models on preference pairs with Direct Preference Optimization."""
