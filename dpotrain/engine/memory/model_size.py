"""What a run holds in memory whatever its micro-batches, by part, in bytes: pure functions of model and recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpotrain.engine.scoring.logprobs import TILE_LOGITS
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.plugin.api import Trained

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

#: float32 copies of a tile of logits that the language-model head works with at once.
_TILE_COPIES = 4


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Counted off a model, real or on the meta device."""

    weights: Mapping[str, int]
    """Bytes of all weights and buffers, by how they are held: ``"bfloat16"``, ``"4.1 bits"``."""
    parameters: int
    """Numbers in the weights, quantized ones counted as what they stand for."""
    trained: tuple[Trained, ...]
    head: int
    """Numbers in the language-model head's weight."""
    head_bytes: int
    head_trained: bool

    @property
    def bytes(self) -> int:
        """Bytes of all weights and buffers."""
        return sum(self.weights.values())

    @property
    def trained_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(tensor.numbers for tensor in self.trained)


def count(model: PreTrainedModel, bits: Mapping[int, float] | None = None) -> ModelFacts:
    """Count a model's tensors, each once.

    Args:
        model: with its adapter.
        bits: for a model on the meta device, the bits of each weight that loading will quantize, by ``id``.
    """
    bits = bits or {}
    weights: dict[str, int] = {}
    parameters = 0
    trained = []
    for weight in model.parameters():
        width = bits.get(id(weight))
        kind = f"{width:.2g} bits" if width else str(weight.dtype).removeprefix("torch.")
        weights[kind] = weights.get(kind, 0) + (int(weight.numel() * width / 8) if width else weight.nbytes)
        parameters += _numbers(weight)
        if weight.requires_grad:
            trained.append(Trained(weight.numel(), weight.element_size()))
    for buffer in model.buffers():
        kind = str(buffer.dtype).removeprefix("torch.")
        weights[kind] = weights.get(kind, 0) + buffer.nbytes
    head = getattr(causal_lm(model).get_output_embeddings(), "weight", None)
    return ModelFacts(
        weights=weights,
        parameters=parameters,
        trained=tuple(trained),
        head=0 if head is None else _numbers(head),
        head_bytes=0 if head is None else head.nbytes,
        head_trained=head is not None and head.requires_grad,
    )


def _numbers(weight: nn.Parameter) -> int:
    """Count what a parameter stands for: bitsandbytes packs two 4-bit weights into a byte."""
    state = getattr(weight, "quant_state", None)
    shape = getattr(state, "shape", None)
    return int(shape.numel()) if shape is not None else weight.numel()


def gradient_bytes(trained: Sequence[Trained]) -> int:
    """Bytes of the gradients: as large as what they belong to."""
    return sum(tensor.bytes for tensor in trained)


def head_bytes(facts: ModelFacts, device: str, bf16: bool) -> int:
    """Bytes that the language-model head works with: a few tiles of logits, and its weight cast or its gradient."""
    tiles = _TILE_COPIES * 4 * TILE_LOGITS.get(device, TILE_LOGITS["cpu"])
    cast = 2 * facts.head if bf16 and facts.head_bytes > 2 * facts.head else 0
    return tiles + cast + (facts.head_bytes if facts.head_trained else 0)
