"""Plain strings: prompt, chosen, rejected."""

from __future__ import annotations

from dpotrain.plugin.api import DatasetFormatter, PreferencePair, Recognition
from dpotrain_plugins.formatters.answers import answers_are, is_text
from dpotrain_plugins.formatters.messages import Row, read_text


class StandardFormatter(DatasetFormatter):
    """prompt, chosen and rejected as text, trained on as it stands, without a chat template.

    A row with a ``system`` column is not recognised, because its text would be lost; the ``question``
    formatter reads it.
    """

    name = "standard"
    columns = ("prompt", "chosen", "rejected")

    def recognises(self, row: Row) -> Recognition:
        prompt = row.get("prompt")
        fits = "prompt" in row and (prompt is None or is_text(prompt)) and answers_are(row, is_text)
        return Recognition.SHAPE if fits and not isinstance(row.get("system"), str) else Recognition.NO

    def format(self, row: Row) -> PreferencePair:
        return PreferencePair(read_text(row, "prompt"), read_text(row, "chosen"), read_text(row, "rejected"))
