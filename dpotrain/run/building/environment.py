"""What the run ran on: versions, devices, plugins and the command line."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dpotrain.core.masking import MASK, mask
from dpotrain.core.packages import package_version

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe

PACKAGES = (
    "dpotrain",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "torchao",
    "datasets",
    "accelerate",
    "tokenizers",
    "safetensors",
    "pluggy",
    "pydantic",
)


def describe(recipe: Recipe, processes: int) -> dict[str, Any]:
    """Return plain data for environment.json. No environment variable is in it: they may hold secrets."""
    import torch

    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "devices": devices or [f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()} cores"],
        "processes": processes,
        "command": _without_secrets(sys.argv, recipe.document),
        "plugins": [
            {**told, "file": plugin.file}
            for told, plugin in zip(
                recipe.plugins.provenance(recipe), recipe.plugins.active(recipe), strict=True
            )
        ],
    }


def _without_secrets(arguments: Sequence[str], document: Mapping[str, Any]) -> list[str]:
    """Mask the value of every ``--set key=value`` but those of plain values in the resolved recipe: secrets never are.

    A table or list of tables is masked whole, since only some of its keys may be in the resolved recipe.
    """
    shown = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        start = "--set=" if argument.startswith("--set=") else ""
        key, equals, value = argument.removeprefix(start).partition("=")
        overrides = bool(start) or before == "--set"
        secret = overrides and equals and value != "false" and not _holds(document, key.strip())
        shown.append(f"{start}{key}={MASK}" if secret else mask(argument))
    return shown


def _holds(document: Any, key: str) -> bool:
    """Whether a dotted key, such as ``loggers.0.project``, leads to a plain value, or to a list of them."""
    for part in key.split("."):
        if isinstance(document, Mapping) and part in document:
            document = document[part]
        elif isinstance(document, list) and part.isdigit() and int(part) < len(document):
            document = document[int(part)]
        else:
            return False
    inner = document if isinstance(document, list) else [document]
    return not any(isinstance(value, Mapping | list) for value in inner)
