"""Sizes that do not depend on the micro-batches: weights, gradients and the language-model head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from dpotrain.engine.scoring.logprobs import NARROWEST_TILE, TILE_LOGITS
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.engine.sharding.shards import local_shard
from dpotrain.plugin.api import Trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: float32 copies of a tile of logits that the language-model head works with at once.
_TILE_COPIES = 4


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters and bytes of a model, real or on the meta device."""

    weights: Mapping[str, int]
    """Bytes of all weights and buffers, by format: ``"bfloat16"``, ``"4.1 bits"``; of sharded ones of the shard."""
    parameters: int
    """Number of weights; a packed byte of a quantized tensor counts as the weights that it holds."""
    trained: tuple[Trained, ...]
    """What is trained, or this process's shard of it: gradients and an optimizer's state are as large."""
    trained_whole: tuple[Trained, ...]
    """The same, of sharded weights all of it."""
    head: int
    """Parameters of the language-model head."""
    head_bytes: int
    head_trained: bool

    @property
    def trained_parameters(self) -> int:
        """Number of trained parameters, whole."""
        return sum(weight.numbers for weight in self.trained_whole)

    @property
    def bytes(self) -> int:
        """Bytes of all weights and buffers."""
        return sum(self.weights.values())


def count(model: PreTrainedModel, bits: Mapping[int, float] | None = None) -> ModelSize:
    """Count the tensors of a model with its adapter, shared ones once.

    ``bits`` is for a model on the meta device: of each weight that loading will quantize, by ``id``.
    """
    bits = bits or {}
    weights: dict[str, int] = {}
    parameters = 0
    trained, whole = [], []
    for name, weight in model.named_parameters():
        held, width = local_shard(weight), bits.get(id(weight))
        kind = f"{width:.2g} bits" if width else str(weight.dtype).removeprefix("torch.")
        weights[kind] = weights.get(kind, 0) + (int(weight.numel() * width / 8) if width else held.nbytes)
        parameters += _numbers(weight)
        if weight.requires_grad:
            trained.append(Trained(held.numel(), held.element_size(), name, tuple(held.shape)))
            whole.append(Trained(weight.numel(), weight.element_size(), name, tuple(weight.shape)))
    for buffer in model.buffers():
        kind = str(buffer.dtype).removeprefix("torch.")
        weights[kind] = weights.get(kind, 0) + buffer.nbytes
    head = getattr(causal_lm(model).get_output_embeddings(), "weight", None)
    return ModelSize(
        weights=weights,
        parameters=parameters,
        trained=tuple(trained),
        trained_whole=tuple(whole),
        head=0 if head is None else _numbers(head),
        head_bytes=0 if head is None else head.nbytes,
        head_trained=head is not None and head.requires_grad,
    )


def _numbers(weight: nn.Parameter) -> int:
    """Return the weights that a parameter holds: bitsandbytes packs two 4-bit weights into a byte."""
    state = getattr(weight, "quant_state", None)
    shape = getattr(state, "shape", None)
    return int(shape.numel()) if shape is not None else weight.numel()


def trained_bytes(trained: Sequence[Trained]) -> int:
    """Bytes of the trained weights: as many as of their gradients, and of each copy of them."""
    return sum(tensor.bytes for tensor in trained)


def head_bytes(size: ModelSize, device: str, bf16: bool, tokens: int) -> int:
    """Bytes that the language-model head needs: a few tiles of logits, its weight in bfloat16, its own gradient.

    ``tokens`` are those of the longest pair, of which each may be scored.
    """
    logits = max(TILE_LOGITS.get(device, TILE_LOGITS["cpu"]), NARROWEST_TILE * tokens)
    tiles = _TILE_COPIES * 4 * logits
    cast = 2 * size.head if bf16 and size.head_bytes > 2 * size.head else 0
    return tiles + cast + (size.head_bytes if size.head_trained else 0)
