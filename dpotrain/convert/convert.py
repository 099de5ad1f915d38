"""A configuration of another trainer to the text of a recipe, and what became of each key."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpotrain.convert.configuration import Configuration, read_configuration
from dpotrain.convert.tools import TOOLS, detect
from dpotrain.convert.translation import Translation
from dpotrain.core.errors import DpotrainError
from dpotrain.plugin.api import Loss
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.draft import check_draft


@dataclass(frozen=True, slots=True)
class Converted:
    """A recipe that was made of a configuration."""

    text: str
    translation: Translation
    assumed: bool
    """Whether the number of processes is a guess."""
    fault: str
    """What :func:`load_recipe` says against it; empty where nothing."""


def convert(
    words: Sequence[str],
    *,
    tool: str | None = None,
    processes: int | None = None,
    without: Collection[str] = (),
) -> Converted:
    """Translate a file, or a command line.

    Args:
        words: the name of a file, or the words of a command line.
        tool: an option of :data:`TOOLS`; recognised unless given.
        processes: how many processes train; the launcher's number unless given, else 1.
        without: keys to leave out.

    Raises:
        RecipeError: it cannot be read, is of no known tool, or has an objective that dpotrain does not have.
    """
    configuration = read_configuration(words)
    chosen = TOOLS[tool] if tool else detect(configuration)
    number = processes or configuration.processes
    losses = PluginManager.from_entry_points().names(Loss)
    translation = Translation(chosen, configuration, number or 1, losses, without)
    translation.notes += [
        f"{key} stands there several times, and the last counts" for key in configuration.repeated
    ]
    chosen.translate(translation)
    translation.finish()
    translation.draft.heading = _heading(configuration, chosen.name)
    text = translation.draft.text()
    fault = ""
    try:
        check_draft(text, "the recipe")
    except DpotrainError as error:
        fault = str(error)
    return Converted(text, translation, number is None, fault)


def default_path(words: Sequence[str], translation: Translation) -> Path:
    """Return where the recipe goes: a file of the working directory, called as the original or its output folder."""
    if len(words) == 1:
        return Path(f"{Path(words[0]).stem}.toml")
    folder = translation.configuration.values.get("output_dir")
    return Path(f"{Path(str(folder)).name if folder else 'dpo'}.toml")


def _heading(configuration: Configuration, tool: str) -> str:
    return (
        f"Translated by `dpotrain convert` from {configuration.source}, a configuration of {tool}. Comments name the "
        "keys that it had."
    )
