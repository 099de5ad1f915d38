"""What one rank holds of a model, whatever its micro-batches: all of it, or a share of each matrix.

Sharding (``fully_shard``) splits the matrices of the base model by their rows. Norms, biases and what an adapter adds
are whole on every rank, and so are buffers. To compute, a rank gathers the matrices of a decoder layer, uses them and
drops them again; those outside the layers (embedding, head) stay gathered for a whole micro-batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.memory.activations import Activations
from dpotrain.engine.memory.layout import ONE_DEVICE, Layout
from dpotrain.engine.memory.model_size import ModelSize
from dpotrain.engine.sharding.shards import rounds_anyway
from dpotrain.plugin.api import Trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Gathered layers in memory at once: the one that computes, the next one, and the buffer in which it was received.
GATHERED_LAYERS = 3
#: Bytes of a number that is gathered to compute in bfloat16, and of one whose gradients are added up.
_BFLOAT16, _FLOAT32 = 2, 4


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight of the base model with two dimensions or more, which sharding splits by its rows."""

    name: str
    numbers: int
    rows: int
    bytes: int
    """Of all of it, as it is held; of a quantized one the codes alone, since their scales are whole on every rank."""
    layer: int | None
    """Number of its decoder layer; None outside of them."""
    narrow: bool
    """Whether it is held in float32, and a layer that computes in bfloat16 gathers it in half the bytes."""
    trained: bool
    quantized: bool

    def rows_of(self, shards: int) -> int:
        """Return the rows of the largest share: that of rank 0."""
        return -(-self.rows // shards)

    def gathered(self, bf16: bool) -> int:
        """Return the bytes of all of it, gathered to compute with."""
        return self.numbers * _BFLOAT16 if bf16 and self.narrow else self.bytes


def matrices_of(
    policy: PreTrainedModel, bits: Mapping[int, float] | None = None, *, in_place: bool
) -> tuple[Matrix, ...]:
    """Return the matrices of a model with its adapter, real or on the meta device, shared ones once.

    ``bits`` is as :func:`.model_size.count` takes it; ``in_place`` is whether the base model's own weights are
    trained, so that no trained weight is an adapter's.
    """
    bits, layers = bits or {}, decoder_layers(policy)
    times = Counter(weight for layer in layers for weight in layer.parameters())
    named = {
        weight: name
        for name, weight in policy.named_parameters()
        # What several layers share belongs to none of them, and is whole on every rank.
        if weight.ndim >= 2
        and weight.numel()
        and times[weight] <= 1
        and (in_place or not weight.requires_grad)
    }
    place = {weight: number for number, layer in enumerate(layers) for weight in layer.parameters()}
    # A layer with quantized weights is gathered byte by byte.
    rounds = [
        rounds_anyway(layer, named.keys()) and not any(id(weight) in bits for weight in layer.parameters())
        for layer in layers
    ]
    found = []
    for weight, name in named.items():
        number, width = place.get(weight), bits.get(id(weight))
        matrix = Matrix(
            name=name,
            numbers=weight.numel(),
            rows=weight.shape[0],
            # A code has a whole number of bits; the rest is scales.
            bytes=weight.numel() * int(width) // 8 if width else weight.nbytes,
            layer=number,
            narrow=number is not None and rounds[number] and weight.dtype == torch.float32,
            trained=weight.requires_grad,
            quantized=bool(width),
        )
        found.append(matrix)
    return tuple(found)


@dataclass(frozen=True)
class Share:
    """What one rank holds of a model; sizes in bytes."""

    size: ModelSize
    """Of the whole model; or, without ``matrices``, of what the rank holds of one that is sharded already."""
    matrices: tuple[Matrix, ...] = ()
    layout: Layout = ONE_DEVICE
    bf16: bool = False
    """Whether layers compute in bfloat16."""

    @cached_property
    def weights(self) -> int:
        """Weights and buffers on the device."""
        kept = 0 if self.layout.offload else self._shards
        return self.size.bytes - sum(each.bytes for each in self._sharded) + kept

    @cached_property
    def trained(self) -> tuple[Trained, ...]:
        """What the rank's optimizer updates on the device: whole tensors, and its share of others."""
        return self._updated(on_host=False)

    @cached_property
    def trained_on_host(self) -> tuple[Trained, ...]:
        """What it updates in the host's memory."""
        return self._updated(on_host=True)

    @property
    def loading(self) -> int:
        """What of the weights is on the device while the model loads: all of a quantized one, sharded only then."""
        return self.size.bytes if any(each.quantized for each in self._sharded) else 0

    @property
    def weights_on_host(self) -> int:
        """Weights in the host's memory, for a device that has its own."""
        return self._shards if self.layout.offload else 0

    @cached_property
    def gathered(self) -> int:
        """What of the shards is gathered while a micro-batch computes, with the gradients of one layer."""
        of_layer: dict[int, int] = {}
        gradients: dict[int, int] = {}
        outside = 0
        for each in self._sharded:
            whole = each.gathered(self.bf16)
            if each.layer is None:
                outside += whole
                continue
            of_layer[each.layer] = of_layer.get(each.layer, 0) + whole
            # As the backward pass makes them, and in the buffer in which they are added up.
            more = (whole + _FLOAT32 * each.numbers) * each.trained
            gradients[each.layer] = gradients.get(each.layer, 0) + more
        layers = min(GATHERED_LAYERS, len(of_layer)) * max(of_layer.values(), default=0)
        return outside + layers + max(gradients.values(), default=0)

    @cached_property
    def added_up(self) -> int:
        """What adding up the gradients outside the layers takes at the end of a backward pass, without activations.

        They are whole there, and once more in float32, in which they are added up. That of the head is counted in
        :func:`.model_size.head_bytes`.
        """
        outside = [each for each in self._sharded if each.layer is None and each.trained]
        whole = sum(each.bytes + _FLOAT32 * each.numbers for each in outside)
        return max(0, whole - self.size.head_bytes * self.size.head_trained)

    def activations(self, found: Activations) -> Activations:
        """Return the activations of a rank from those that the whole model on one device keeps.

        Autocast's bfloat16 copies of float32 matrices are what sharded layers gather, and gathered weights go before
        the next layer computes.
        """
        casts = [0] * len(found.layers)
        if self.bf16:
            for each in self._sharded:
                if each.narrow and each.layer is not None and each.layer < len(casts):
                    casts[each.layer] += _BFLOAT16 * each.numbers
        layers = tuple(
            replace(layer, constant=max(0.0, layer.constant - cast))
            for layer, cast in zip(found.layers, casts, strict=True)
        )
        return replace(found, layers=layers, context=self.layout.context)

    @property
    def _sharded(self) -> tuple[Matrix, ...]:
        return () if self.layout.shards is None else self.matrices

    @property
    def _shards(self) -> int:
        """Bytes of the rank's shares."""
        return sum(each.bytes * each.rows_of(self.layout.shards or 1) // each.rows for each in self._sharded)

    def _updated(self, *, on_host: bool) -> tuple[Trained, ...]:
        sharded = {each.name: each for each in self._sharded}
        offload = self.layout.offload
        return tuple(
            self._part(weight, sharded.get(weight.name))
            for weight in self.size.trained
            if (offload and weight.name in sharded) == on_host
        )

    def _part(self, weight: Trained, matrix: Matrix | None) -> Trained:
        if matrix is None:
            return weight
        rows = matrix.rows_of(self.layout.shards or 1)
        shape = (rows, *weight.shape[1:])
        return replace(weight, numbers=weight.numbers // matrix.rows * rows, shape=shape)
