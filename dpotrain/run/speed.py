"""The speed of a run, predicted: its floating-point operations, over the rate measured on this device."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dpotrain.data.batches.plan import BatchPlan
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.memory.model_size import ModelSize
from dpotrain.engine.memory.planner import microbatch_tokens
from dpotrain.engine.scoring.router_loss import Routing
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Side of the square matrices that are multiplied to measure the rate, and for how long, in seconds.
_SIDE = {"cpu": 512, "cuda": 8192}
_SECONDS = 0.05
#: Share of the rate of a large matrix product that whole steps reach, by device and precision. CPU: measured with
#: SmolLM2-135M; in bfloat16 its matrix units are so fast that everything else takes most of the time. CUDA: large
#: models train at 0.4 to 0.5 of the peak (PaLM, arXiv:2204.02311, table 3), of which a large product reaches 0.75.
EFFICIENCY = {("cpu", "fp32"): 0.6, ("cpu", "bf16"): 0.2, ("cuda", "fp32"): 0.6, ("cuda", "bf16"): 0.6}


@dataclass(frozen=True, slots=True)
class Workload:
    """What one pass over the pairs computes."""

    tokens: int
    """Tokens that go through the layers."""
    scored: int
    """Tokens whose log-probs are computed."""
    seen: float
    """Pairs of tokens of which one attends to the other."""

    @classmethod
    def of(cls, pairs: TokenizedPairs, padded: bool) -> Workload:
        """Count; a padded prompt goes through the layers twice."""
        prompt = pairs.prompt_lengths.astype(np.float64)
        chosen, rejected = (
            each.astype(np.float64) for each in (pairs.chosen_lengths, pairs.rejected_lengths)
        )
        tokens = prompt.sum() * (2 if padded else 1) + chosen.sum() + rejected.sum()
        first = prompt + chosen
        second = rejected * (2 * prompt + rejected) + (prompt**2 if padded else 0)
        seen = (first**2).sum() / 2 + second.sum() / 2
        return cls(int(tokens), int(chosen.sum() + rejected.sum()), float(seen))


@dataclass(frozen=True, slots=True)
class ModelWork:
    """Multiply-adds of one token in one forward pass, by what they pass through."""

    layers: int
    """Weights of the decoder layers that a token meets: of a mixture's experts, only those that are chosen."""
    trained: int
    """Those of them that are trained themselves."""
    reached: float
    """Share of the layers that the backward pass goes through: those from the first on with trained weights."""
    adapter: int
    """Weights beside them that an adapter trains."""
    head: int
    head_trained: bool
    attention: int
    """Multiply-adds of one token and one token it sees: queries with keys, weights with values."""

    @classmethod
    def of(cls, model: PreTrainedModel, size: ModelSize, *, in_place: bool) -> ModelWork:
        """Count for a model with its adapter; ``in_place`` is whether that adds no weights."""
        parameters, head = size.parameters, size.head
        whole = causal_lm(model)
        config = whole.config.get_text_config()
        table = whole.get_input_embeddings().weight
        output = whole.get_output_embeddings()
        tied = output is not None and getattr(output, "weight", None) is table
        adapter = 0 if in_place else size.trained_parameters
        outside = table.numel() + (0 if tied else head)
        layers = parameters - adapter - outside
        trained = 0
        if in_place:
            trained = size.trained_parameters - table.numel() * table.requires_grad
            trained -= head * (size.head_trained and not tied)
        experts = int(getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1)
        chosen = int(getattr(config, "num_experts_per_tok", None) or 1)
        if experts > 1:
            # All but a few hundredths of a mixture's layers are its experts.
            layers, trained = layers * chosen // experts, trained * chosen // experts
        # Recurrent models have no attention.
        heads = int(getattr(config, "num_attention_heads", None) or 0)
        head_size = int(getattr(config, "head_dim", None) or config.hidden_size // heads) if heads else 0
        attention = 2 * int(config.num_hidden_layers) * heads * head_size
        reached = 1.0 if table.requires_grad else _reached(model)
        return cls(layers, trained, reached, adapter, head, size.head_trained, attention)

    def forward(self, work: Workload) -> float:
        """Return the floating-point operations of a pass without gradients."""
        return 2 * (self.layers * work.tokens + self.head * work.scored + self.attention * work.seen)

    def training(self, work: Workload, *, reference_passes: float, recomputed: float) -> float:
        """Return the floating-point operations of a pass with gradients.

        ``reference_passes`` is the forward passes without gradients in each step, of the reference and of the policy;
        ``recomputed`` the share of the layers that are checkpointed.
        """
        # The first layers are checkpointed first, and nothing is computed again below those that are reached.
        forward = 1 + reference_passes + max(0.0, recomputed - (1 - self.reached))
        # Backward: the gradient of a layer's input, and of its weights where those are trained.
        layers = self.layers * (forward + self.reached) + self.trained + self.adapter * (3 + recomputed)
        head = self.head * (1 + reference_passes + (3 if self.head_trained else 1))
        attention = self.attention * (forward + 2.5 * self.reached)
        return 2 * (layers * work.tokens + head * work.scored + attention * work.seen)


def _reached(model: PreTrainedModel) -> float:
    """Return the share of the layers from the first one on that has trained weights; 1 where they are not known."""
    layers = decoder_layers(model)
    trained = [any(weight.requires_grad for weight in layer.parameters()) for layer in layers]
    if not layers:
        return 1.0
    return 1 - trained.index(True) / len(layers) if any(trained) else 0.0


def first_passes(recipe: Recipe, policy: PreTrainedModel, batches: BatchPlan) -> float:
    """Return the share of the tokens that are scored once more, before there are gradients.

    They are those of all steps for a loss that couples pairs, and for one that balances the routers, those of steps
    that have several micro-batches, on one data rank or more.
    """
    if recipe.loss.couples_pairs:
        return 1.0
    if Routing.of(policy, recipe.training.router_loss_weight) is None:
        return 0.0
    steps = microbatch_tokens(batches)
    return sum(sum(step) for step in steps if len(step) > 1) / sum(map(sum, steps))


def sustained_rate(device: torch.device, precision: str) -> float:
    """Return the floating-point operations a second that steps of that precision reach on the device."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return EFFICIENCY[device.type, precision] * product_rate(device, dtype)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations a second of a large matrix product on the device."""
    side = _SIDE[device.type]
    # Of random numbers: on equal ones hardly a bit changes, and a GPU that needs less power for it runs faster.
    draw = torch.Generator(device).manual_seed(0)  # leaves the global generator alone
    left, right = (torch.randn(side, side, generator=draw, device=device, dtype=dtype) for _ in range(2))
    best, began = math.inf, time.perf_counter()
    # The first product warms up; the fastest is the one that other processes disturbed least.
    while (now := time.perf_counter()) - began < _SECONDS or best == math.inf:
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - now)
    return 2 * side**3 / best
