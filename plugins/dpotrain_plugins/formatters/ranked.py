"""Several answers to one prompt with a rank or a score each, as in UltraFeedback and Nectar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from pydantic import Field

from dpotrain.plugin.api import PreferencePair, UnusableRow
from dpotrain_plugins.formatters.conversations import pair_of, turns_asked
from dpotrain_plugins.formatters.shape import (
    CONTEXT,
    OtherShape,
    Row,
    ShapeFormatter,
    holds_messages,
    is_text,
    nothing_in,
    the_column,
)

_PROMPTS = ("prompt", "instruction", "question", "messages")
_ANSWERS = ("answers", "completions", "responses")
_TEXTS = ("answer", "response", "completion", "content", "text")
#: Keys that tell how good an answer is, the first one that all answers have. Of a rank, the lower is better.
_SCORES = ("rank", "overall_score", "score", "rating", "reward")


@dataclass(frozen=True, slots=True)
class _Answer:
    said: Any
    goodness: float
    """Higher is better."""


class RankedFormatter(ShapeFormatter):
    """prompt (or instruction) and a list of answers (or completions) with rank or score each: several pairs a row.

    Each pair has the number ``score_gap``: how much the chosen answer's score is higher, or its rank lower. Answers of
    equal score make no pair.
    """

    name = "ranked"
    columns = (*_PROMPTS, *_ANSWERS, *CONTEXT)
    numbers = ("score_gap",)

    class Options(ShapeFormatter.Options):
        pairs: Literal["best-worst", "all"] = Field(
            "best-worst",
            description="The best answer against the worst, or every answer against each worse one.",
        )
        score: str | None = Field(
            None,
            min_length=1,
            description=f"Key of an answer's score, or `rank`; the first of {', '.join(_SCORES)} unless set.",
        )

    options: Options

    def read(self, row: Row) -> list[PreferencePair]:
        where, answers = the_column(row, _ANSWERS)
        if not isinstance(answers, list) or not all(isinstance(one, Mapping) for one in answers):
            raise OtherShape(f"{where} is not a list of answers")
        score = self.options.score or next(
            (key for key in _SCORES if all(key in one for one in answers)), None
        )
        if score is None or not all(_said(one) for one in answers):
            raise OtherShape(f"{where} has no text and score for every answer")
        name, prompt = the_column(row, _PROMPTS)
        if prompt is None:
            raise nothing_in(row, name)
        if not is_text(prompt) and not holds_messages(prompt):
            raise OtherShape(f"{name} is neither text nor messages")
        turns = turns_asked(prompt, name)
        found = sorted((_answer(one, score) for one in answers), key=lambda one: -one.goodness)
        couples = [(found[0], found[-1])] if self.options.pairs == "best-worst" else combinations(found, 2)
        pairs = [
            replace(
                pair_of(row, turns, better.said, worse.said),
                numbers={"score_gap": better.goodness - worse.goodness},
            )
            for better, worse in couples
            if better.goodness > worse.goodness
        ]
        if not pairs:
            raise UnusableRow(
                "all answers have the same score" if len(found) > 1 else "there is only one answer"
            )
        return pairs


def _said(answer: Mapping[str, Any]) -> Any:
    """Return an answer's text or messages; nothing where it has none, an UnusableRow where it has several."""
    found = [answer[key] for key in _TEXTS if answer.get(key)]
    if any(one != found[0] for one in found[1:]):
        raise UnusableRow("an answer has several texts")
    return found[0] if found else None


def _answer(answer: Mapping[str, Any], score: str) -> _Answer:
    value = answer.get(score)
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise UnusableRow(f"{score} of an answer is not a number")
    return _Answer(_said(answer), -number if score == "rank" else number)
