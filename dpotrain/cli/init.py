"""``dpotrain init``: a first recipe, by questions or flags."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpotrain.cli.group import debug_option
from dpotrain.cli.plan import read_size

if TYPE_CHECKING:
    from dpotrain.plugin.runtime.manager import PluginManager
    from dpotrain.scaffold.first_recipe.answers import Answers, Choices
    from dpotrain.scaffold.first_recipe.looking import Data, Machine, Model


_POSITIVE = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)


@click.command("init", short_help="Write a first recipe, by questions or flags.")
@click.argument("file", type=click.Path(path_type=Path), default=Path("recipe.toml"))
@click.option(
    "--model", metavar="NAME", shell_complete=click.Path().shell_complete, help="A hub name, or a folder."
)
@click.option(
    "--model_name_or_path",
    "script_model",
    metavar="NAME",
    help="The same, as training scripts call it; then all weights are trained unless --use_lora is given.",
)
@click.option(
    "--data",
    "--dataset_name",
    metavar="NAME",
    shell_complete=click.Path().shell_complete,
    help="A hub name, a folder, or a json, jsonl, csv or parquet file.",
)
@click.option(
    "--output-dir", "--output_dir", type=click.Path(path_type=Path), metavar="FOLDER", help="The run folder."
)
@click.option(
    "--memory", callback=read_size, metavar="SIZE", help="Memory of the GPU it will train on, such as 24GB."
)
@click.option("--lora/--full", default=None, help="Train a LoRA adapter, or all weights.")
@click.option("--use_lora", is_flag=True, help="The same as --lora.")
@click.option("--4bit/--no-4bit", "four_bit", default=None, help="Hold the weights in 4 bits (with --lora).")
@click.option("--use_4bit", is_flag=True, help="The same as --4bit.")
@click.option("--loss", metavar="NAME", help="The objective; dpo unless given.")
@click.option(
    "--beta",
    type=_POSITIVE,
    metavar="X",
    help="Strength of the pull to the reference.",
)
@click.option("--rank", "--lora_r", type=_COUNT, metavar="N", help="Rank of the adapter.")
@click.option(
    "--alpha",
    "--lora_alpha",
    type=_POSITIVE,
    metavar="X",
    help="Scale of the adapter.",
)
@click.option(
    "--lr",
    "--learning_rate",
    type=_POSITIVE,
    metavar="X",
    help="Peak learning rate.",
)
@click.option("--epochs", "--num_train_epochs", type=_COUNT, metavar="N", help="Passes over the pairs.")
@click.option("--pairs-per-step", type=_COUNT, metavar="N", help="Pairs in one update.")
@click.option(
    "--per_device_train_batch_size",
    "batch",
    type=_COUNT,
    metavar="N",
    help="Pairs of a batch; times the next, those in one update.",
)
@click.option(
    "--gradient_accumulation_steps",
    "accumulation",
    type=_COUNT,
    metavar="N",
    help="Batches in one update.",
)
@click.option(
    "--max-length", "--max_length", type=click.IntRange(min=2), metavar="N", help="Tokens of prompt + answer."
)
@click.option(
    "--max-prompt-length",
    "--max_prompt_length",
    type=_COUNT,
    metavar="N",
    help="Tokens of the prompt; longer ones are cut at their start.",
)
@click.option(
    "--logging-steps",
    "--logging_steps",
    type=_COUNT,
    metavar="N",
    help="Steps between records.",
)
@click.option("--save-steps", "--save_steps", type=_COUNT, metavar="N", help="Steps between checkpoints.")
@click.option("--wandb", "--use_wandb", is_flag=True, help="Log to Weights & Biases.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing; take what is suggested.")
@click.option("--force", is_flag=True, help="Overwrite FILE where it exists.")
@debug_option
def command(file: Path, force: bool, script_model: str | None, **flags: Any) -> None:
    """Write a commented recipe to FILE, recipe.toml unless given.

    On a terminal it asks for what no flag says: model, data, memory, LoRA, 4 bits, objective. Elsewhere, and with
    --yes, it takes what fits the model, the data and this machine. It reads files and folders that are here, and
    neither loads weights nor uses the network.
    """
    from dpotrain.core.errors import RecipeError
    from dpotrain.core.formats import printable
    from dpotrain.recipe.draft import check_draft
    from dpotrain.scaffold.first_recipe.answers import choose
    from dpotrain.scaffold.first_recipe.writing import write

    if script_model is not None:
        flags["model"] = flags["model"] or script_model
        flags["lora"] = bool(flags["lora"] or flags["use_lora"] or flags["use_4bit"])
    if file.exists() and not force:
        raise RecipeError(f"{file} exists already; name another file, or pass --force to overwrite it")
    answers = _answers(flags, asks=is_terminal() and not flags["yes"])
    choices = choose(answers)
    text = write(answers, choices, str(file))
    check_draft(text, str(file))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{file} cannot be written: {error.strerror}") from None
    what = (
        "LoRA" + (" on 4-bit weights" if choices.four_bit else "") if choices.lora else "all weights trained"
    )
    click.echo(
        f"{file}: {answers.loss}, {what}, {choices.pairs_per_step} pairs a step, for {answers.machine.describe()}"
    )
    click.echo(
        f"  {_evaluation(choices)}, a checkpoint every {choices.save_every} steps, results in {choices.output_dir}"
    )
    if answers.data.fault:
        click.echo(f"note: the data cannot be read yet. {printable(answers.data.fault)}")
    if not choices.fits:
        click.echo(
            "note: it may not fit into memory; dpotrain plan says what it takes, and what would make it smaller"
        )
    click.echo("next:")
    for name, about in (
        ("check", "everything but the weights, and one pair as the model sees it"),
        ("inspect", "what is in the data"),
        ("plan", "memory and time"),
        ("run", "train"),
    ):
        click.echo(f"  dpotrain {name} {file}".ljust(30 + len(str(file))) + f"# {about}")


def _evaluation(choices: Choices) -> str:
    if choices.eval_split is not None:
        return f"evaluated on the split {choices.eval_split}"
    if choices.eval_fraction is not None:
        return f"evaluated on {choices.eval_fraction * 100:g} % of the prompts, which are held out"
    return "too few rows to hold some out for evaluation"


def is_terminal() -> bool:
    """Whether somebody can answer."""
    return sys.stdin.isatty()


def _answers(flags: dict[str, Any], *, asks: bool) -> Answers:
    """Return what flags say, and what a person answers where they may be asked."""
    from dpotrain.core.errors import RecipeError
    from dpotrain.plugin.runtime.manager import PluginManager
    from dpotrain.scaffold.first_recipe.answers import Answers, wants_four_bit, wants_lora

    missing = [f"--{name}" for name in ("model", "data") if not flags[name]]
    if missing and not asks:
        raise RecipeError(f"{' and '.join(missing)} must be given where nobody can be asked")
    plugins = PluginManager.from_entry_points()
    model = _model(flags["model"])
    data = _data(flags["data"], plugins)
    machine = _machine(flags["memory"], asks)
    lora = True if flags["use_lora"] else flags["lora"]
    four_bit = True if flags["use_4bit"] else flags["four_bit"]
    if lora is None and asks:
        lora = click.confirm("Train a LoRA adapter (else all weights)?", default=wants_lora(model, machine))
    if lora is None:
        lora = bool(four_bit) or wants_lora(model, machine)
    if four_bit and not lora:
        raise RecipeError("--4bit needs --lora: weights in 4 bits cannot be trained themselves")
    if four_bit is None and lora and asks:
        four_bit = click.confirm("Hold the weights in 4 bits?", default=wants_four_bit(model, machine))
    size, times = flags["batch"], flags["accumulation"]
    pairs = flags["pairs_per_step"] or ((size or 1) * (times or 1) if size or times else None)
    loss = _loss(flags["loss"], plugins, asks)
    return Answers(
        model=model,
        data=data,
        machine=machine,
        output_dir=flags["output_dir"],
        lora=lora,
        four_bit=four_bit,
        loss=loss,
        beta=_beta(flags["beta"], loss, plugins),
        rank=flags["rank"],
        alpha=flags["alpha"],
        lr=flags["lr"],
        epochs=flags["epochs"] or 1,
        pairs_per_step=pairs,
        max_length=flags["max_length"] or 1024,
        max_prompt_length=flags["max_prompt_length"],
        log_every=flags["logging_steps"],
        save_every=flags["save_steps"],
        loggers=("wandb",) if flags["wandb"] else (),
    )


def _model(name: str | None) -> Model:
    from dpotrain.scaffold.first_recipe.looking import look_at_model

    name = name or click.prompt("Model (a hub name, or a folder)", type=str)
    model = look_at_model(name)
    if found := model.describe():
        click.echo(f"  {name}: {found}")
    return model


def _data(name: str | None, plugins: PluginManager) -> Data:
    """Return what is known of the data; a person is asked again where the files are not there."""
    from dpotrain.core.errors import DpotrainError
    from dpotrain.scaffold.first_recipe.looking import look_at_data

    while True:
        chosen = name or click.prompt(
            "Data (a hub name, a folder, or a jsonl, json, csv or parquet file)", type=str
        )
        try:
            data = look_at_data(chosen, plugins)
        except DpotrainError as error:
            if name:
                raise
            click.echo("\n".join(f"  {line}" for line in str(error).splitlines()))
            continue
        if found := data.describe():
            click.echo(f"  {chosen}: {found}")
        return data


def _machine(memory: int | None, asks: bool) -> Machine:
    from dpotrain.core.formats import megabytes
    from dpotrain.scaffold.first_recipe.looking import Machine, look_at_machine

    if memory is not None:
        return Machine(gpu=True, memory=memory)
    machine = look_at_machine()
    if not asks:
        return machine
    shown = megabytes(machine.memory / 2**20)
    here = f"this machine's GPU, {shown}" if machine.gpu else f"this machine, {shown} without a GPU"
    context, option = click.get_current_context(), click.Option(["--memory"])
    size = click.prompt(
        f"Memory of the GPU it will train on, such as 24GB ({here})",
        default="here",
        value_proc=lambda text: None if text == "here" else read_size(context, option, text),
    )
    return machine if size is None else Machine(gpu=True, memory=size)


def _loss(name: str | None, plugins: PluginManager, asks: bool) -> str:
    from dpotrain.core.errors import RecipeError, did_you_mean
    from dpotrain.plugin.api import Loss

    names = plugins.names(Loss)
    if name is None and asks:
        return str(click.prompt("Objective", default="dpo", type=click.Choice(names)))
    if name is not None and name not in names:
        hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
        raise RecipeError(f'--loss: there is no loss "{name}"{hint}')
    return name or "dpo"


def _beta(given: float | None, loss: str, plugins: PluginManager) -> float | None:
    """Return the beta that the recipe is to have: what is given, else the loss's default, None where it has none."""
    from dpotrain.core.errors import RecipeError
    from dpotrain.plugin.api import Loss

    default: float | None = plugins.find(Loss, loss).Options.model_fields["beta"].default
    if default is None and given is not None:
        raise RecipeError(f"--beta: the loss {loss} has no beta")
    return given or default
