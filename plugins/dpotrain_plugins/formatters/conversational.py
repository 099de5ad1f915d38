"""Conversations in columns of their own: a prompt (``prompt``, ``messages`` or ``conversations``) and two answers."""

from __future__ import annotations

from typing import ClassVar

from dpotrain.plugin.api import Messages, PreferencePair, UnusableRow, is_message, is_messages, read_messages
from dpotrain_plugins.formatters.conversations import CONTEXT, as_messages, pair_of
from dpotrain_plugins.formatters.shape import (
    OtherShape,
    Row,
    ShapeFormatter,
    answers,
    are_texts,
    both,
    is_text,
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
        elif not is_message(prompt) and not is_messages(prompt):
            raise OtherShape(f"{name} holds no messages")
        chosen, rejected = both(values, row)
        if prompt is None:
            raise UnusableRow(f"{name} is {'missing' if row.get(name) is None else 'empty'}")
        if not is_text(prompt):
            return pair_of(row, read_messages(prompt, name), chosen, rejected)
        first, second = as_messages(chosen, "chosen"), as_messages(rejected, "rejected")
        if first[0]["role"] == "assistant" or second[0]["role"] == "assistant":
            return pair_of(row, [{"role": "user", "content": prompt}], first, second)
        if not (_says(first, prompt) and _says(second, prompt)):
            raise UnusableRow("prompt is none of the turns that the answers begin with")
        return pair_of(row, None, first, second)


def _says(conversation: Messages, prompt: str) -> bool:
    """Whether one of the turns says what the prompt column says, give or take white space."""
    words = prompt.split()
    return any(turn["content"].split() == words for turn in conversation if turn["role"] != "assistant")


class ShareGPTFormatter(ConversationalFormatter):
    """conversations as from/value turns, chosen and rejected as one turn each (or text); system, tools."""

    name = "sharegpt"
    prompts = ("conversations", "conversation")
    columns = (*prompts, "chosen", "rejected", *CONTEXT)
