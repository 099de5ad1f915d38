"""The prompts of ``[samples]`` as token ids: those of the recipe, or of held-out pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dpotrain.core.errors import DataError
from dpotrain.data.pair_texts import evaluation_texts, plain_text
from dpotrain.data.prepare import DataReader, PreparedData
from dpotrain.data.split import sampled
from dpotrain.data.tokens.tokenize_prompts import PromptTokenizer
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.recipe.prompts import read_prompts
from dpotrain.recipe.sections.samples import HELD_OUT_PROMPTS, SamplesSection


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt that is answered."""

    text: str
    """As a person wrote it."""
    ids: list[int]
    """As the model reads it, at least one."""


def sample_prompts(wanted: SamplesSection, reader: DataReader, data: PreparedData) -> list[Prompt]:
    """Return the prompts that are answered, in order.

    Raises:
        RecipeError: the file of prompts cannot be read.
        DataError: a prompt cannot be tokenized.
    """
    if wanted.prompts == "held-out":
        if data.evaluation is None:
            return []
        return _held_out(data.evaluation, wanted.count or HELD_OUT_PROMPTS, reader)
    tokenize = PromptTokenizer(reader.tokenizer, reader.inputs, conversational=data.conversational)
    found = []
    for number, prompt in enumerate(read_prompts(wanted.prompts)[: wanted.count], start=1):
        try:
            found.append(Prompt(plain_text(prompt), tokenize(prompt)))
        except DataError as error:
            raise DataError(f"samples.prompts, prompt {number}: {error}") from error
    return found


def _held_out(pairs: TokenizedPairs, count: int, reader: DataReader) -> list[Prompt]:
    """Return different prompts of held-out pairs, as they are evaluated."""
    first: dict[bytes, int] = {}
    for index in range(len(pairs)):
        first.setdefault(pairs[index].prompt.tobytes(), index)
    different = pairs.select(np.array([*first.values()], np.int64))
    chosen = different.select(sampled(different.keys, count, reader.recipe.seed))
    return [
        Prompt(text.prompt, chosen[index].prompt.tolist())
        for index, text in enumerate(evaluation_texts(reader, chosen))
    ]
