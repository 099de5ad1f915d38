"""What the policy answers to the prompts of ``[samples]``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from dpotrain.core.errors import describe_exception
from dpotrain.core.records import Sample
from dpotrain.data.sample_prompts import Prompt
from dpotrain.engine.generation import Decoding, answer
from dpotrain.engine.memory.device_memory import release_memory
from dpotrain.engine.parallel.progress import over_ranks
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.training.agreement import agreeing
from dpotrain.engine.training.unfinished import Interrupted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of sampling, the same on every process."""

    samples: list[Sample]
    """One for each prompt, in order; none where no prompt could be answered."""
    failure: str
    """Why a prompt could not be answered; empty where all were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Answers the same prompts whenever it is asked; nothing of the training changes by it."""

    prompts: tuple[Prompt, ...]
    decoding: Decoding
    stops: Collection[int]
    """Tokens that end an answer."""
    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    bf16: bool
    """Whether the policy computes under bfloat16 autocast."""
    parallel: Parallel

    def sample(self, advance: Callable[[int], None], each_token: Callable[[], None]) -> Answers:
        """Answer all prompts; every process takes a share, or all of them where passes are collective. Collective.

        ``advance`` is called with the number of prompts answered since its last call; ``each_token`` may raise
        :class:`~dpotrain.engine.training.unfinished.Interrupted`, which every process then does. What else goes wrong
        is the failure of a prompt, whose answer is empty: a model need not be able to generate.
        """
        answers: dict[int, str] = {}
        failure = ""
        first, every = self.parallel.world_rank, self.parallel.world_size
        if self.parallel.collective_passes:
            first, every = 0, 1
        own = range(first, len(self.prompts), every)
        advance = over_ranks(advance, len(own), len(self.prompts))
        with agreeing(self.parallel):
            for number in own:
                try:
                    answers[number] = self._answer(number, each_token)
                except Interrupted:
                    raise
                except Exception as error:
                    if self.parallel.collective_passes and isinstance(error, torch.OutOfMemoryError):
                        raise  # the others are inside the same answer
                    failure = failure or describe_exception(error)
                    release_memory()
                advance(1)
        shares = self.parallel.gather_objects((answers, failure))
        # The main process's count where several have answered.
        answers = {number: text for share, _ in reversed(shares) for number, text in share.items()}
        failure = next((text for _, text in shares if text), "")
        samples = [Sample(prompt.text, answers.get(number, "")) for number, prompt in enumerate(self.prompts)]
        return Answers(samples if answers else [], failure)

    def _answer(self, number: int, each_token: Callable[[], None]) -> str:
        # With a seed of its own, a prompt's answer does not depend on the process that gives it.
        decoding = replace(self.decoding, seed=self.decoding.seed + number)
        ids = answer(
            self.policy,
            self.prompts[number].ids,
            decoding,
            self.stops,
            bf16=self.bf16,
            each_token=lambda ids: each_token(),
            gathered=self.parallel.gathered(self.policy),
            agreed=self.parallel.agreed if self.parallel.collective_passes else None,
        )
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
