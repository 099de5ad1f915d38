"""Anthropic's helpful-and-harmless text: whole dialogues of ``Human:`` and ``Assistant:`` in one string."""

from __future__ import annotations

import re
from typing import Any

from dpotrain.plugin.api import DatasetFormatter, PreferencePair, Recognition, UnusableRow
from dpotrain_plugins.formatters.answers import answers_are, is_text
from dpotrain_plugins.formatters.messages import Messages, Row, read_text, split_shared_turns

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class HHFormatter(DatasetFormatter):
    r"""chosen and rejected as dialogues, "\n\nHuman: …\n\nAssistant: …", with or without prompt."""

    name = "hh"
    columns = ("prompt", "chosen", "rejected")

    def recognises(self, row: Row) -> Recognition:
        prompt = row.get("prompt")
        fits = answers_are(row, is_text if prompt else _is_dialogue) and (not prompt or _is_dialogue(prompt))
        return Recognition.CERTAIN if fits else Recognition.NO

    def format(self, row: Row) -> PreferencePair:
        chosen, rejected = read_text(row, "chosen"), read_text(row, "rejected")
        prompt = row.get("prompt")
        if isinstance(prompt, str) and prompt and not (_is_dialogue(chosen) and _is_dialogue(rejected)):
            chosen, rejected = prompt + chosen, prompt + rejected
        return split_shared_turns(_turns(chosen, "chosen"), _turns(rejected, "rejected"), [])


def _is_dialogue(value: Any) -> bool:
    """Whether a text opens with a speaker and lets the assistant speak."""
    if not isinstance(value, str):
        return False
    speakers = _SPEAKER.findall(value)
    return bool(speakers) and bool(_SPEAKER.match(value)) and "Assistant" in speakers


def _turns(text: str, what: str) -> Messages:
    """Cut a dialogue into messages."""
    if not text.strip():
        raise UnusableRow(f"{what} is empty")
    before, *parts = _SPEAKER.split(text)
    if before.strip() or not parts:
        raise UnusableRow(f"{what} is not a Human/Assistant dialogue")
    turns = [
        {"role": _ROLES[speaker], "content": words.strip()}
        for speaker, words in zip(parts[::2], parts[1::2], strict=True)
    ]
    if turns[-1]["role"] != "assistant":
        raise UnusableRow(f"{what} does not end with the assistant")
    return turns
