"""Building what samples the policy, from ``[samples]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpotrain.data.tokens.tokenize_prompts import turn_end
from dpotrain.engine.generation import Decoding, stop_tokens
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.evaluation.sampler import Sampler
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.building.data import RunData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_sampler(
    recipe: Recipe, data: RunData, tokenizer: PreTrainedTokenizerBase, scorer: Scorer, parallel: Parallel
) -> Sampler | None:
    """Return what answers the recipe's prompts; None where it has none."""
    wanted = recipe.samples
    if wanted is None or not data.prompts:
        return None
    ends = {tokenizer.eos_token_id}
    if data.pairs.conversational:
        ends.add(turn_end(tokenizer, recipe.data.template_arguments))
    return Sampler(
        prompts=data.prompts,
        decoding=Decoding(wanted.max_tokens, wanted.temperature, wanted.top_p, wanted.seed),
        stops=stop_tokens(scorer.policy, ends),
        policy=scorer.policy,
        tokenizer=tokenizer,
        bf16=scorer.bf16,
        parallel=parallel,
    )
