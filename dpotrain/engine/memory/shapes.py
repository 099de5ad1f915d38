"""What a forward pass would keep, from shapes alone: the model's own code runs on fake tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.attention import packed
from dpotrain.engine.layers.tiling import per_token_modules
from dpotrain.engine.memory.activations import Activations, estimate, fit_lines
from dpotrain.engine.memory.recording import record
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer, causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def activations_from_shapes(
    policy: PreTrainedModel, one: PackedPairs, two: PackedPairs, bf16: bool
) -> tuple[Activations, bool]:
    """Return what the model keeps, and whether it seems to take packed pairs.

    A forward pass that fake tensors cannot follow (a mixture that routes tokens by their values, a custom kernel) is
    estimated from the configuration.

    ``policy`` is the model with its adapter, on the meta device (afterwards its tensors are fake ones on the CPU);
    ``two`` are the pairs of ``one`` twice; ``bf16`` is whether it runs under bfloat16 autocast.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), _quiet():
        _leave_meta(policy)
        try:
            scorer = PackedScorer(policy, LogitTransform(), bf16)
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
            with torch.no_grad(), autocast, packed.counting() as calls:
                scorer.log_probs(one)
        except packed.CannotPackError:
            packed.uninstall(causal_lm(policy))
            return estimate(policy, bf16), False
        except Exception:  # code of a model or a plugin, on tensors that it was not written for
            return estimate(policy, bf16), True
        if calls.all != causal_lm(policy).config.get_text_config().num_hidden_layers:
            packed.uninstall(causal_lm(policy))
            return estimate(policy, bf16), False

        def forward(batch: PackedPairs) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return scorer.log_probs(batch)

        per_token = per_token_modules(policy)
        first, second = (record(policy, batch, forward, per_token) for batch in (one, two))
        return fit_lines(first, second, (len(one.input_ids), len(two.input_ids))), True


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging what fake tensors cannot follow: it is estimated instead."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _leave_meta(model: nn.Module) -> None:
    """Replace every tensor by an uninitialized one of the same shape on the CPU; shared ones stay shared."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    empty = torch.empty_like(weight, device="cpu")
                    made[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
                module._parameters[name] = made[id(weight)]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
