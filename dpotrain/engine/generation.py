"""Answers of a model: ``generate`` of transformers, without a trace in the model or in the training around it.

One prompt at a time: in a batch, padding and the shape of the matrix products move the last bits of the logits, and an
answer would depend on which other prompts there are. The model stays in ``train()`` mode (see :mod:`.scoring.dropout`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dpotrain.core.random_state import RandomState
from dpotrain.engine.scoring.dropout import dropout_off
from dpotrain.engine.scoring.positions import table_positions
from dpotrain.engine.scoring.scorer import accepted, causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen."""

    max_tokens: int
    """Most tokens of an answer."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Share of the probability that tokens are drawn from, the likeliest first."""
    seed: int = 0


@contextmanager
def inference(
    policy: PreTrainedModel, *, bf16: bool, gathered: AbstractContextManager[None] | None = None
) -> Iterator[None]:
    """Compute without gradients and dropout, and have ``generate`` keep keys and values, and compile nothing.

    Under bfloat16 autocast where ``bf16`` is set, and inside ``gathered``, which makes sharded weights usable (see
    :meth:`.protocol.Parallel.gathered`).
    """
    with nullcontext() if gathered is None else gathered, _inference(policy, bf16=bf16):
        yield


@contextmanager
def _inference(policy: PreTrainedModel, *, bf16: bool) -> Iterator[None]:
    device = next(policy.parameters()).device.type
    checkpointed: list[Any] = [
        module for module in policy.modules() if getattr(module, "gradient_checkpointing", False)
    ]
    for module in checkpointed:  # in train() it drops the keys and values, and each token sees only itself
        module.gradient_checkpointing = False
    try:
        # Every length would be compiled anew, until the layers' training passes are no longer compiled either.
        with (
            torch.no_grad(),
            dropout_off(policy),
            torch.autocast(device, torch.bfloat16, enabled=bf16),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True


def answer(
    policy: PreTrainedModel,
    prompt: Sequence[int],
    decoding: Decoding,
    stops: Collection[int],
    *,
    bf16: bool,
    each_token: Callable[[torch.Tensor], None] = lambda ids: None,
    gathered: AbstractContextManager[None] | None = None,
    agreed: Callable[[bool], bool] | None = None,
) -> list[int]:
    """Return the ids that a model answers to a prompt, without the one of ``stops`` that ends them.

    Random states are afterwards as they were before. ``each_token`` is called after every token with the (tokens,) ids
    of the answer so far, on the model's device, and may raise.

    Where passes are collective, ``gathered`` is that of :func:`inference`, all processes answer the same prompt, and
    ``agreed`` (see :meth:`.protocol.Parallel.agreed`) has all of them stop after the same token: devices may round
    differently, and a process that went on alone would wait for the others. It waits for the device after each token.

    Raises:
        ValueError: the model has no position left after the prompt.
    """
    from transformers import StoppingCriteria, StoppingCriteriaList

    class AfterEachToken(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: object, **more: object) -> torch.Tensor:
            each_token(input_ids[0, len(prompt) :])
            # Alone a process leaves it to generate, which does not wait for the device to know the token.
            ended = agreed is not None and agreed(int(input_ids[0, -1]) in stops)
            return torch.full((len(input_ids),), ended, dtype=torch.bool, device=input_ids.device)

    model = causal_lm(policy)
    settings = _settings(model, len(prompt), decoding, stops)
    before = RandomState.capture()
    try:
        torch.manual_seed(decoding.seed)
        with inference(policy, bf16=bf16, gathered=gathered), _generating_with(model, settings):
            ids = torch.tensor([list(prompt)], device=next(model.parameters()).device)
            found = model.generate(
                **accepted(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}),
                stopping_criteria=StoppingCriteriaList([AfterEachToken()]),
            )
    finally:
        before.restore()
    new: list[int] = found[0, len(prompt) :].tolist()
    return new[:-1] if new and new[-1] in stops else new


def stop_tokens(policy: PreTrainedModel, others: Collection[int | None]) -> set[int]:
    """Return the tokens that end an answer: those of the model's generation config, and ``others``."""
    ends = getattr(causal_lm(policy).generation_config, "eos_token_id", None)
    known = ends if isinstance(ends, list) else [ends]
    return {int(token) for token in (*known, *others) if token is not None}


def _settings(model: PreTrainedModel, prompt: int, decoding: Decoding, stops: Collection[int]) -> Any:
    """Return a generation config of these settings alone; a model's own may penalize repetition, for instance."""
    from transformers import GenerationConfig

    positions = table_positions(model)
    if positions is None:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = decoding.max_tokens
    if isinstance(positions, int):
        room = min(room, positions - prompt)
        if room < 1:
            raise ValueError(f"the prompt has {prompt} tokens, and the model {positions} positions")
    how: dict[str, Any] = {"do_sample": False}
    if decoding.temperature:
        how = {
            "do_sample": True,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": 0,
        }
    ends = sorted(stops)
    return GenerationConfig(
        max_new_tokens=room,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        **how,
    )


@contextmanager
def _generating_with(model: PreTrainedModel, settings: Any) -> Iterator[None]:
    """Have ``generate`` use these settings instead of the model's own."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
