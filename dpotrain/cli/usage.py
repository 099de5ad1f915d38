"""What a wrong command line says besides what is wrong: what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

#: Words that people try first, and the command that does it.
_HABITS = {
    "train": "run", "start": "run", "fit": "run", "dpo": "run", "resume": "run", "new": "init", "create": "init",
    "validate": "check", "lint": "check", "import": "convert", "migrate": "convert", "version": "--version",
    "estimate": "plan", "memory": "plan", "data": "inspect",
}  # fmt: skip


def no_command(name: str, known: Iterable[str], ctx: click.Context) -> click.UsageError:
    """Return the error for a command that does not exist, with the one that may be meant."""
    from dpotrain.core.errors import did_you_mean, short

    names = [*known]
    if hint := did_you_mean(name, names):
        return click.UsageError(f'there is no command "{short(name)}"{hint}', ctx)
    meant = _HABITS.get(name, "")
    if meant in names or meant.startswith("-"):
        return click.UsageError(f'there is no command "{short(name)}"; dpotrain {meant} does that', ctx)
    if name.endswith(".toml"):
        return click.UsageError(f'there is no command "{short(name)}"; to train: dpotrain run {name}', ctx)
    return click.UsageError(f'there is no command "{short(name)}"; there are {", ".join(names)}', ctx)


def with_remedy(error: click.UsageError, words: Sequence[str]) -> click.UsageError:
    """Return a usage error with what to write instead, or the error itself; ``words`` is the command line."""
    if isinstance(error, click.MissingParameter) and error.param is not None and error.param.name == "recipe":
        return click.UsageError(_missing_recipe(error), error.ctx)
    options = [] if error.ctx is None else [opt for param in error.ctx.command.params for opt in param.opts]
    remedy = _override(error, words) if "--set" in options else ""
    return click.UsageError(f"{error.format_message()}{remedy}", error.ctx) if remedy else error


def _override(error: click.UsageError, words: Sequence[str]) -> str:
    """Return the override that a word or an option was probably meant for, "" where none was."""
    if isinstance(error, click.NoSuchOption):
        return _option(error.option_name)
    for before, key, word in zip(["", "", *words], ["", *words], words, strict=False):
        if word not in error.message:
            continue
        if before == "--set" and "=" not in key:
            return f"; did you mean --set {key}={word}?"
        if "=" in word and not word.startswith("-"):
            return f"; did you mean --set {word}?"
    return ""


def _option(option: str) -> str:
    from dpotrain.recipe.foreign_keys import FOREIGN_KEYS

    name = option.lstrip("-").replace("-", "_")
    if "." in name:
        return f" Keys of the recipe are set by --set {name}=VALUE."
    found = FOREIGN_KEYS.get(name)
    if found is None:
        return ""
    if found.here and not found.here.startswith("["):
        return f" Keys of the recipe are set by --set {found.here}=VALUE."
    return f" Keys of the recipe are set by --set KEY=VALUE; {found.hint()}."


def _missing_recipe(error: click.MissingParameter) -> str:
    from dpotrain.cli.arguments import recipes_here

    command = error.ctx.info_name if error.ctx is not None else "run"
    found = [path.as_posix() for path in recipes_here()]
    lines = ["RECIPE is missing"]
    if found:
        shown = [f"  dpotrain {command} {path}" for path in found[:8]]
        lines += ["recipes that are here:", *shown, *(["  …"] if len(found) > 8 else [])]
    else:
        lines.append("there are no recipes here or in recipes/")
    lines.append("dpotrain init writes one, by questions")
    return "\n".join(lines)
