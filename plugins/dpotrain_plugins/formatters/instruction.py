"""One instruction or question a row, in columns of its own: Alpaca's, and question/system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpotrain.plugin.api import DatasetFormatter, PreferencePair, Recognition, UnusableRow
from dpotrain_plugins.formatters.answers import answers_are, is_text
from dpotrain_plugins.formatters.messages import (
    Messages,
    Row,
    looks_like_answer,
    read_answer,
    read_text,
    read_tools,
    with_system,
    without_prompt,
)


class AlpacaFormatter(DatasetFormatter):
    """instruction, input; chosen and rejected, or output as a list [chosen, rejected]; system, history.

    Instruction and input are one user turn, a blank line between them. ``history`` is a list of earlier
    [user, assistant] turns.
    """

    name = "alpaca"
    columns = ("instruction", "input", "chosen", "rejected", "output", "system", "history", "tools")

    def recognises(self, row: Row) -> Recognition:
        instruction, output = row.get("instruction"), row.get("output")
        two = isinstance(output, list) and len(output) == 2 and all(map(is_text, output))
        fits = is_text(instruction) and (_answered(row) or two)
        return Recognition.CERTAIN if fits else Recognition.NO

    def format(self, row: Row) -> PreferencePair:
        instruction, more = read_text(row, "instruction"), row.get("input")
        text = f"{instruction}\n\n{more}" if isinstance(more, str) and more.strip() else instruction
        prompt = [*_history(row.get("history")), {"role": "user", "content": text}]
        chosen, rejected = row.get("chosen"), row.get("rejected")
        if chosen is None and rejected is None and row.get("output") is not None:
            output = row["output"]
            if not isinstance(output, list) or len(output) != 2:
                raise UnusableRow("output is not a list of two answers")
            chosen, rejected = output
        return _pair(row, prompt, chosen, rejected)


class QuestionFormatter(DatasetFormatter):
    """question (or, beside system, prompt), system, chosen and rejected, as in Orca's pairs."""

    name = "question"
    columns = ("question", "prompt", "system", "chosen", "rejected", "tools")

    def recognises(self, row: Row) -> Recognition:
        if row.get("question") is None and row.get("prompt") is not None:
            fits = is_text(row["prompt"]) and is_text(row.get("system")) and answers_are(row, is_text)
        else:
            fits = is_text(row.get("question")) and not row.get("prompt") and _answered(row)
        return Recognition.CERTAIN if fits else Recognition.NO

    def format(self, row: Row) -> PreferencePair:
        column = "prompt" if row.get("question") is None and row.get("prompt") is not None else "question"
        prompt = [{"role": "user", "content": read_text(row, column)}]
        return _pair(row, prompt, row.get("chosen"), row.get("rejected"))


def _answered(row: Row) -> bool:
    return answers_are(row, is_text) or answers_are(row, looks_like_answer)


def _history(value: Any) -> Messages:
    """Return earlier [user, assistant] turns as messages."""
    turns: Messages = []
    for earlier in value if isinstance(value, list) else [value] if value else []:
        if not isinstance(earlier, Sequence) or len(earlier) != 2 or not all(map(is_text, earlier)):
            raise UnusableRow("history is not a list of [user, assistant] texts")
        turns += [{"role": "user", "content": earlier[0]}, {"role": "assistant", "content": earlier[1]}]
    return turns


def _pair(row: Row, prompt: Messages, chosen: Any, rejected: Any) -> PreferencePair:
    if not prompt[-1]["content"].strip():
        raise UnusableRow("prompt is empty")
    return PreferencePair(
        with_system(row, prompt),
        without_prompt(read_answer(chosen, "chosen"), prompt),
        without_prompt(read_answer(rejected, "rejected"), prompt),
        read_tools(row),
    )
