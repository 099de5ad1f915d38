"""How long pairs may be, and what becomes of longer ones: which tokens are cut, or why the pair is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from dpotrain.recipe.sections.data import DataSection

Truncation: TypeAlias = Literal["end", "start", "drop"]

#: Why pairs are dropped. Each names the key that bounds them.
PROMPT_FILLS = "prompt fills max_length"
ANSWER_FILLS = "answer leaves no room for the prompt within max_length"
PAIR_TOO_LONG = "prompt and answer are longer than max_length"
PROMPT_TOO_LONG = "prompt is longer than max_prompt_length"
NOTHING_OF_PROMPT = "max_prompt_length leaves nothing of the prompt"


@dataclass(frozen=True, slots=True)
class Cut:
    """What a pair that is kept loses."""

    prompt: range
    """Places of the prompt's tokens that are cut; empty where it stays whole."""
    room: int
    """The most tokens that a completion keeps, from its first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the tokens of a pair, and what is done with one that exceeds them."""

    max_length: int
    """Of the prompt with either completion."""
    max_prompt_length: int | None = None
    """Of the prompt: a longer one loses its first tokens, or drops the pair where ``truncation`` is "drop"."""
    truncation: Truncation = "end"
    """What ``max_length`` cuts: completions at their end, the prompt at its start, or nothing."""

    @classmethod
    def of(cls, data: DataSection) -> Limits:
        """Return those of a recipe."""
        return cls(data.max_length, data.max_prompt_length, data.truncation)

    @property
    def keys(self) -> str:
        """The keys that cut prompts, with their values, for messages."""
        keys = [f"max_prompt_length = {self.max_prompt_length}"] * (self.max_prompt_length is not None)
        return " and ".join([*keys, *[f"max_length = {self.max_length}"] * (self.truncation == "start")])

    def cut(self, prompt: int, completion: int, leading: int) -> Cut | str:
        """Return what a pair loses, or why it is dropped.

        ``prompt`` and ``completion`` count the tokens of the prompt and of the longer completion. The first ``leading``
        tokens of the prompt stay in front of a prompt that is cut, and at least one token after them stays.
        """
        excess = 0
        if self.max_prompt_length is not None and prompt > self.max_prompt_length:
            if self.truncation == "drop":
                return PROMPT_TOO_LONG
            if self.max_prompt_length <= leading:
                return NOTHING_OF_PROMPT
            excess = prompt - self.max_prompt_length
        if self.truncation == "drop" and prompt + completion > self.max_length:
            return PAIR_TOO_LONG
        if self.truncation == "start":
            excess = max(excess, prompt + completion - self.max_length)
            if excess and excess >= prompt - leading:
                return ANSWER_FILLS
        kept = prompt - excess
        if kept >= self.max_length:
            return PROMPT_FILLS
        return Cut(range(leading, leading + excess), self.max_length - kept)
