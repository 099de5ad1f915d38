"""The part of JSON Schema that recipe schemas use, so that the tests need no further package."""

import re
from typing import Any

_KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "default", "format", "writeOnly", "type", "const",
    "enum", "anyOf", "oneOf", "if", "then", "else", "required", "properties", "additionalProperties",
    "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "minLength", "pattern", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum",
}  # fmt: skip
_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def valid(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    """Whether a value conforms; raises for a keyword that is not known here."""
    if isinstance(schema, bool):
        return schema
    assert set(schema) <= _KNOWN, set(schema) - _KNOWN
    if "$ref" in schema:
        return valid(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    return all(_keyword(value, schema, keyword, root) for keyword in schema)


def _keyword(value: Any, schema: dict[str, Any], keyword: str, root: dict[str, Any]) -> bool:
    want = schema[keyword]
    match keyword:
        case "type":
            is_bool = isinstance(value, bool)
            return isinstance(value, _TYPES[want]) and (not is_bool or want == "boolean")
        case "const":
            return type(value) is type(want) and value == want
        case "enum":
            return any(type(value) is type(choice) and value == choice for choice in want)
        case "anyOf":
            return any(valid(value, choice, root) for choice in want)
        case "oneOf":
            return sum(valid(value, choice, root) for choice in want) == 1
        case "if":
            return valid(value, schema["then" if valid(value, want, root) else "else"], root)
    if isinstance(value, dict):
        return _object(value, schema, keyword, root)
    if isinstance(value, list):
        return _array(value, schema, keyword, root)
    if isinstance(value, str):
        return {
            "minLength": lambda: len(value) >= want,
            "pattern": lambda: re.search(want, value) is not None,
        }.get(keyword, lambda: True)()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {
            "minimum": lambda: value >= want,
            "maximum": lambda: value <= want,
            "exclusiveMinimum": lambda: value > want,
            "exclusiveMaximum": lambda: value < want,
        }.get(keyword, lambda: True)()
    return True


def _object(value: dict[str, Any], schema: dict[str, Any], keyword: str, root: dict[str, Any]) -> bool:
    want, known = schema[keyword], schema.get("properties", {})
    match keyword:
        case "required":
            return all(key in value for key in want)
        case "properties":
            return all(valid(value[key], want[key], root) for key in want if key in value)
        case "additionalProperties":
            return all(valid(item, want, root) for key, item in value.items() if key not in known)
    return True


def _array(value: list[Any], schema: dict[str, Any], keyword: str, root: dict[str, Any]) -> bool:
    want, prefix = schema[keyword], schema.get("prefixItems", [])
    match keyword:
        case "minItems":
            return len(value) >= want
        case "maxItems":
            return len(value) <= want
        case "prefixItems":
            return all(valid(item, inner, root) for item, inner in zip(value, want, strict=False))
        case "items":
            return all(valid(item, want, root) for item in value[len(prefix) :])
    return True
