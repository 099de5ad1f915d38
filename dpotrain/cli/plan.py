"""``dpotrain plan``: memory and time of a run, without loading its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpotrain.cli.arguments import RecipePath
from dpotrain.cli.group import debug_option, set_option

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe

_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def read_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a size as people write it: ``24`` (GB), ``24GB``, ``80 GiB``; powers of 1024, as GPUs are sold."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|(b))?\s*", value.lower())
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{value!r} is not a size; write it as 24GB", ctx, param)
    return int(float(found[1]) * (1 if found[3] else _UNITS[found[2] or "g"]))


def read_link(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read the rate of a link, in GB a second or by its name, as bytes a second."""
    if value is None:
        return None
    from dpotrain.run.planning.devices import LINKS

    word = value.strip().lower()
    if word in LINKS:
        return LINKS[word]
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:gb(?:\/s)?)?", word)
    if found is None or not float(found[1]):
        names = ", ".join(LINKS)
        raise click.BadParameter(
            f"{value!r} is not a rate; write GB a second, such as 25, or one of {names}", ctx, param
        )
    return float(found[1]) * 1e9


@click.command("plan", short_help="Predict the memory of a run, by part, and its time.")
@click.argument("recipe", type=RecipePath())
@set_option
@click.option(
    "--memory", callback=read_size, metavar="GB", help="Plan for a GPU with so much memory, such as 24GB."
)
@click.option(
    "--devices",
    type=click.IntRange(1),
    metavar="N",
    help="Plan for a run on so many devices: GPUs of --memory, or such as this machine has.",
)
@click.option(
    "--link",
    callback=read_link,
    metavar="GB/S",
    help="How fast each device sends: GB a second, or nvlink (300), network (35), pcie (20). Unless set, NVLink among "
    "8 devices of a machine, and a network between machines.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="10^12 operations a second that a device reaches in training. Unless set, this machine's device is measured, "
    "and of others --devices assumes an A100: 125 in bfloat16.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes are bytes.")
@debug_option
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    memory: int | None,
    devices: int | None,
    link: float | None,
    tflops: float | None,
    as_json: bool,
) -> None:
    """Predict the memory of RECIPE on this machine's GPU or CPU, by part, its steps and its time.

    Tokenizes the data and counts the model from its configuration; no weights are loaded. Where the run does not
    fit, it lists what to change.

    With --devices it shows what each device holds, how `dpotrain run` would spread the run over them and why, and what
    sharding and context parallelism would change: memory, the longest pair, bytes sent in a step, tokens a second.
    """
    if link is not None and devices is None:
        raise click.UsageError("--link is for several devices; give --devices, too")
    from dpotrain.core.packages import import_transformers
    from dpotrain.core.reporter import SilentReporter, showing_warnings
    from dpotrain.plugin.runtime.failures import naming_components
    from dpotrain.recipe.load import load_recipe
    from dpotrain.ui import reporter

    loaded = load_recipe(recipe, overrides)
    import_transformers()
    from dpotrain.core.paths import cache_folder
    from dpotrain.data.prepare import prepare_data  # imports what a wrong recipe need not wait for
    from dpotrain.run.folder.log import logging_to
    from dpotrain.run.folder.restrict_umask import restrict_umask
    from dpotrain.run.planning.devices import Asked
    from dpotrain.run.planning.plan import make_plan

    with (
        naming_components(loaded, loaded.plugins),
        restrict_umask(),
        SilentReporter() if as_json else reporter() as shown,
        # What libraries say of themselves is in a run's log; here there is none.
        logging_to(Path(os.devnull), shown.warn),
        showing_warnings(shown),
    ):
        cache = cache_folder(loaded.run.cache_dir)
        data = prepare_data(loaded, loaded.model.load_tokenizer(), shown, cache=cache)

        def reload(more: Sequence[str]) -> Recipe:
            return load_recipe(recipe, (*overrides, *more), plugins=loaded.plugins)

        asked = Asked(devices or 1, link, None if tflops is None else tflops * 1e12)
        plan = make_plan(loaded, data, memory, reload, asked)
    if as_json:
        import json

        click.echo(json.dumps(plan.as_json(), indent=2))
        return
    from dpotrain.ui.plan import print_plan

    print_plan(plan, command=(str(recipe), *(word for each in overrides for word in ("--set", each))))
