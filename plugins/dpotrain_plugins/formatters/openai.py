"""OpenAI's file format for preference fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

from dpotrain.plugin.api import PreferencePair, read_messages
from dpotrain_plugins.formatters.conversations import pair_of
from dpotrain_plugins.formatters.shape import OtherShape, Row, ShapeFormatter, answers, both, column

_ANSWERS = ("preferred_output", "non_preferred_output")


class OpenAIFormatter(ShapeFormatter):
    """input with messages and tools, preferred_output and non_preferred_output as lists of messages."""

    name = "openai"
    columns = ("input", *_ANSWERS)

    def read(self, row: Row) -> PreferencePair:
        values, given = answers(row, _ANSWERS), row.get("input")
        if not isinstance(given, Mapping) or column(given, "messages") is None:
            raise OtherShape("input is not an object with messages")
        # Anything else of a pair beside the messages is refused where they are read; the tools are not lost.
        prompt = read_messages({name: one for name, one in given.items() if name != "tools"}, "input")
        chosen, rejected = both(values, row, _ANSWERS)
        return pair_of({"tools": given.get("tools")}, prompt, chosen, rejected)
