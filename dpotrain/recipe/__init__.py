"""TOML to a typed, checked Recipe.

The public names are imported on first use: listing plugins needs only the tables' types.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpotrain.recipe.document import dump_recipe as dump_recipe
    from dpotrain.recipe.load import load_recipe as load_recipe
    from dpotrain.recipe.recipe import Recipe as Recipe
    from dpotrain.recipe.schema import recipe_schema as recipe_schema

_HOMES = {
    "Recipe": "dpotrain.recipe.recipe",
    "dump_recipe": "dpotrain.recipe.document",
    "load_recipe": "dpotrain.recipe.load",
    "recipe_schema": "dpotrain.recipe.schema",
}

__all__ = ["Recipe", "dump_recipe", "load_recipe", "recipe_schema"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
