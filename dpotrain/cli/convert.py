"""``dpotrain convert``: another trainer's configuration to a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from dpotrain.cli.group import debug_option


@click.command("convert", short_help="Translate a configuration of TRL, axolotl, LLaMA-Factory or ms-swift.")
@click.argument(
    "words",
    nargs=-1,
    required=True,
    metavar="FILE | -- COMMAND...",
    shell_complete=click.Path().shell_complete,
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="RECIPE",
    help="Where the recipe goes; - prints it.",
)
@click.option(
    "--from",
    "tool",
    type=click.Choice(["trl", "axolotl", "llama-factory", "ms-swift"]),
    help="Whose configuration it is; recognised unless given.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many processes it trained with; taken from the launcher where it says so, else 1.",
)
@click.option(
    "--without", multiple=True, metavar="KEY", help="Leave this key out. May be given several times."
)
@click.option("--force", is_flag=True, help="Overwrite the recipe where it exists.")
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    output: Path | None,
    tool: str | None,
    processes: int | None,
    without: tuple[str, ...],
    force: bool,
) -> None:
    """Translate a DPO configuration of TRL, axolotl, LLaMA-Factory or ms-swift to a recipe.

    FILE is YAML, JSON, or a shell script with the command. A command line can be given itself, after --:

    \b
    dpotrain convert config_full.yaml
    dpotrain convert -- accelerate launch dpo.py --model_name_or_path gpt2 --beta 0.2

    Each key is translated, or listed with the reason why not. A loss that dpotrain does not have is refused.

    \b
    Exit codes: 0 a recipe was written and trains the same, 1 a recipe was written and keys that change the training
    are missing in it, 2 nothing was written.
    """  # noqa: D301  # click wants the backspace itself
    from dpotrain.convert.convert import convert, default_path
    from dpotrain.convert.report import report_lines
    from dpotrain.core.errors import RecipeError
    from dpotrain.core.formats import printable

    converted = convert(words, tool=tool, processes=processes, without=without)
    path = output or default_path(words, converted.translation)
    printed = str(path) == "-"
    if printed:
        click.echo(converted.text, nl=False)
    elif path.exists() and not force:
        raise RecipeError(f"{path} exists already; --force overwrites it, -o RECIPE writes another file")
    else:
        try:
            path.write_text(converted.text, encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{path} cannot be written: {error.strerror}") from None
    for line in report_lines(converted, Path("recipe.toml") if printed else path):
        click.echo(printable(line), err=printed)
    if converted.translation.lost or converted.fault:
        ctx.exit(1)
