"""The prompt inside both answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from pydantic import Field

from dpotrain.plugin.api import PreferencePair, Recognition, UnusableRow, read_messages
from dpotrain_plugins.formatters.conversations import CONTEXT, pair_of
from dpotrain_plugins.formatters.shape import (
    OtherShape,
    Row,
    ShapeFormatter,
    answers,
    are_texts,
    both,
    is_text,
)

#: Where an answer begins in the prompt formats that plain-text data uses.
_ANSWER_BEGINS = re.compile(
    r"\n\nAssistant:"
    r"|\bASSISTANT:"
    r"|### ?(?:Response|Assistant|Answer):?[ \t]*\n?"
    r"|<\|im_start\|>assistant\n"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>\n\n"
    r"|<\|assistant\|>\n?"
    r"|<start_of_turn>model\n"
    r"|\[/INST\]"
    r"|(?:^|\n)(?:A|Answer|Response|TL;DR):"
)
#: Words of the longest marker: a prompt of more has something before it.
_LONGEST_MARKER = 2


class Boundary(Enum):
    """What shows where the prompt of two texts ends."""

    MARKER = "a known prompt format lets the assistant speak"
    LINE = "the last line break that both share"
    WORD = "the last word that both share"


class ImplicitPromptFormatter(ShapeFormatter):
    """chosen and rejected alone, each beginning with the prompt: two conversations, or two texts.

    Of conversations, the prompt is the leading turns that both share. Of texts it is cut from the beginning
    that both share, never in the middle of a word, and never so that an answer is left empty: right after the
    last place where a known prompt format lets the assistant speak (or ``answer_marker``); without one, after
    the last line break; without that, before the last space. Two answers that open with the same words on
    one line therefore keep them. Prompt + answer is always exactly the text that was there.
    """

    name = "implicit-prompt"
    columns = ("chosen", "rejected", *CONTEXT)

    class Options(ShapeFormatter.Options):
        answer_marker: str | None = Field(
            None, min_length=1, description='Text after which the answer begins, such as "### Response:\\n".'
        )

    options: Options

    def recognises(self, row: Row) -> Recognition:
        try:
            asked = self.read(row).prompt
        except UnusableRow:
            return super().recognises(row)
        if not isinstance(asked, str):
            return Recognition.CERTAIN
        _, boundary = prompt_cut(row["chosen"], row["rejected"], self.options.answer_marker)
        if boundary is Boundary.MARKER and len(asked.split()) > _LONGEST_MARKER:
            return Recognition.SHAPE
        # Words that two answers share may as well be how both begin, to a prompt in another column.
        others = (value for name, value in row.items() if name not in ("chosen", "rejected"))
        guessed = boundary is Boundary.WORD or any(_may_be_a_prompt(value, asked) for value in others)
        return Recognition.NO if guessed else Recognition.SHAPE

    def read(self, row: Row) -> PreferencePair:
        values = answers(row)
        if not are_texts(values):
            chosen, rejected = both(values, row)
            if is_text(chosen) or is_text(rejected):
                raise OtherShape("only one of the answers is a conversation")
            return pair_of(row, None, read_messages(chosen, "chosen"), read_messages(rejected, "rejected"))
        if None in values:
            raise OtherShape("one answer alone does not show what the two share")
        first, second = values
        if first == second:
            raise OtherShape("chosen and rejected are identical")
        cut, _ = prompt_cut(first, second, self.options.answer_marker)
        return PreferencePair(first[:cut], first[cut:], second[cut:])


def prompt_cut(first: str, second: str, marker: str | None = None) -> tuple[int, Boundary]:
    """Return how many characters of two texts are their prompt, and what shows it.

    Raises OtherShape where they share none.
    """
    length = min(len(first), len(second))
    differs = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    shared = first[: next(differs, length)]
    # Something other than white space is before the cut, and after it in both.
    least = len(shared) - len(shared.lstrip()) + 1
    most = min(len(first.rstrip()), len(second.rstrip())) - 1
    for cut, boundary in _cuts(shared, first, second, marker):
        if least <= cut <= most:
            return cut, boundary
    raise OtherShape(f"chosen and rejected share no {'prompt' if marker is None else 'answer_marker'}")


def _may_be_a_prompt(value: Any, asked: str) -> bool:
    """Whether a column holds words that the prompt found does not have."""
    if isinstance(value, str):
        words = value.split()
        return len(words) > 1 and " ".join(words) not in " ".join(asked.split())
    if isinstance(value, dict | list):
        return any(
            _may_be_a_prompt(one, asked) for one in (value.values() if isinstance(value, dict) else value)
        )
    return False


def _cuts(shared: str, first: str, second: str, marker: str | None) -> Iterator[tuple[int, Boundary]]:
    """Yield places to cut, the best first."""
    begins = _ANSWER_BEGINS if marker is None else re.compile(re.escape(marker))
    for match in reversed(list(begins.finditer(shared))):
        yield match.end(), Boundary.MARKER
    if marker is not None:
        return
    for match in reversed(list(re.finditer(r"\n", shared))):
        yield match.end(), Boundary.LINE
    # White space follows in both, if a different one: a word ends here.
    if all(text[len(shared) : len(shared) + 1].isspace() for text in (first, second)):
        yield len(shared), Boundary.WORD
    # The space goes with the answer, as tokenizers have it.
    for match in reversed(list(re.finditer(r"\s+", shared))):
        yield match.start(), Boundary.WORD
