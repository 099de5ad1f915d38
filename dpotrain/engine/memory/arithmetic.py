"""How long the arithmetic of a run takes: multiplications by formula, over the speed measured on this device."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dpotrain.engine.scoring.scorer import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dpotrain.engine.memory.model_size import ModelFacts

#: Side of the square matrices that are multiplied to measure, and for how long, in seconds.
_SIDE = {"cpu": 512, "cuda": 8192}
_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Multiply-adds of one token in one forward pass, by what they pass through."""

    layers: int
    """Weights of the decoder layers that a token meets: of a mixture's experts, only those that are chosen."""
    adapter: int
    """Weights beside them that an adapter trains."""
    head: int
    attention: int
    """Numbers that one token and one token it sees are multiplied through: queries with keys, weights with values."""
    all_trained: bool
    """Whether the layers' own weights are trained, not an adapter beside them."""

    @classmethod
    def of(cls, model: PreTrainedModel, facts: ModelFacts) -> Arithmetic:
        """Count for a model with its adapter."""
        parameters, trained, head = facts.parameters, facts.trained_parameters, facts.head
        whole = causal_lm(model)
        config = whole.config.get_text_config()
        table = whole.get_input_embeddings().weight
        output = whole.get_output_embeddings()
        tied = output is not None and getattr(output, "weight", None) is table
        everything = trained >= parameters // 2
        adapter = 0 if everything else trained
        layers = parameters - adapter - table.numel() - (0 if tied else head)
        experts = int(getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1)
        chosen = int(getattr(config, "num_experts_per_tok", None) or 1)
        if experts > 1:
            # All but a few hundredths of a mixture's layers are its experts.
            layers = layers * chosen // experts
        heads = int(config.num_attention_heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        return cls(layers, adapter, head, 2 * int(config.num_hidden_layers) * heads * size, everything)

    def forward(self, tokens: float, scored: float, seen: float) -> float:
        """Return the floating-point operations of a pass without gradients; arguments as of :meth:`flops`."""
        return 2 * (self.layers * tokens + self.head * scored + self.attention * seen)

    def flops(
        self, tokens: float, scored: float, seen: float, *, reference_passes: int, again: float
    ) -> float:
        """Return the floating-point operations of training on ``tokens``.

        Args:
            tokens: tokens that go through the layers.
            scored: of these, how many reach the head.
            seen: pairs of tokens of which one attends to the other.
            reference_passes: 1 where the reference is computed in the step, else 0.
            again: share of the layers whose forward pass is computed a second time.
        """
        forward = 1 + reference_passes + again
        # Backward: the gradient of a layer's input, and of its weights where those are trained.
        layers = self.layers * (forward + (2 if self.all_trained else 1)) + self.adapter * (1 + again + 2)
        head = self.head * (1 + reference_passes + (3 if self.all_trained else 1))
        attention = self.attention * (forward + 2.5)
        return 2 * (layers * tokens + head * scored + attention * seen)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a large matrix product on the device."""
    side = _SIDE.get(device.type, _SIDE["cpu"])
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    best, began = math.inf, time.perf_counter()
    # The first product warms up; the best one is what no other process disturbed.
    while (now := time.perf_counter()) - began < _SECONDS or best == math.inf:
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - now)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
