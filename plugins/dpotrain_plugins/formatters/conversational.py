"""Messages: a prompt, and the messages that answer it."""

from __future__ import annotations

from dpotrain.plugin.api import DatasetFormatter, PreferencePair, Recognition, UnusableRow
from dpotrain_plugins.formatters.answers import answers_are, is_text
from dpotrain_plugins.formatters.messages import (
    Messages,
    Row,
    looks_like_answer,
    looks_like_messages,
    read_answer,
    read_messages,
    read_tools,
    split_shared_turns,
    with_system,
    without_prompt,
)


class ConversationalFormatter(DatasetFormatter):
    """prompt as messages or text, chosen and rejected as messages (or, after messages, as text).

    Answers that repeat the prompt's turns (UltraFeedback's ``prompt`` text next to two whole conversations)
    are taken as whole conversations; a prompt text beside bare assistant answers is the user's turn.
    """

    name = "conversational"
    columns = ("prompt", "chosen", "rejected", "system", "tools")

    def recognises(self, row: Row) -> Recognition:
        prompt = row.get("prompt")
        if looks_like_messages(prompt):
            fits = answers_are(row, looks_like_answer) or answers_are(row, is_text)
        else:
            fits = "prompt" in row and isinstance(prompt, str) and answers_are(row, looks_like_answer)
        return Recognition.CERTAIN if fits else Recognition.NO

    def format(self, row: Row) -> PreferencePair:
        chosen = read_answer(row.get("chosen"), "chosen")
        rejected = read_answer(row.get("rejected"), "rejected")
        tools = read_tools(row)
        prompt = row.get("prompt")
        if isinstance(prompt, str):
            if chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant":
                if not (_says(chosen, prompt) and _says(rejected, prompt)):
                    raise UnusableRow("prompt is none of the turns that the answers begin with")
                return split_shared_turns(with_system(row, chosen), with_system(row, rejected), tools)
            # An empty text stays empty, so that it is counted as such.
            prompt = [{"role": "user", "content": prompt}]
        messages = read_messages(prompt, "prompt")
        chosen, rejected = without_prompt(chosen, messages), without_prompt(rejected, messages)
        return PreferencePair(with_system(row, messages), chosen, rejected, tools)


def _says(conversation: Messages, prompt: str) -> bool:
    """Whether one of the turns says what the prompt column says, give or take white space."""
    words = prompt.split()
    return any(
        isinstance(turn.get("content"), str) and turn["content"].split() == words
        for turn in conversation
        if turn["role"] != "assistant"
    )
