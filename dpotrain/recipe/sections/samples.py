"""The table ``[samples]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from dpotrain.recipe.sections.base import Section

#: Prompts of the evaluation set that are sampled unless the recipe says how many.
HELD_OUT_PROMPTS = 4


class SamplesSection(Section):
    """What the policy answers to some prompts: before training, after evaluations, and after the last step.

    The answers are in `samples.jsonl` of the run folder, on the terminal, and in every logger. They change no number of
    the training. With a chat template a text is a conversation of one user turn, unless the pairs are plain text.
    """

    prompts: Literal["held-out"] | list[str] | Path = Field(
        description="A list of texts; or a file with a prompt a line (`.txt`), or with texts or messages (`.jsonl`, "
        '`.json`; of an object its `prompt` or `messages`); or "held-out" for prompts of the evaluation set.'
    )
    count: int | None = Field(
        None,
        ge=1,
        description='How many of the prompts, from the first; of "held-out" ones a sample by the recipe\'s `seed`. All '
        f'of a list or file unless set, and {HELD_OUT_PROMPTS} of "held-out".',
    )
    every: int = Field(1, ge=1, description="Sample after every so many evaluations.")
    max_tokens: int = Field(128, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=10,
        description="0 takes the likeliest token; 1 draws from the policy's own distribution.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Draws from the likeliest tokens that together have this probability (nucleus sampling).",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Of the draws: every time the policy is sampled they are the same."
    )

    @field_validator("prompts")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if isinstance(value, list) and not any(text.strip() for text in value):
            raise ValueError("the list has no prompt; leave the table [samples] out for no samples")
        return value
