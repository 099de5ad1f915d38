"""What the run ran on: versions, devices, plugins and the command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe

PACKAGES = (
    "dpotrain",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
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
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": devices or [f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()} cores"],
        "processes": processes,
        "command": sys.argv,
        "plugins": [
            {"name": each.name, "distribution": each.distribution, "version": each.version, "file": each.file}
            for each in recipe.plugins.active(recipe)
        ],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
