"""The prompt inside both answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from dpotrain.plugin.api import DatasetFormatter, PreferencePair, Recognition, UnusableRow
from dpotrain_plugins.formatters.answers import answers_are, is_text
from dpotrain_plugins.formatters.messages import (
    Row,
    looks_like_messages,
    read_messages,
    read_text,
    read_tools,
    split_shared_turns,
    with_system,
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

#: Columns that hold a prompt for other formatters: where there is one, it is not implicit.
_PROMPTS = ("prompt", "conversations", "question", "instruction")


class ImplicitPromptFormatter(DatasetFormatter):
    """chosen and rejected alone, each beginning with the prompt: two conversations, or two texts.

    Of conversations, the prompt is the leading turns that both share. Of texts it is cut from the beginning
    that both share, never in the middle of a word, and never so that an answer is left empty: right after the
    last place where a known prompt format lets the assistant speak (or ``answer_marker``); without one, after
    the last line break; without that, before the last space. Two answers that open with the same words on
    one line therefore keep them. Prompt + answer is always exactly the text that was there.
    """

    name = "implicit-prompt"
    columns = ("chosen", "rejected", "system", "tools")

    class Options(DatasetFormatter.Options):
        answer_marker: str | None = Field(
            None, min_length=1, description='Text after which the answer begins, such as "### Response:\\n".'
        )

    options: Options

    def recognises(self, row: Row) -> Recognition:
        if any(row.get(column) for column in _PROMPTS):
            return Recognition.NO
        try:
            if answers_are(row, looks_like_messages):
                # Judged by what can be read; a missing answer is counted when it is formatted.
                if row["chosen"] and row["rejected"]:
                    self.format(row)
                return Recognition.CERTAIN
            if answers_are(row, is_text) and row["chosen"] and row["rejected"]:
                self.format(row)
                return Recognition.SHAPE
        except UnusableRow:
            pass
        return Recognition.NO

    def format(self, row: Row) -> PreferencePair:
        values: list[Any] = [row.get("chosen"), row.get("rejected")]
        if any(looks_like_messages(value) for value in values):
            chosen, rejected = (
                with_system(row, read_messages(value, what))
                for value, what in zip(values, ("chosen", "rejected"), strict=True)
            )
            return split_shared_turns(chosen, rejected, read_tools(row))
        first, second = read_text(row, "chosen"), read_text(row, "rejected")
        for text, what in ((first, "chosen"), (second, "rejected")):
            if not text.strip():
                raise UnusableRow(f"{what} is empty")
        if first == second:
            raise UnusableRow("chosen and rejected are identical")
        cut = prompt_length(first, second, self.options.answer_marker)
        return PreferencePair(first[:cut], first[cut:], second[cut:])


def prompt_length(first: str, second: str, marker: str | None = None) -> int:
    """Return how many characters of two texts are their prompt; raise UnusableRow where they share none."""
    length = min(len(first), len(second))
    differs = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    shared = first[: next(differs, length)]
    # Something other than white space is before the cut, and after it in both.
    least = len(shared) - len(shared.lstrip()) + 1
    most = min(len(first.rstrip()), len(second.rstrip())) - 1
    for cut in _cuts(shared, first, second, marker):
        if least <= cut <= most:
            return cut
    if marker is not None:
        raise UnusableRow("chosen and rejected share no answer_marker")
    raise UnusableRow("chosen and rejected share no prompt")


def _cuts(shared: str, first: str, second: str, marker: str | None) -> Iterator[int]:
    """Yield places to cut, the best first."""
    begins = _ANSWER_BEGINS if marker is None else re.compile(re.escape(marker))
    yield from (match.end() for match in reversed(list(begins.finditer(shared))))
    if marker is not None:
        return
    yield from (match.end() for match in reversed(list(re.finditer(r"\n", shared))))
    # White space follows in both, if a different one: a word ends here.
    if all(text[len(shared) : len(shared) + 1].isspace() for text in (first, second)):
        yield len(shared)
    # The space goes with the answer, as tokenizers have it.
    yield from (match.start() for match in reversed(list(re.finditer(r"\s+", shared))))
