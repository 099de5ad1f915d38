"""Checks of a pair before it is tokenized, whichever formatter it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpotrain.core.messages.values import REASONING
from dpotrain.core.pair import PreferencePair, Text, UnusableRow

#: Messages where an answer has several: each of its turns is located by rendering all before it, so work is quadratic.
MOST_MESSAGES = 1000

#: Keys of a message besides its content that a chat template writes as said by the speaker.
_SAID = ("tool_calls", *REASONING)


def check_pair(pair: PreferencePair) -> None:
    """Raise :class:`UnusableRow` for a pair that cannot be trained on."""
    parts = {"prompt": pair.prompt, "chosen answer": pair.chosen, "rejected answer": pair.rejected}
    kinds = {name: _kind(part) for name, part in parts.items()}
    for name, kind in kinds.items():
        if kind == "missing":
            raise UnusableRow(f"{name} is missing")
    if len(set(kinds.values())) > 1 or "other" in kinds.values():
        raise UnusableRow("prompt and answers are neither all text nor all messages")
    if _blank(pair.prompt):
        raise UnusableRow("prompt is empty")
    if not isinstance(pair.prompt, str) and any(
        message["role"] == "user" and _blank([message]) for message in pair.prompt
    ):
        raise UnusableRow("a user turn of the prompt is empty")
    for name in ("chosen answer", "rejected answer"):
        answer = parts[name]
        if not isinstance(answer, str):
            turns = [message for message in answer if message["role"] == "assistant"]
            if answer and not turns:
                raise UnusableRow(f"{name} has no assistant turn")
            if len(answer) > 1 and len(pair.prompt) + len(answer) > MOST_MESSAGES:
                raise UnusableRow(f"more than {MOST_MESSAGES} messages, several of them in the {name}")
            answer = turns
        if _blank(answer):
            raise UnusableRow(f"{name} is empty")
    if _plain(pair.chosen) == _plain(pair.rejected):
        raise UnusableRow("chosen and rejected are identical")


def _kind(part: Any) -> str:
    """Return what a part of a pair is: missing, text, messages or other."""
    if part is None:
        return "missing"
    if isinstance(part, str):
        return "text"
    if isinstance(part, Sequence) and all(hasattr(m, "get") and isinstance(m.get("role"), str) for m in part):
        return "messages"
    return "other"


def _blank(part: Text) -> bool:
    """Whether the text, or every message, is only white space."""
    if isinstance(part, str):
        return not part.strip()
    for message in part:
        content = message.get("content")
        said = content.strip() if isinstance(content, str) else content
        if said or any(message.get(key) for key in _SAID):
            return False
    return True


def _plain(part: Text) -> Any:
    """Return the part in a form that compares by content."""
    return part if isinstance(part, str) else [dict(message) for message in part]
