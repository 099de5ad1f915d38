"""Values of a row's columns: what is empty, and what is a conversation in another form (JSON text, a wrapper)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dpotrain.core.pair import UnusableRow

#: Roles of messages that instruct the model.
SYSTEM_ROLES = ("system", "developer")
#: What data sets call the speakers, and what chat templates call them.
ROLES = {
    **{role: role for role in SYSTEM_ROLES},
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response", "function", "ipython"), "tool"),
}

#: Keys under which a message may hold its reasoning.
REASONING = ("reasoning_content", "reasoning", "thinking")
#: Keys of a message that chat templates write.
WRITTEN = frozenset(("role", "content", "name", "tool_calls", *REASONING))

#: Names of columns, and of keys of a message, with what a text model can't be shown: without it, the rest of the row
#: means something else.
MEDIA = frozenset(("image", "images", "video", "videos", "audio", "audios"))

#: Keys under which data sets wrap a list of messages in an object.
_WRAPPERS = ("messages", "conversations", "conversation")

#: Keys beside a wrapped list of messages that belong to the pair, and that nothing would read.
_BESIDE = ("system", "system_prompt", "instructions", "prompt", "history", "tools", "functions")

#: Text that is an object or a list of them, as JSON (perhaps twice over) or as Python prints it …
_OBJECTS = re.compile(r"""\ufeff?\s*(?:"\s*)?(?:(?:array)?\(\s*)?(?:\[\s*)*\{\s*(\\?['"])\w+\1\s*:""")
#: … and names a speaker, or wraps those who do.
_SPEAKER = re.compile(r"""(\\?['"])(?:role|from|messages|conversations?)\1\s*:""")
#: Text that is a message of a library, or a list of them, as Python prints it: ``[HumanMessage(content='x')]``.
_PRINTED = re.compile(r"\s*(?:\[\s*)*\w{0,40}?Message\w{0,40}?\(\w+=")

_EMPTY_TEXTS = ("", "[]", "{}", "null", "none")


def is_empty(value: Any) -> bool:
    """Whether the value holds nothing: None, white space, an empty list or object, or one of empty values."""
    if value is None:
        return True
    if isinstance(value, str):
        return value.strip().lower() in _EMPTY_TEXTS
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return False


def reasoning_of(message: Mapping[str, Any]) -> Any:
    """Return a message's reasoning, under the first of its names that has some; an empty text without any."""
    return next((message[name] for name in REASONING if message.get(name)), "")


def is_message(value: Any) -> bool:
    """Whether the value is one message, with a speaker (``role``, ``from``) and something said."""
    if not isinstance(value, Mapping):
        return False
    speaker = value.get("role", value.get("from"))
    said = ("content", "value", "tool_calls", "function_call", "reasoning_content")
    return isinstance(speaker, str) and any(key in value for key in said)


def is_messages(value: Any) -> bool:
    """Whether the value is a list of at least one message and nothing else; None among them counts as absent."""
    if not isinstance(value, list) or not all(one is None or is_message(one) for one in value):
        return False
    return any(one is not None for one in value)


def unwrapped(value: Any, what: str) -> Any:
    """Return a conversation in another form as a list of messages or one message, any other value as it is.

    The forms are JSON text, an object with the list under ``messages`` or ``conversations``, the object of lists that
    Arrow may make of a list of objects, and a list around one such object. ``what`` names the column in the reason of
    the UnusableRow that text raises which is messages in a form other than JSON: as prose, it would be trained on.
    """
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, str):
        if not _PRINTED.match(value) and not (_OBJECTS.match(value) and _SPEAKER.search(value)):
            return value
        try:
            parsed = json.loads(value.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            raise UnusableRow(f"{what} is text that looks like messages and is not JSON") from None
        found = unwrapped(parsed, what)
        if isinstance(found, list) and any(map(is_messages, found)):
            raise UnusableRow(f"{what} is text that holds a list of conversations")
        # An object of another meaning, such as a person's record asked for as JSON, stays the text that it is.
        return found if is_messages(found) or _is_spoken(found) else value
    if isinstance(value, Mapping):
        inner = [value[key] for key in _WRAPPERS if not is_empty(value.get(key))]
        if len(inner) == 1 and not is_message(value):
            for key in _BESIDE:
                if not is_empty(value.get(key)):
                    raise UnusableRow(f"{what} holds {key} beside its messages")
            return unwrapped(inner[0], what)
        return _rows_of(value)
    if (
        isinstance(value, list)
        and len(value) == 1
        and isinstance(value[0], Mapping)
        and not is_message(value[0])
    ):
        # A list around one of the objects above.
        inside = unwrapped(value[0], what)
        return inside if is_messages(inside) else value
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        # Each turn is JSON text of its own.
        turns = [unwrapped(one, what) for one in value]
        return turns if is_messages(turns) else value
    return value


def _is_spoken(value: Any) -> bool:
    """Whether the value is a message of a speaker that chat data has."""
    return is_message(value) and str(value.get("role", value.get("from"))).strip().lower() in ROLES


def _rows_of(value: Mapping[str, Any]) -> Any:
    """Return an object of equally long lists as a list of objects, any other as it is."""
    if not value or not all(isinstance(column, list) for column in value.values()):
        return value
    if len({len(column) for column in value.values()}) > 1:
        return value
    return [dict(zip(value, one, strict=True)) for one in zip(*value.values(), strict=True)]
