"""Reading messages, however a data set writes them: role/content or from/value, None being absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import takewhile
from typing import Any, TypeAlias

from dpotrain.plugin.api import PreferencePair, UnusableRow

Row: TypeAlias = Mapping[str, Any]
Messages: TypeAlias = list[dict[str, Any]]

#: What data sets call the speakers, and what chat templates call them.
_ROLES = {
    **{role: role for role in ("system", "developer")},
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}


def looks_like_message(value: Any) -> bool:
    """Whether the value is one message in either spelling."""
    if not isinstance(value, Mapping):
        return False
    speaker = value.get("role", value.get("from"))
    return isinstance(speaker, str) and ("content" in value or "value" in value or "tool_calls" in value)


def looks_like_messages(value: Any) -> bool:
    """Whether the value is a non-empty list of messages, or the struct of lists Arrow may make of one."""
    value = _rows_of(value)
    return isinstance(value, list) and bool(value) and all(looks_like_message(one) for one in value)


def looks_like_answer(value: Any) -> bool:
    """Whether the value is one message or a list of them."""
    return looks_like_message(value) or looks_like_messages(value)


def read_messages(value: Any, what: str) -> Messages:
    """Return the messages in a value that is a list of them or a single one, without what is None.

    ``what`` names the column in the reason of the UnusableRow that a value of another kind raises.
    """
    if value is None:
        raise UnusableRow(f"{what} is missing")
    if looks_like_message(value):
        return [_message(value, what)]
    value = _rows_of(value)
    if not isinstance(value, list) or not all(one is None or looks_like_message(one) for one in value):
        raise UnusableRow(f"{what} is not a list of messages")
    messages = [_message(one, what) for one in value if one is not None]
    if not messages:
        raise UnusableRow(f"{what} is empty")
    return messages


def read_answer(value: Any, what: str) -> Messages:
    """Return an answer's messages; plain text is one assistant message."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return read_messages(value, what)


def read_text(row: Row, column: str) -> str:
    """Return a text column; raise UnusableRow where it is missing or something else."""
    value = row.get(column)
    if value is None:
        raise UnusableRow(f"{column} is missing")
    if not isinstance(value, str):
        raise UnusableRow(f"{column} is not text")
    return value


def without_prompt(answer: Messages, prompt: Messages) -> Messages:
    """Return the answer's own turns, where it repeats the prompt's."""
    repeats = len(answer) > len(prompt) and answer[: len(prompt)] == prompt
    return answer[len(prompt) :] if repeats else answer


def with_system(row: Row, messages: Messages) -> Messages:
    """Put the ``system`` column's text in front, unless the conversation has a system turn already."""
    system = row.get("system")
    has_one = bool(messages) and messages[0]["role"] == "system"
    if has_one or not isinstance(system, str) or not system.strip():
        return messages
    return [{"role": "system", "content": system}, *messages]


def read_tools(row: Row) -> list[dict[str, Any]]:
    """Return the ``tools`` column's schemas: a list of objects, or the same as JSON text."""
    tools = _from_json(row.get("tools"))
    if not tools:
        return []
    tools = [_from_json(tool) for tool in (tools if isinstance(tools, list) else [tools])]
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise UnusableRow("tools is not a list of objects")
    return [_present(tool) for tool in tools]


def _from_json(value: Any) -> Any:
    """Return what a text holds as JSON (nothing for a blank one), any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        raise UnusableRow("tools is not JSON") from None


def split_shared_turns(chosen: Messages, rejected: Messages, tools: list[dict[str, Any]]) -> PreferencePair:
    """Return the pair whose prompt is the leading turns that two whole conversations share.

    Each keeps at least one turn of its own: where one conversation is the beginning of the other, the prompt
    ends one turn earlier.
    """
    if chosen == rejected:
        raise UnusableRow("chosen and rejected are identical")
    shared = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False)))
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    if not shared:
        raise UnusableRow("chosen and rejected share no leading turn")
    return PreferencePair(chosen[:shared], chosen[shared:], rejected[shared:], tools)


def _message(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a message as chat templates take it."""
    value = dict(_present(value))
    speaker = str(value.pop("role", None) or value.pop("from", ""))
    value.pop("from", None)
    role = _ROLES.get(speaker.strip().lower())
    if role is None:
        raise UnusableRow(f'{what} has a turn of unknown role "{speaker}"')
    if "value" in value and "content" not in value:
        value["content"] = value.pop("value")
    if speaker == "function_call" and "tool_calls" not in value:
        calls = _tool_calls(value.get("content"))
        if calls:
            value |= {"content": "", "tool_calls": calls}
    return {"role": role, **value}


def _tool_calls(text: Any) -> list[dict[str, Any]]:
    """Return the calls that a ``function_call`` turn holds as JSON; none where it is something else."""
    try:
        calls = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return []
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        return []
    return [{"type": "function", "function": call} for call in calls]


def _present(value: Any) -> Any:
    """Return the value without what is None: Arrow fills a struct's absent keys with it."""
    if isinstance(value, Mapping):
        return {key: _present(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_present(one) for one in value]
    return value


def _rows_of(value: Any) -> Any:
    """Return a struct of equally long lists (an older Arrow form) as a list of structs."""
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            return value
        return [dict(zip(value, one, strict=True)) for one in zip(*value.values(), strict=True)]
    return list(value) if isinstance(value, tuple) else value
