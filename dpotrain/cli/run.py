"""``dpotrain run``: train what a recipe says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpotrain.cli.arguments import RecipePath
from dpotrain.cli.group import debug_option, set_option, wants_traceback

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe

#: The options of the launcher.
_LAUNCHER = ("--processes", "--machines", "--rendezvous", "--max-restarts")


@click.command("run", short_help="Train what a recipe says.")
@click.argument("recipe", type=RecipePath())
@set_option
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the recipe's run folder.")
@click.option("--plain", is_flag=True, help="Show the run as plain lines, on a terminal too.")
@click.option(
    "--processes",
    metavar="N|all",
    help="Train in N processes on this machine, or in one on each of its CUDA devices.",
)
@click.option(
    "--machines",
    metavar="N",
    help="Train on N machines, or on FEWEST:MOST; give the same command on each, with --processes and --rendezvous.",
)
@click.option(
    "--rendezvous",
    metavar="HOST:PORT",
    help="Where the machines meet: one of them, and a port that is free there.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    metavar="N",
    help="Resume up to N times by itself after a process was killed or a machine was lost (3 unless given).",
)
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    recipe: Path,
    overrides: tuple[str, ...],
    resume: bool,
    plain: bool,
    processes: str | None,
    machines: str | None,
    rendezvous: str | None,
    max_restarts: int | None,
) -> None:
    """Train what RECIPE, a TOML file, says.

    \b
    Exit codes: 0 done, 1 failed, 2 the recipe or the command line is wrong, 3 the data is wrong,
    75 stopped on a signal after saving (go on with --resume), 76 a process or a machine was lost.
    """  # noqa: D301  # click wants the backspace itself
    asked = processes, machines, rendezvous, max_restarts
    if any(value is not None for value in asked):
        words = ["run", str(recipe), *(word for each in overrides for word in ("--set", each))]
        flags = {"--resume": resume, "--plain": plain, "--debug": wants_traceback(ctx)}
        words += [flag for flag, given in flags.items() if given]
        code = _launched(words, recipe, overrides, asked)
        if code is not None:
            ctx.exit(code)

    from dpotrain.core.errors import RunStopped
    from dpotrain.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    if (more := _asked_by_accelerate(loaded)) is not None:
        loaded = load_recipe(recipe, (*overrides, *more))
    from dpotrain.ui import reporter
    from dpotrain.ui.train import train

    shown = reporter(plain=plain, evaluate_every=loaded.evaluation.every)
    outcome = train(loaded, resume=resume, reporter=shown)
    if outcome.status == "stopped":
        # How to go on stands in the closing summary.
        raise RunStopped(f"the run was stopped after step {outcome.steps} and its state is saved")


def _launched(
    words: list[str],
    recipe: Path,
    overrides: tuple[str, ...],
    asked: tuple[str | None, str | None, str | None, int | None],
) -> int | None:
    """Run in several processes, each with ``words``, and return the exit code; None if one process is asked for."""
    from dpotrain.engine.launching.passing_signals import passing_signals
    from dpotrain.engine.launching.processes import RankProcesses, rank_command
    from dpotrain.engine.launching.request import launch_request
    from dpotrain.recipe.load import load_recipe
    from dpotrain.ui.errors import print_error

    # Read as torch is imported: a connection to a machine that is lost is no reason to show frames of C++.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    ranks = RankProcesses(rank_command(words))
    with passing_signals(ranks, print_error):
        loaded = load_recipe(
            recipe, overrides
        )  # what is wrong with it is said once, and not by every process
        request = launch_request(*asked, os.environ)
        if request is None:
            return None
        from dpotrain.core.launched_with import LAUNCH_OPTIONS
        from dpotrain.engine.launching.launch import launch

        # The ranks inherit it, and say how the run is resumed.
        given = zip(_LAUNCHER, asked, strict=True)
        options = [word for name, value in given if value is not None for word in (name, str(value))]
        os.environ[LAUNCH_OPTIONS] = "\n".join(options)
        return launch(request, ranks, loaded.document, _say)


def _asked_by_accelerate(recipe: Recipe) -> list[str] | None:
    """Return what a configuration of accelerate says of ``[parallel]``, as overrides; None without one."""
    from dpotrain.engine.parallel.accelerate_config import take_fsdp_config
    from dpotrain.engine.parallel.parallelism_config import take_parallelism_config

    fsdp, sizes = take_fsdp_config(os.environ), take_parallelism_config(os.environ)
    values: dict[str, list[str]] = {}
    if fsdp is not None:
        values[fsdp.source] = fsdp.with_recipe(recipe.parallel, recipe.training.activation_checkpointing)
    if sizes is not None:  # which say more than a strategy of FSDP does, so they come last
        values[sizes.source] = sizes.with_recipe(recipe.parallel)
    if os.environ.get("RANK", "0") == "0":
        notes = [
            f"{source} of the accelerate configuration: {', '.join(each)}" for source, each in values.items()
        ]
        for note in (*notes, *(() if fsdp is None else fsdp.notes)):
            _say(note)
    return [override for each in values.values() for override in each] or None


def _say(text: str) -> None:
    from dpotrain.core.masking import mask

    click.echo(mask(f"note: {text}"), err=True)
