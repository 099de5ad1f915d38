"""Tool schemas and tool calls: objects, with what is JSON text parsed, and every null inside them kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dpotrain.core.messages.values import is_empty
from dpotrain.core.pair import UnusableRow


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Return tool schemas from a list of objects, one object, or the same as JSON text.

    Raises UnusableRow for anything else.
    """
    tools = parsed(value, "tools")
    if is_empty(tools):
        return []
    tools = [parsed(tool, "tools") for tool in (tools if isinstance(tools, list | tuple) else [tools])]
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise UnusableRow("tools is not a list of objects")
    return [dict(tool) for tool in tools]


def read_tool_calls(value: Any, what: str) -> list[dict[str, Any]]:
    """Return tool calls as chat templates take them: ``{"type": "function", "function": {"name", "arguments"}}``.

    Arguments that are JSON text become the object that they are, since templates differ in what they do with text.
    Raises UnusableRow for calls without a name and for arguments that are not an object.
    """
    calls = parsed(value, f"tool_calls of {what}")
    calls = calls if isinstance(calls, list | tuple) else [calls]
    return [_tool_call(call, what) for call in calls if call is not None]


def _tool_call(call: Any, what: str) -> dict[str, Any]:
    call = parsed(call, f"tool_calls of {what}")
    if not isinstance(call, Mapping):
        raise UnusableRow(f"tool_calls of {what} is not a list of objects")
    function = call.get("function")
    if function is None and "name" in call:
        function, call = call, {}
    if isinstance(function, str):
        # {"function": "name", "arguments": …}
        function, call = {**call, "name": function}, {}
        del function["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UnusableRow(f"a tool call of {what} names no function")
    rest = {key: one for key, one in call.items() if one is not None and key != "function"}
    body = {key: one for key, one in function.items() if one is not None}
    arguments = body.get("arguments", body.pop("parameters", {}))
    body["arguments"] = _arguments(arguments, what)
    return {"type": "function", **rest, "function": body}


def _arguments(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, str) and not value.strip():
        return {}
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        raise UnusableRow(f"the arguments of a tool call of {what} are not a JSON object")
    return dict(value)


def parsed(value: Any, what: str) -> Any:
    """Return what a text holds as JSON (None for a blank one), any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        raise UnusableRow(f"{what} is not JSON") from None
