"""dpotrain: Direct Preference Optimization, packed, exact and extensible by plugins.

The public names are loaded on first use, so that ``import dpotrain`` costs nothing and a plugin that
only wants ``hookimpl`` does not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pluggy

from dpotrain.core import moved
from dpotrain.core.version import __version__ as __version__

#: Marks a function of a plugin as the implementation of a dpotrain hook.
hookimpl = pluggy.HookimplMarker("dpotrain")

if TYPE_CHECKING:
    from dpotrain.core.pair import PreferencePair as PreferencePair
    from dpotrain.core.records import Outcome as Outcome
    from dpotrain.recipe.load import load_recipe as load_recipe
    from dpotrain.recipe.recipe import Recipe as Recipe
    from dpotrain.ui.train import train as train

_HOMES = {
    "load_recipe": "dpotrain.recipe.load",
    "Recipe": "dpotrain.recipe.recipe",
    "train": "dpotrain.ui.train",
    "Outcome": "dpotrain.core.records",
    "PreferencePair": "dpotrain.core.pair",
}

__all__ = ["Outcome", "PreferencePair", "Recipe", "__version__", "hookimpl", "load_recipe", "train"]

moved.install()


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
