"""Plain strings: prompt, chosen, rejected."""

from __future__ import annotations

from dpotrain.plugin.api import PreferencePair, Recognition
from dpotrain_plugins.formatters.shape import (
    OtherShape,
    Row,
    ShapeFormatter,
    answers,
    are_texts,
    both,
    column,
    is_text,
    nothing_in,
)
from dpotrain_plugins.formatters.texts import without_repeated_prompt


class StandardFormatter(ShapeFormatter):
    """prompt, chosen and rejected as text, trained on as it stands, without a chat template.

    Where both answers begin with the prompt, it is taken off them.
    """

    name = "standard"
    columns = ("prompt", "chosen", "rejected")
    certainty = Recognition.SHAPE

    def read(self, row: Row) -> PreferencePair:
        values, prompt = answers(row), column(row, "prompt")
        if "prompt" not in row or not (prompt is None or is_text(prompt)):
            raise OtherShape("prompt is not text")
        if not are_texts(values):
            raise OtherShape("chosen or rejected is not text")
        chosen, rejected = both(values, row)
        if prompt is None:
            raise nothing_in(row, "prompt")
        return PreferencePair(*without_repeated_prompt(prompt, chosen, rejected))
