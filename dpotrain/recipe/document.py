"""The resolved recipe as plain data and as TOML, defaults included and secrets left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w
from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from dpotrain.core.masking import mask_data, mask_values
from dpotrain.plugin.api import Component
from dpotrain.plugin.api.kinds import Kinds
from dpotrain.plugin.api.nested import Beside
from dpotrain.recipe.mixture import SOURCES
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sections.catalogue import tables_of
from dpotrain.recipe.sections.run import TopLevel


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as TOML that :func:`load_recipe` reads as the same recipe, without secrets."""
    # Once more: a component may have made options with secrets since the document was put together.
    document = mask_data(recipe.document)
    # tomli_w writes short tables of a list on one line each; recipes use [[table]].
    tables = [
        tomli_w.dumps({name: table}).replace(f"[{name}]", f"[[{name}]]", 1)
        for name in recipe.plugins.kinds.listed
        for table in document.pop(name, [])
    ]
    return "\n".join([tomli_w.dumps(document), *tables])


def document_of(
    top: TopLevel,
    sections: Mapping[str, BaseModel | None],
    parts: Mapping[str, Sequence[Component]],
    kinds: Kinds,
) -> dict[str, Any]:
    """Return plain data in the order of the recipe reference; ``parts`` are by the table of their kind."""
    tables: dict[str, Any] = {
        name: plain(section) for name, section in sections.items() if section is not None
    }
    if not tables["data"][SOURCES]:
        del tables["data"][SOURCES]
    for kind in kinds:
        found = [{"use": part.name, **plain(part.options)} for part in parts.get(kind.table, ())]
        if kind.selected == "listed":
            tables |= {kind.table: found} if found else {}
        elif found and kind.selected == "key":
            table, _, key = kind.table.partition(".")
            tables[table][key] = found[0] if found[0].keys() > {"use"} else found[0]["use"]
        elif found:
            tables[kind.table] = found[0] | tables.get(kind.table, {})
    document = {key: value for key, value in plain(top).items() if value != []}
    return document | {name: tables[name] for name in tables_of(kinds) if name in tables}


def plain(model: BaseModel) -> dict[str, Any]:
    """Return a model as TOML can hold it: without secrets, and ``false`` for a None that is not the default."""
    fields = type(model).model_fields
    values = {field.alias or name: (getattr(model, name), field.default) for name, field in fields.items()}
    return {
        name: _plain(value)
        for name, (value, default) in values.items()
        if not isinstance(value, SecretStr | SecretBytes) and not (value is None and default is None)
    }


def _together(table: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a :class:`Beside` with its component's keys in it, unless one is also a key of its own."""
    key, component = next(
        (key, value) for key, value in table.items() if isinstance(value, dict) and "use" in value
    )
    own = {name: value for name, value in table.items() if name != key}
    return table if own.keys() & component.keys() else {**component, **own}


def _plain(value: Any) -> Any:
    if value is None:
        return False
    if isinstance(value, Component):
        return {"use": value.name, **plain(value.options)}
    if isinstance(value, Beside):
        return _together(plain(value))
    if isinstance(value, BaseModel):
        return plain(value)
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item)
            for key, item in value.items()
            if item is not None and not isinstance(item, SecretStr | SecretBytes)
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value if not isinstance(item, SecretStr | SecretBytes)]
    return mask_values(value) if isinstance(value, str) else to_jsonable_python(value)
