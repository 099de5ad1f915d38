"""The ShareGPT shape: ``conversations`` of from/value turns."""

from __future__ import annotations

from dpotrain.plugin.api import DatasetFormatter, PreferencePair, Recognition
from dpotrain_plugins.formatters.answers import answers_are, is_text
from dpotrain_plugins.formatters.messages import (
    Row,
    looks_like_answer,
    looks_like_messages,
    read_answer,
    read_messages,
    read_tools,
    with_system,
    without_prompt,
)


class ShareGPTFormatter(DatasetFormatter):
    """conversations as from/value turns, chosen and rejected as one turn each (or text); system, tools."""

    name = "sharegpt"
    columns = ("conversations", "chosen", "rejected", "system", "tools")

    def recognises(self, row: Row) -> Recognition:
        fits = looks_like_messages(row.get("conversations")) and (
            answers_are(row, looks_like_answer) or answers_are(row, is_text)
        )
        return Recognition.CERTAIN if fits else Recognition.NO

    def format(self, row: Row) -> PreferencePair:
        prompt = read_messages(row.get("conversations"), "conversations")
        return PreferencePair(
            with_system(row, prompt),
            without_prompt(read_answer(row.get("chosen"), "chosen"), prompt),
            without_prompt(read_answer(row.get("rejected"), "rejected"), prompt),
            read_tools(row),
        )
