"""What a key expects, in words, read off the JSON schema of its model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from dpotrain.plugin.api.nested import BESIDE, KIND

#: How the words for a component in a value begin; its kind follows.
PICKS = "a table in which use picks"
_NULL = {"type": "null"}
_TABLE = "a table"
_PLURALS = {
    "an integer": "integers",
    "a number": "numbers",
    "a path": "paths",
    "text": "texts",
}


class Expectations:
    """The keys of an options model or section, and the values that its JSON schema allows, in words."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema. It takes milliseconds and is built only where a message or a ``false`` needs it."""
        return self._model.model_json_schema()

    @property
    def keys(self) -> list[str]:
        """The keys of the table."""
        fields = self._model.model_fields.items()
        return [alias if isinstance(alias := field.validation_alias, str) else name for name, field in fields]

    def at(self, path: tuple[str | int, ...]) -> dict[str, Any] | None:
        """Return the schema of the value at a path, or None where the schema does not say."""
        schema: dict[str, Any] | None = self.schema
        for part in path:
            schema = None if schema is None else self._inside(self._resolved(schema), part)
        return None if schema is None else self._resolved(schema)

    def keys_inside(self, path: tuple[str | int, ...]) -> list[str]:
        """Return the keys of the table at a path, none where the schema does not say."""
        schema = self.at(path) or {}
        choices = (schema, *map(self._resolved, schema.get("anyOf", ())))
        return [key for choice in choices for key in choice.get("properties", {})]

    def phrase(self, path: tuple[str | int, ...]) -> str | None:
        """Return what is expected at a path: ``an integer >= 1``."""
        schema = self.at(path)
        return None if schema is None else self._phrase(schema)

    def is_secret(self, path: tuple[str | int, ...]) -> bool:
        """Whether the value must not be shown."""
        schema = self.at(path[:1])
        return schema is not None and "writeOnly" in json.dumps(schema)

    def components(self, table: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the places in a table where a component is picked, each with the kind."""
        yield from self._components(table, self.schema, ())

    def _components(
        self, value: Any, schema: dict[str, Any], at: tuple[str | int, ...]
    ) -> Iterator[tuple[tuple[str | int, ...], str]]:
        schema = self._resolved(schema)
        choices = [schema, *map(self._resolved, schema.get("anyOf", ()))]
        if isinstance(value, str) and any(choice.get("const") == value for choice in choices):
            return  # a word of its own, such as "auto"
        for choice in choices:
            if KIND in choice and isinstance(value, dict | str):
                yield at, choice[KIND]
                return
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from self._components(item, self._inside(schema, key) or {}, (*at, key))

    def apart(self, table: dict[str, Any]) -> tuple[dict[str, Any], dict[tuple[str | int, ...], list[str]]]:
        """Return a table with the keys of components apart from those beside them.

        And of each component whose keys were together with others its place, with those others that there may be.
        See :class:`dpotrain.plugin.api.nested.Beside`.
        """
        together: dict[tuple[str | int, ...], list[str]] = {}
        return self._apart(table, self.schema, (), together), together

    def _apart(
        self,
        value: Any,
        schema: dict[str, Any],
        at: tuple[str | int, ...],
        together: dict[tuple[str | int, ...], list[str]],
    ) -> Any:
        schema = self._resolved(schema)
        if isinstance(value, list):
            return [
                self._apart(item, self._inside(schema, place) or {}, (*at, place), together)
                for place, item in enumerate(value)
            ]
        choices = (schema, *map(self._resolved, schema.get("anyOf", ())))
        if isinstance(value, str) and not any(choice.get("type") == "string" for choice in choices):
            # A name stands for the component with its defaults, with the defaults of the keys beside it.
            value = next(({"use": value} for choice in choices if BESIDE in choice), value)
        if not isinstance(value, dict):
            return value
        for choice in choices:
            key = choice.get(BESIDE)
            if key is not None and "use" in value and key not in value:
                together[*at, key] = own = [name for name in choice["properties"] if name != key]
                inside = {name: item for name, item in value.items() if name not in own}
                value = {**{name: item for name, item in value.items() if name in own}, key: inside}
        return {
            key: self._apart(item, self._inside(schema, key) or {}, (*at, key), together)
            for key, item in value.items()
        }

    def none_for_false(self, table: dict[str, Any]) -> dict[str, Any]:
        """Return the table with None where it says ``false`` of something that may be none."""
        return self._none_for_false(table, self.schema) if _has_false(table) else table

    def _none_for_false(self, value: Any, schema: dict[str, Any]) -> Any:
        schema = self._resolved(schema)
        if value is False:
            return None if self._says_none_by_false(schema) else value
        if not isinstance(value, dict | list):
            return value
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found = {at: self._none_for_false(item, self._inside(schema, at) or {}) for at, item in items}
        return found if isinstance(value, dict) else list(found.values())

    def _says_none_by_false(self, schema: dict[str, Any]) -> bool:
        choices = [self._resolved(choice) for choice in schema.get("anyOf", ())]
        return _NULL in choices and not any(_takes_false(choice) for choice in choices)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            return self._resolved(self.schema["$defs"][schema["$ref"].removeprefix("#/$defs/")])
        return schema

    def _inside(self, schema: dict[str, Any], part: str | int) -> dict[str, Any] | None:
        for choice in schema.get("anyOf", ()):
            found = self._inside(self._resolved(choice), part)
            if found is not None:
                return found
        if isinstance(part, int):
            prefix = schema.get("prefixItems", [])
            inside = prefix[part] if part < len(prefix) else schema.get("items")
        else:
            inside = schema.get("properties", {}).get(part, schema.get("additionalProperties"))
        return inside if isinstance(inside, dict) else None

    def _phrase(self, schema: dict[str, Any]) -> str | None:
        schema = self._resolved(schema)
        if "anyOf" in schema:
            phrases = ["false" if choice == _NULL else self._phrase(choice) for choice in schema["anyOf"]]
            return None if None in phrases else " or ".join(dict.fromkeys(map(str, phrases)))
        if KIND in schema:
            return f"{PICKS} {'an' if schema[KIND][0] in 'aeiou' else 'a'} {schema[KIND]}"
        if "const" in schema:
            return shown(schema["const"])
        if "enum" in schema:
            return _alternatives([shown(value) for value in schema["enum"]])
        match schema.get("type"):
            case "integer":
                return "an integer" + _bounds(schema)
            case "number":
                return "a number" + _bounds(schema)
            case "null":
                return "false"
            case "boolean":
                return "true or false"
            case "string":
                return _text(schema)
            case "array":
                return self._list(schema)
        return "a table" if schema.get("type") == "object" else None

    def _list(self, schema: dict[str, Any]) -> str:
        if schema.get("prefixItems"):
            items = [self._phrase(item) or "anything" for item in schema["prefixItems"]]
            return f"a list of {len(items)} ({', '.join(items)})"
        item = self._phrase(schema.get("items", {})) or ""
        if item.startswith(_TABLE):
            return f"a list of tables{item.removeprefix(_TABLE)}"
        return f"a list of {_PLURALS[item]}" if item in _PLURALS else "a list"


def _has_false(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_false, value.values() if isinstance(value, dict) else value))
    return value is False


def shown(value: Any) -> str:
    """Return a value much as TOML writes it, shortened where it is long."""
    if isinstance(value, dict):
        return "a table"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)  # a date or time
    return text if len(text) <= 60 else f"{text[:57]}…"


def _takes_false(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "boolean" or False in schema.get("enum", ()) or schema.get("const") is False


def _text(schema: dict[str, Any]) -> str:
    what = {"path": "a path", "password": "a secret text"}.get(schema.get("format", ""), "text")
    if schema.get("minLength") == 1:
        return f"{what} that is not empty"
    return f"{what} that matches {schema['pattern']}" if "pattern" in schema else what


def _bounds(schema: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    parts = [f"{sign} {shown(schema[name])}" for name, sign in signs.items() if name in schema]
    return f" {' and '.join(parts)}" if parts else ""


def _alternatives(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
