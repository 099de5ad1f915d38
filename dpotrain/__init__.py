"""dpotrain: Direct Preference Optimization, packed, exact and extensible by plugins.

The public names are loaded on first use, so that ``import dpotrain`` costs nothing and a plugin that
only wants ``hookimpl`` does not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pluggy

__version__ = "0.1.0"

#: Marks a function of a plugin as the implementation of a dpotrain hook.
hookimpl = pluggy.HookimplMarker("dpotrain")

if TYPE_CHECKING:
    from dpotrain.data.pair import PreferencePair as PreferencePair
    from dpotrain.recipe import Recipe as Recipe
    from dpotrain.recipe import load_recipe as load_recipe
    from dpotrain.run import train as train
    from dpotrain.run.records import Outcome as Outcome

_HOMES = {
    "load_recipe": "dpotrain.recipe",
    "Recipe": "dpotrain.recipe",
    "train": "dpotrain.run",
    "Outcome": "dpotrain.run.records",
    "PreferencePair": "dpotrain.data.pair",
}

__all__ = ["Outcome", "PreferencePair", "Recipe", "__version__", "hookimpl", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
