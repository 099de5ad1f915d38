"""The JSON schema of recipes, for editors that complete and check TOML."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dpotrain.plugin.api import DatasetFormatter, kind_of
from dpotrain.plugin.api.kinds import Kind
from dpotrain.plugin.api.nested import BESIDE, KIND
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.files import EXTENDS
from dpotrain.recipe.mixture import SOURCES
from dpotrain.recipe.sections.catalogue import CORE_SECTIONS, OPTIONAL_SECTIONS, required_tables
from dpotrain.recipe.sections.run import TopLevel

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NULL = {"type": "null"}


def recipe_schema(plugins: PluginManager) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of recipes that use these plugins.

    A recipe that extends another can omit what the other has; any other recipe must be complete.
    """
    whole, part = _Tables(plugins, complete=True), _Tables(plugins, complete=False)
    return {
        "$schema": DIALECT,
        "title": "dpotrain recipe",
        "type": "object",
        "if": {"required": [EXTENDS]},
        "then": part.recipe(),
        "else": whole.recipe(),
        "$defs": {**whole.definitions, **part.definitions},
    }


class _Tables:
    """Builds the tables of complete recipes, or of those that extend another."""

    def __init__(self, plugins: PluginManager, *, complete: bool) -> None:
        self.plugins, self.kinds, self.complete = plugins, plugins.kinds, complete
        self.definitions: dict[str, Any] = {}
        self._nested: list[Kind] = []
        """Kinds that tables inside of tables pick."""

    def recipe(self) -> dict[str, Any]:
        """Return the schema of the whole document."""
        properties = self.table(TopLevel, "top")["properties"]
        if not self.complete:
            properties[EXTENDS] = {"type": "string", "description": "A recipe that this one inherits from."}
        for name, model in CORE_SECTIONS.items():
            if name not in self.kinds.tables:
                table = self.table(model, name)
                properties[name] = (
                    {"anyOf": [table, {"const": False}]} if name in OPTIONAL_SECTIONS else table
                )
        for name, kind in self.kinds.tables.items():
            choice = self.data() if name == "data" else self.choice(kind, name)
            optional = kind.selected == "optional"
            properties[name] = {"anyOf": [choice, {"const": False}]} if optional else choice
        for name, kind in self.kinds.listed.items():
            properties[name] = {"type": "array", "items": self.choice(kind, name)}
        while (picked := self._next_nested()) is not None:
            names = list(self.plugins.names(picked.component))
            choice = self.choice(picked, _nested(picked))
            self.definitions[self._prefixed(_nested(picked))] = {"anyOf": [{"enum": names}, choice]}
        schema = {"properties": properties, "additionalProperties": False}
        if self.complete:
            schema["required"] = sorted(required_tables())
        return schema

    def data(self) -> dict[str, Any]:
        """Return the schema of ``[data]``: the keys of one source beside the core's, or several sources."""
        table = self.core_data()
        several = {**table, "properties": {**table["properties"]}}
        if self.complete:
            several["required"] = [SOURCES]
        listed = table["properties"].pop(SOURCES)
        several["properties"][SOURCES] = {**listed, "minItems": 1}
        one = self.choice(self.kinds.tables["data"], "data", table)
        return {key: [*variants, several] for key, variants in one.items()}

    def core_data(self) -> dict[str, Any]:
        """Return the core's keys of ``[data]``, with the formatters' names."""
        table = self.table(CORE_SECTIONS["data"], "data")
        names = ["auto", *self.plugins.names(DatasetFormatter)]
        table["properties"]["format"] = {
            "description": table["properties"]["format"]["description"],
            "default": "auto",
            "anyOf": [{"enum": names}, self.choice(kind_of(DatasetFormatter), "format")],
        }
        return table

    def choice(self, kind: Kind, name: str, shared: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the schema of a table in which ``use`` picks the component that the other keys belong to."""
        variants = []
        for component in self.plugins.components(kind.component):
            table = self.table(component.Options, f"{name}.{component.name}")
            if shared is not None:
                table["properties"] = shared["properties"] | table["properties"]
            about = (component.__doc__ or component.name).strip().splitlines()[0]
            use: dict[str, Any] = {"const": component.name, "description": about}
            is_default = component.name == self.kinds.default_use.get(name)
            use |= {"default": component.name} if is_default else {}
            table["properties"] = {"use": use, **table["properties"]}
            if self.complete:
                table["required"] = [*([] if is_default else ["use"]), *table.get("required", [])]
            variants.append(table)
        # Without `use` the keys alone may fit several components of one kind.
        return {"oneOf" if self.complete else "anyOf": variants}

    def table(self, model: type[BaseModel], name: str) -> dict[str, Any]:
        """Return the schema of one model; its definitions go into the document's."""
        prefix = f"{self._prefixed(name)}."
        schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
        for inner, definition in schema.pop("$defs", {}).items():
            self.definitions[prefix + inner] = self._with_nested(_without_null(definition))
        if not self.complete:
            schema.pop("required", None)
        return self._with_nested(_without_null(schema))  # type: ignore[no-any-return]

    def _with_nested(self, schema: Any) -> Any:
        """Return the schema with a reference in place of every table that picks a component."""
        if isinstance(schema, list):
            return [self._with_nested(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if BESIDE in schema:
            return self._together(schema)
        if KIND not in schema:
            return {key: self._with_nested(value) for key, value in schema.items()}
        kind = self.kinds.called(schema[KIND])
        if kind not in self._nested:
            self._nested.append(kind)
        rest = {key: value for key, value in schema.items() if key not in (KIND, "type")}
        return {"$ref": f"#/$defs/{self._prefixed(_nested(kind))}", **rest}

    def _together(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the schema of a table that holds a component and keys of its own, in one table or apart."""
        schema = dict(schema)
        key = schema.pop(BESIDE)
        kind = self.kinds.called(schema["properties"][key][KIND])
        own = self._with_nested({name: value for name, value in schema["properties"].items() if name != key})
        name = self._prefixed(f"{_nested(kind)}.{key}.{'.'.join(own)}")
        if name not in self.definitions:
            self.definitions[name] = {}  # a loss among whose options are losses comes here again
            together = self.choice(kind, _nested(kind), {"properties": own})
            choices = [self._with_nested(schema), together]
            if set(schema.get("required", ())) <= {key}:  # a name has the defaults of the other keys
                choices.append({"enum": list(self.plugins.names(kind.component))})
            self.definitions[name] = {"anyOf": choices}
        return {"$ref": f"#/$defs/{name}"}

    def _next_nested(self) -> Kind | None:
        """Return a kind that tables inside of tables pick and that has no definition yet."""
        left = [kind for kind in self._nested if self._prefixed(_nested(kind)) not in self.definitions]
        return left[0] if left else None

    def _prefixed(self, name: str) -> str:
        return f"{'' if self.complete else 'part.'}{name}"


def _nested(kind: Kind) -> str:
    """Return the name of the definition of a kind's tables inside of other tables."""
    return f"nested.{kind.component.__name__}"


def _without_null(schema: Any) -> Any:
    """Return the schema with ``false`` instead of null, which TOML does not have, and without titles."""
    if isinstance(schema, list):
        return [_without_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: _without_null(value)
        for key, value in schema.items()
        if not (key == "default" and value is None) and not (key == "title" and isinstance(value, str))
    }
    if _NULL in schema.get("anyOf", ()):
        found["anyOf"] = [{"const": False} if choice == _NULL else choice for choice in found["anyOf"]]
    return found
