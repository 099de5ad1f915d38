"""The data of a run: pairs to train and evaluate on, their texts for ``evaluations/``, prompts to sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from dpotrain.core.records import HeldOutPair
from dpotrain.core.reporter import Reporter
from dpotrain.data.pair_texts import PairText, evaluation_texts
from dpotrain.data.prepare import DataReader, PreparedData
from dpotrain.data.sample_prompts import Prompt, sample_prompts
from dpotrain.data.split import sampled
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads from its data before anything heavy is loaded; it does not keep the rows."""

    pairs: PreparedData
    """Its evaluation set is what is evaluated: a sample where ``evaluation.pairs`` asks for one."""
    evaluated: tuple[PairText, ...]
    """The texts of the evaluation set, in its order."""
    prompts: tuple[Prompt, ...]
    """What the policy is to answer."""

    def held_out(self) -> Sequence[HeldOutPair]:
        """Return the evaluation set as plugins get it, the same on every process."""
        tokens = self.pairs.evaluation
        return () if tokens is None else HeldOut(self.evaluated, tokens)


@dataclass(frozen=True, slots=True)
class HeldOut(Sequence[HeldOutPair]):
    """Pairs made as they are asked for: a plugin may want a few of many, after every step."""

    texts: Sequence[PairText]
    tokens: TokenizedPairs

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> HeldOutPair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[HeldOutPair]: ...
    def __getitem__(self, index: int | slice) -> HeldOutPair | Sequence[HeldOutPair]:
        """Return a pair, or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        text, pair = self.texts[index], self.tokens[range(len(self))[index]]
        return HeldOutPair(
            row=text.row,
            prompt=text.prompt,
            chosen=text.chosen,
            rejected=text.rejected,
            prompt_ids=pair.prompt.tolist(),
            chosen_ids=pair.chosen.tolist(),
            rejected_ids=pair.rejected.tolist(),
            columns=dict(zip(self.tokens.columns, pair.numbers, strict=True)),
            source=text.source,
        )


def read_data(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    reporter: Reporter,
    *,
    cache: Path | None,
    clock: str,
) -> RunData:
    """Read, tokenize and sample; see :func:`dpotrain.data.prepare.prepare_data` for arguments and errors."""
    reader = DataReader.of(recipe, tokenizer, reporter, cache=cache, clock=clock)
    data = reader.prepare()
    for warning in data.report.warnings():
        reporter.warn(warning)
    most = recipe.evaluation.pairs
    if data.evaluation is not None and most is not None:
        chosen = sampled(data.evaluation.keys, most, recipe.seed)
        data = replace(data, evaluation=data.evaluation.select(chosen))
    texts = () if data.evaluation is None else evaluation_texts(reader, data.evaluation)
    prompts = [] if recipe.samples is None else sample_prompts(recipe.samples, reader, data)
    return RunData(data, tuple(texts), tuple(prompts))
