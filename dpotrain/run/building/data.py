"""The data of a run: pairs to train and evaluate on, their texts for ``evaluations/``, prompts to sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.records import HeldOutPair
from dpotrain.core.reporter import Reporter
from dpotrain.data.pair_texts import PairText, evaluation_texts
from dpotrain.data.prepare import DataReader, PreparedData
from dpotrain.data.sample_prompts import Prompt, sample_prompts
from dpotrain.data.split import sampled
from dpotrain.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads from its data before anything heavy is loaded; it does not keep the rows."""

    pairs: PreparedData
    """Its evaluation set is what is evaluated: a sample where ``evaluation.pairs`` asks for one."""
    evaluated: tuple[PairText, ...]
    """The texts of the evaluation set, in its order; on the main process only."""
    prompts: tuple[Prompt, ...]
    """What the policy is to answer."""

    def held_out(self) -> tuple[HeldOutPair, ...]:
        """Return the evaluation set as plugins get it; nothing on processes other than the main one."""
        tokens = self.pairs.evaluation
        if tokens is None:
            return ()
        return tuple(
            HeldOutPair(
                row=text.row,
                prompt=text.prompt,
                chosen=text.chosen,
                rejected=text.rejected,
                prompt_ids=tokens[index].prompt.tolist(),
                chosen_ids=tokens[index].chosen.tolist(),
                rejected_ids=tokens[index].rejected.tolist(),
                columns=dict(zip(tokens.columns, tokens[index].numbers, strict=True)),
            )
            for index, text in enumerate(self.evaluated)
        )


def read_data(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    reporter: Reporter,
    *,
    cache: Path | None,
    clock: str,
    is_main: bool,
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
    texts = () if data.evaluation is None or not is_main else evaluation_texts(reader, data.evaluation)
    prompts = [] if recipe.samples is None else sample_prompts(recipe.samples, reader, data)
    return RunData(data, tuple(texts), tuple(prompts))
