"""Conversations in columns of their own: a prompt (``prompt``, ``messages`` or ``conversations``) and two answers."""

from __future__ import annotations

from typing import ClassVar

from dpotrain.plugin.api import PreferencePair
from dpotrain_plugins.formatters.conversations import as_messages, pair_of, pair_of_whole, turns_asked
from dpotrain_plugins.formatters.dialogues import is_whole_dialogue
from dpotrain_plugins.formatters.shape import (
    CONTEXT,
    OtherShape,
    Row,
    ShapeFormatter,
    answers,
    are_texts,
    both,
    holds_messages,
    is_text,
    nothing_in,
    the_column,
)


class ConversationalFormatter(ShapeFormatter):
    """prompt (or messages) as messages, or prompt as text; chosen and rejected as messages, or as text after messages.

    Answers that repeat the prompt's turns (UltraFeedback's ``prompt`` text next to two whole conversations)
    are taken as whole conversations; a prompt text beside bare assistant answers is the user's turn.
    """

    name = "conversational"
    prompts: ClassVar[tuple[str, ...]] = ("prompt", "messages")
    """Columns that may hold the prompt, the first one that holds something."""
    columns = (*prompts, "chosen", "rejected", *CONTEXT)

    def read(self, row: Row) -> PreferencePair:
        if not any(name in row for name in self.prompts):
            raise OtherShape(f"there is no column {self.prompts[0]}")
        name, prompt = the_column(row, self.prompts)
        values = answers(row)
        if prompt is None or is_text(prompt):
            # Text answers beside it are plain text.
            if are_texts(values) or (is_text(prompt) and name != "prompt"):
                raise OtherShape(f"{name} holds no messages")
        elif not holds_messages(prompt):
            raise OtherShape(f"{name} holds no messages")
        chosen, rejected = both(values, row)
        if prompt is None:
            raise nothing_in(row, name)
        if is_text(prompt) and not is_whole_dialogue(prompt):
            first, second = as_messages(chosen, "chosen"), as_messages(rejected, "rejected")
            if first[0]["role"] != "assistant" and second[0]["role"] != "assistant":
                return pair_of_whole(row, prompt, first, second)
        return pair_of(row, turns_asked(prompt, name), chosen, rejected)


class ShareGPTFormatter(ConversationalFormatter):
    """conversations as from/value turns, chosen and rejected as one turn each (or text); system, tools."""

    name = "sharegpt"
    prompts = ("conversations", "conversation")
    columns = (*prompts, "chosen", "rejected", *CONTEXT)
