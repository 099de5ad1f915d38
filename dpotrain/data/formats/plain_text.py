"""Rows of plain text for a model with a chat template: whether they are turns of a chat is for the person to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from dpotrain.core.errors import DpotrainError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.read_row import read_row
from dpotrain.plugin.api import DatasetFormatter, Rows

#: Rows that are looked at, evenly over the data.
_SAMPLE = 20


def question_about_plain_text(
    rows: Rows, formatter: DatasetFormatter, formatters: Iterable[type[DatasetFormatter]]
) -> str:
    """Return what to ask the person where ``formatter``, chosen by the rows, makes plain text of them.

    The remedies are formatters that read the same rows as messages, and the formatter itself, set by name.
    """
    count = min(len(rows), _SAMPLE)
    sample = [index * len(rows) // count for index in range(count)]
    chats = []
    for cls in formatters:
        try:
            other = cls(cls.Options())
        except ValidationError:
            continue
        read = [pair for number in sample for pair in _pairs(other, rows, number)]
        if len(read) * 2 > count and all(pair.conversational for pair in read):
            chats.append(other.name)
    name = formatter.name
    lines = [
        f"The formatter {name} makes plain text of the rows, to which the model's chat template is not applied.",
        "Which is meant decides what the model learns. Set one of these in [data], or with --set:",
        *(
            f'  data.format = "{chat}"   each prompt is a user turn, each answer the assistant\'s'
            for chat in chats
        ),
        f'  data.format = "{name}"   the text is trained on as it stands',
    ]
    if not chats:
        lines.append(
            "If the pairs are of a chat, write them as messages: no formatter reads these rows as one."
        )
    return "\n".join(lines)


def _pairs(formatter: DatasetFormatter, rows: Rows, number: int) -> Iterator[PreferencePair]:
    try:
        yield from read_row(formatter, rows[number], number).pairs
    except (UnusableRow, DpotrainError):
        return
