"""The tools that can be translated, and which of them a configuration is of."""

from __future__ import annotations

from dpotrain.convert.axolotl import AXOLOTL
from dpotrain.convert.configuration import Configuration
from dpotrain.convert.llama_factory import LLAMA_FACTORY
from dpotrain.convert.ms_swift import MS_SWIFT
from dpotrain.convert.translation import Tool
from dpotrain.convert.trl import TRL
from dpotrain.core.errors import RecipeError

TOOLS = {tool.option: tool for tool in (TRL, AXOLOTL, LLAMA_FACTORY, MS_SWIFT)}


def detect(configuration: Configuration) -> Tool:
    """Return the tool whose program or whose keys a configuration has.

    Raises:
        RecipeError: it has those of none, or as many of several.
    """
    for tool in TOOLS.values():
        if tool.programs & configuration.programs:
            return tool
    scores = {tool.option: len(tool.marks & configuration.values.keys()) for tool in TOOLS.values()}
    best = max(scores.values())
    likely = [name for name, score in scores.items() if score == best]
    if best and len(likely) == 1:
        return TOOLS[likely[0]]
    which = (
        f"it may be of {' or '.join(TOOLS[name].name for name in likely)}"
        if best
        else "it has keys of no tool"
    )
    raise RecipeError(
        f"{configuration.source}: {which}; say which: --from {' | '.join(likely if best else TOOLS)}"
    )
