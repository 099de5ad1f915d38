"""From a TOML file and overrides to a checked :class:`Recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.api import Selection
from dpotrain.plugin.api.nested import picked
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.cross_checks import check_across_tables
from dpotrain.recipe.document import document_of
from dpotrain.recipe.files import EXTENDS, read_layers
from dpotrain.recipe.merge import Tree
from dpotrain.recipe.overrides import override_layer
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sections.catalogue import CORE_SECTIONS
from dpotrain.recipe.tables import TableReader


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    plugins: PluginManager | None = None,
) -> Recipe:
    """Read a recipe, check all of it, and construct the components it selects.

    Args:
        path: the TOML file.
        overrides: ``"table.key=value"`` texts as ``--set`` takes them, or a mapping of dotted keys to values.
        plugins: the plugins to choose from; the installed ones unless given.

    Raises:
        RecipeError: with everything that is wrong, each error with file, table, key and what was expected.
        DataError: if nothing but the data is wrong.
        PluginError: if nothing but plugins failed.
    """
    path = Path(path)
    reader = TableReader(read_document(path, overrides), plugins)
    sections = {name: reader.section(name) for name in CORE_SECTIONS}
    parts = {kind.table: reader.components(kind) for kind in reader.plugins.kinds}
    for name, section in sections.items():
        parts |= {".".join(map(str, (name, *path))): (part,) for path, part in picked(section)}
    check_across_tables(reader, sections, Selection(parts=parts, document=reader.tree.document))
    reader.check(parts)
    reader.problems.raise_if_any()
    return Recipe(
        seed=reader.top.seed,
        **sections,
        parts=parts,
        plugins=reader.plugins,
        document=document_of(reader.top, sections, parts, reader.plugins.kinds),
        path=path,
    )


def read_document(path: Path, overrides: Sequence[str] | Mapping[str, Any]) -> Tree:
    """Return a file, what it extends, and overrides, merged; raise a RecipeError for one that cannot be read."""
    tree = Tree(root=str(path))
    for origin, document in read_layers(path):
        tree.merge(document, origin)
    origin, document = override_layer(overrides)
    if EXTENDS in document:
        raise RecipeError(f"{origin}: extends: only a file can extend another; write it into the recipe")
    tree.merge(document, origin, is_file=False)
    return tree
