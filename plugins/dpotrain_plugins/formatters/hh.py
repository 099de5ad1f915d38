"""Anthropic's helpful-and-harmless text: whole dialogues of ``Human:`` and ``Assistant:`` in one string."""

from __future__ import annotations

from dpotrain.plugin.api import PreferencePair, UnusableRow, is_empty
from dpotrain_plugins.formatters.conversations import pair_of, pair_of_whole
from dpotrain_plugins.formatters.dialogues import (
    ends_with_human,
    is_dialogue,
    is_whole_dialogue,
    opens_with_speaker,
    turns_of,
)
from dpotrain_plugins.formatters.shape import (
    CONTEXT,
    OtherShape,
    Row,
    ShapeFormatter,
    answers,
    are_texts,
    both,
    is_text,
)


class HHFormatter(ShapeFormatter):
    r"""chosen and rejected as dialogues, "\n\nHuman: …\n\nAssistant: …", with or without prompt; system."""

    name = "hh"
    columns = ("prompt", "chosen", "rejected", *CONTEXT)

    def read(self, row: Row) -> PreferencePair:
        prompt, given = row.get("prompt"), [row[name] for name in ("chosen", "rejected") if row.get(name)]
        prompt = None if is_empty(prompt) else prompt
        # The human's turn may be in the column prompt, and both answers begin with "Assistant:".
        spoken = is_dialogue if ends_with_human(prompt) else is_whole_dialogue
        whole = bool(given) and all(map(spoken, given))
        if not whole and not is_dialogue(prompt):
            raise OtherShape("neither the prompt nor the answers are dialogues")
        values = answers(row)
        if not are_texts(values) or not (prompt is None or is_text(prompt)):
            raise OtherShape("prompt or answers are not text")
        chosen, rejected = both(values, row)
        if prompt is not None and not whole:
            if any(map(is_whole_dialogue, given)):
                raise UnusableRow("only one of the answers is a dialogue")
            chosen, rejected = prompt + chosen, prompt + rejected
        first, second = turns_of(chosen, "chosen"), turns_of(rejected, "rejected")
        if prompt is None or not whole:
            return pair_of(row, None, first, second)
        if not opens_with_speaker(prompt):
            return pair_of_whole(row, prompt, first, second)
        return pair_of(row, turns_of(prompt, "prompt", answered=False), first, second)
