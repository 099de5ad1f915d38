"""TOML to a typed, checked Recipe."""

from __future__ import annotations

from dpotrain.recipe.document import dump_recipe
from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.schema import recipe_schema

__all__ = ["Recipe", "dump_recipe", "load_recipe", "recipe_schema"]
