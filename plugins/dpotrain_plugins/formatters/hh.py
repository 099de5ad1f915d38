"""Anthropic's helpful-and-harmless text: whole dialogues of ``Human:`` and ``Assistant:`` in one string."""

from __future__ import annotations

import re
from typing import Any

from dpotrain.plugin.api import Messages, PreferencePair, UnusableRow, is_empty
from dpotrain_plugins.formatters.conversations import CONTEXT, pair_of
from dpotrain_plugins.formatters.shape import (
    OtherShape,
    Row,
    ShapeFormatter,
    answers,
    are_texts,
    both,
)

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class HHFormatter(ShapeFormatter):
    r"""chosen and rejected as dialogues, "\n\nHuman: …\n\nAssistant: …", with or without prompt; system."""

    name = "hh"
    columns = ("prompt", "chosen", "rejected", *CONTEXT)

    def read(self, row: Row) -> PreferencePair:
        prompt, given = row.get("prompt"), [row[name] for name in ("chosen", "rejected") if row.get(name)]
        prompt = None if is_empty(prompt) else prompt
        if not all(map(is_dialogue, given if prompt is None else [prompt])):
            raise OtherShape(
                "the answers are not dialogues" if prompt is None else "prompt is not a dialogue"
            )
        values = answers(row)
        if not are_texts(values):
            raise OtherShape("the answers are not text")
        chosen, rejected = both(values, row)
        if prompt is None:
            return pair_of(row, None, turns_of(chosen, "chosen"), turns_of(rejected, "rejected"))
        if not (is_dialogue(chosen) and is_dialogue(rejected)):
            chosen, rejected = prompt + chosen, prompt + rejected
            return pair_of(row, None, turns_of(chosen, "chosen"), turns_of(rejected, "rejected"))
        asked = turns_of(prompt, "prompt", answered=False)
        return pair_of(row, asked, turns_of(chosen, "chosen"), turns_of(rejected, "rejected"))


def is_dialogue(value: Any) -> bool:
    """Whether a text opens with a speaker and lets the assistant speak."""
    if not isinstance(value, str):
        return False
    speakers = _SPEAKER.findall(value)
    return bool(speakers) and bool(_SPEAKER.match(value)) and "Assistant" in speakers


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
