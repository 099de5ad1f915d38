"""One message in the form that chat templates take, whatever form the data set has: the one place that does it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from dpotrain.core.messages.tools import read_tool_calls
from dpotrain.core.messages.values import MEDIA, ROLES, is_empty, is_message, is_messages, unwrapped
from dpotrain.core.pair import UnusableRow

#: A conversation as chat templates take it: messages with ``role`` and ``content``, in order.
Messages: TypeAlias = list[dict[str, Any]]

#: Types of a content part that hold text, with the key that holds it.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_REASONING_PARTS = {"thinking": "thinking", "reasoning": "text"}
#: Text that is a list of parts, as JSON or as Python prints it.
_PARTS = re.compile(
    r"""\s*\[\s*\{\s*(['"])type\1\s*:\s*(['"])(?:text|input_text|output_text|image|image_url)\2\s*,"""
)


def read_messages(value: Any, what: str) -> Messages:
    """Return the messages in a value: a list of them, a single one, or another form of these.

    See :func:`dpotrain.core.messages.values.unwrapped` for the forms and :func:`normalised` for what becomes of each
    message. ``what`` names the column in the reason of the UnusableRow that any other value raises.
    """
    if value is None:
        raise UnusableRow(f"{what} is missing")
    value = unwrapped(value, what)
    if is_message(value):
        value = [value]
    if isinstance(value, list | str | Mapping) and not value:
        raise UnusableRow(f"{what} is empty")
    if not is_messages(value):
        raise UnusableRow(f"{what} is not a list of messages")
    return [_read(one, what) for one in value if one is not None]


def _read(message: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a message with the speaker's name and the keys that chat templates have."""
    message = dict(message)
    named = [one for one in (message.pop("role", None), message.pop("from", None)) if one]
    speaker = str(named[0]) if named else ""
    role = ROLES.get(speaker.strip().lower())
    if any(ROLES.get(str(one).strip().lower()) != role for one in named):
        raise UnusableRow(f"{what} has a turn of two speakers")
    if role is None:
        raise UnusableRow(f'{what} has a turn of unknown role "{speaker}"')
    said = message.pop("value", None)
    if message.get("content") is None:
        message["content"] = said
    elif said not in (None, "", message["content"]):
        raise UnusableRow(f"{what} has a turn with both content and value")
    if speaker == "function_call" and message.get("tool_calls") is None:
        calls = _calls_in(message["content"])
        if calls:
            message |= {"content": "", "tool_calls": calls}
    return normalised({"role": role, **message}, what)


def normalised(message: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a message whose content is text, whose tool calls have objects as arguments, and without keys of None.

    Content in parts is joined. None as content becomes an empty text. Null inside a tool call's arguments is kept: it
    means something. Raises UnusableRow for content that no text template can write, such as a picture, also where it
    stands beside the text under a key of its own.
    """
    found = {key: one for key, one in message.items() if one is not None}
    for key in found:
        if key in MEDIA and not is_empty(found[key]):
            raise UnusableRow(f'{what} has a turn with "{key}", which is not text')
    content, reasoning = _content(found.get("content"), what)
    refusal = found.pop("refusal", None)  # OpenAI's key for an answer that refuses
    if not is_empty(refusal):
        if content or not isinstance(refusal, str):
            raise UnusableRow(f"{what} has a turn with both content and refusal")
        content = refusal
    found["content"] = content
    if reasoning:
        found.setdefault("reasoning_content", reasoning)
    legacy = found.pop("function_call", None)  # OpenAI's form before tool_calls
    calls = found.pop("tool_calls", None)
    if calls and legacy:
        raise UnusableRow(f"{what} has a turn with both tool_calls and function_call")
    calls = read_tool_calls(calls or legacy, what)
    if calls:
        found["tool_calls"] = calls
    return found


def _content(value: Any, what: str) -> tuple[str, str]:
    """Return the text and the reasoning in a message's content."""
    if value is None:
        return "", ""
    if isinstance(value, str):
        if not _PARTS.match(value):
            return value, ""
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnusableRow(f"content of {what} is text that looks like parts and is not JSON") from None
    parts = [value] if isinstance(value, Mapping) else value
    if not isinstance(parts, list | tuple):
        raise UnusableRow(f"content of {what} is not text")
    if sum(isinstance(part, str) for part in parts) > 1:
        raise UnusableRow(f"content of {what} is a list of several texts")
    text, reasoning = "", ""
    for part in parts:
        if part is None:
            continue
        if isinstance(part, str):
            text += part
            continue
        kind = (part.get("type") or "text") if isinstance(part, Mapping) else None
        if not isinstance(kind, str):
            raise UnusableRow(f"content of {what} is not text")
        if kind in _REASONING_PARTS:
            reasoning += _text_of(part, _REASONING_PARTS[kind], what)
        elif kind in _TEXT_PARTS:
            text += _text_of(part, _TEXT_PARTS[kind], what)
        else:
            raise UnusableRow(f'content of {what} has a part of type "{kind}", which is not text')
    return text, reasoning


def _text_of(part: Mapping[str, Any], key: str, what: str) -> str:
    """Return the text of a content part; raise an UnusableRow where the part holds anything else as well."""
    others = [name for name, one in part.items() if name not in (key, "type") and not is_empty(one)]
    if not isinstance(part.get(key), str) or any(name not in _ANNOTATIONS for name in others):
        raise UnusableRow(f"content of {what} is not text")
    return str(part[key])


#: What may stand beside the text of a part and is no content of it.
_ANNOTATIONS = ("annotations", "cache_control", "signature", "logprobs", "index", "id")


def _calls_in(text: Any) -> list[dict[str, Any]]:
    """Return the calls that a ``function_call`` turn holds as JSON; none where it is something else."""
    try:
        calls = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return []
    calls = calls if isinstance(calls, list) else [calls]
    return calls if all(isinstance(call, dict) and "name" in call for call in calls) else []
