"""The arithmetic that a step of DPO asks of a model, whoever trains it.

Counted is what has to be computed, in floating-point operations (a multiplication and an addition are two), not what a
trainer happens to do: each prompt once a pair, no padding, attention only where it may look, logits only of scored
tokens, nothing twice.

    forward  = 2 tokens (linear + adapter weights) + 4 attended x heads x head size x layers + 2 scored x head weights
    backward = twice the forward where weights are trained and in attention, once where they are frozen

``attended`` is the number of (query, key) pairs. Left out, as is usual, is what is not a matrix product. A sliding
window is counted as if it were full attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMULA = (
    "model FLOPs of a pair: forward 2 t w + 4 a d l + 2 s v (t real tokens, the prompt once; w weights of linear "
    "layers; a attended query-key pairs; d width of all heads; l layers; s scored tokens; v weights of the head), "
    "backward twice that where trained and in attention, once where frozen; a live reference adds a forward"
)


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides its arithmetic."""

    linear: int
    """Weights of all linear layers but the head, as far as a token meets them (of experts, its share)."""
    adapter: int
    """Weights of LoRA on all of those; 0 without."""
    head: int
    """Hidden size times vocabulary."""
    attention: int
    """Layers times heads times head size."""
    trained: bool
    """Whether the linear weights and the head themselves are trained."""
    inputs: int
    """Numbers that the linear layers but the head read of a token, each layer its own."""
    outputs: int
    """Numbers that they write."""
    hidden: int
    """Numbers that the head reads of a token."""
    trained_weights: int
    """Weights that the optimizer updates."""

    @classmethod
    def of(cls, model: PreTrainedModel, rank: int = 0) -> ModelShape:
        """Read it off a model, which may be on the meta device; ``rank`` 0 is full training."""
        from torch import nn

        config = model.config.get_text_config()
        output = model.get_output_embeddings()
        linear = adapter = inputs = outputs = 0
        for module in model.modules():
            if module is output or isinstance(module, nn.Embedding):
                continue
            for weight in module.parameters(recurse=False):
                if weight.ndim == 2:
                    linear += weight.numel()
                    outputs, inputs = outputs + weight.shape[0], inputs + weight.shape[1]
                    adapter += rank * sum(weight.shape)
                elif weight.ndim == 3:
                    # Experts, (experts, rows, columns): each token meets some of them.
                    met = _experts_met(config)
                    linear += weight.numel() * met // len(weight)
                    outputs, inputs = outputs + met * weight.shape[1], inputs + met * weight.shape[2]
        heads = int(config.num_attention_heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        return cls(
            linear=linear,
            adapter=adapter,
            head=output.weight.numel(),
            attention=int(config.num_hidden_layers) * heads * size,
            trained=rank == 0,
            inputs=inputs,
            outputs=outputs,
            hidden=output.weight.shape[1],
            trained_weights=adapter if rank else sum(weight.numel() for weight in model.parameters()),
        )

    def forward(self, tokens: int, attended: int, scored: int, *, adapter: bool = True) -> int:
        """FLOPs of a forward pass; ``adapter`` False is the reference's."""
        weights = self.linear + (self.adapter if adapter else 0)
        return 2 * tokens * weights + 4 * attended * self.attention + 2 * scored * self.head

    def backward(self, tokens: int, attended: int, scored: int) -> int:
        """FLOPs of a backward pass: gradients of activations, and of the weights that are trained."""
        times = 2 if self.trained else 1
        return (
            times * 2 * tokens * self.linear
            + 2 * 2 * tokens * self.adapter
            + 2 * 4 * attended * self.attention
            + times * 2 * scored * self.head
        )

    def parts(self, tokens: int, attended: int, scored: int) -> dict[str, dict[str, int]]:
        """Return the FLOPs of reference, forward and backward pass by what computes them.

        The sums are those of :meth:`forward` and :meth:`backward`, except that the gradient of a frozen head is counted
        where dpotrain computes it: in the forward pass.
        """
        times = 2 if self.trained else 1
        head = 2 * scored * self.head
        frozen = 0 if self.trained else head
        return {
            "reference": {
                "linear": 2 * tokens * self.linear,
                "attention": 4 * attended * self.attention,
                "head": head,
            },
            "forward": {
                "linear": 2 * tokens * (self.linear + self.adapter),
                "attention": 4 * attended * self.attention,
                "head": head + frozen,
            },
            "backward": {
                "linear": 2 * tokens * (times * self.linear + 2 * self.adapter),
                "attention": 8 * attended * self.attention,
                "head": times * head - frozen,
            },
        }


def attended(prompt: int, chosen: int, rejected: int) -> int:
    """(Query, key) pairs of a packed pair: [prompt, chosen] over itself, [rejected] over [prompt, rejected], causal."""

    def causal(length: int) -> int:
        return length * (length + 1) // 2

    return causal(prompt + chosen) + rejected * prompt + causal(rejected)


def attended_twice(prompt: int, chosen: int, rejected: int) -> int:
    """(Query, key) pairs where each answer has a prompt of its own, as without prefix sharing."""
    return attended(0, prompt + chosen, prompt + rejected)


def _experts_met(config: Any) -> int:
    return int(getattr(config, "num_experts_per_tok", None) or 1)
