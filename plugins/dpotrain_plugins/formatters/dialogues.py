"""Dialogues of ``Human:`` and ``Assistant:`` in one string, cut into messages."""

from __future__ import annotations

import re
from typing import Any

from dpotrain.plugin.api import Messages, UnusableRow

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_dialogue(value: Any) -> bool:
    """Whether a text opens with a speaker and lets the assistant speak."""
    return opens_with_speaker(value) and "Assistant" in _SPEAKER.findall(value)


def turns_of(text: str, what: str, *, answered: bool = True) -> Messages:
    """Cut a dialogue into messages; one that is not ``answered`` ends with the human, or opens the assistant's turn."""
    before, *parts = _SPEAKER.split(text)
    if before.strip() or not parts:
        raise UnusableRow(f"{what} is not a Human/Assistant dialogue")
    turns = [
        {"role": _ROLES[speaker], "content": words.strip()}
        for speaker, words in zip(parts[::2], parts[1::2], strict=True)
    ]
    if answered and turns[-1]["role"] != "assistant":
        raise UnusableRow(f"{what} does not end with the assistant")
    if not answered and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return turns


def is_whole_dialogue(value: Any) -> bool:
    """Whether a text is a dialogue from the human's first turn on."""
    return is_dialogue(value) and _SPEAKER.findall(value)[0] == "Human"


def opens_with_speaker(value: Any) -> bool:
    """Whether a text begins with somebody's turn."""
    return isinstance(value, str) and _SPEAKER.match(value) is not None


def ends_with_human(value: Any) -> bool:
    """Whether a text is a dialogue, or its beginning, in which the human speaks last."""
    return opens_with_speaker(value) and _SPEAKER.findall(value)[-1] == "Human"
