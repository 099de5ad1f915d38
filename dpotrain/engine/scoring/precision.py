"""Precision: bfloat16 where the device has matrix products in it, otherwise float32; never float16.

A CPU without instructions for them takes 6 to 40 times as long for a product in bfloat16 as in float32 (measured on
AVX2), so a run computes in float32 there: 16-bit weights are upcast when loaded, and cast back before they are saved.

float16 has too few exponents to train in: gradients below 6e-8 are 0, and so is AdamW's second moment of gradients
below 5e-3, whose update is then the first moment over eps, thousands of times too large. float16 weights are upcast
wherever anything but the weights themselves would be float16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import nn

from dpotrain.engine.sharding.shards import is_sharded
from dpotrain.plugin.api import Adapter, InPlaceAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision: TypeAlias = Literal["bf16", "fp32"]

_16_BITS = (torch.bfloat16, torch.float16)


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device of this type, "cpu" or "cuda", has matrix products in bfloat16 worth using."""
    if device != "cpu":
        return True
    # True with AVX512, whose kernels widen in registers, and with AMX or Arm's own instructions.
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def compute_precision(wanted: Precision, device: str) -> Precision:
    """Return the precision in which a device of this type computes a run that asks for ``wanted``."""
    return wanted if multiplies_bfloat16(device) else "fp32"


class UpcastWeights:
    """Holds 16-bit parameters and buffers of a model in float32; quantized weights stay as they are."""

    def __init__(self, model: nn.Module, precision: Precision, device: str) -> None:
        """Upcast what a model, before anything is trained of it, is not computed with in its own dtype.

        Where the device has no products in bfloat16, these are all. Otherwise they are those of float16, except under
        bfloat16 autocast the weights of linear layers, whose products are in bfloat16 anyway.
        """
        self._precision = precision
        self._before: list[tuple[_Place, torch.dtype]] = []
        self.float16_bytes = 0
        """What the float16 tensors among them take in float32."""
        if not multiplies_bfloat16(device):
            self._upcast(_places(model, *_16_BITS))
            return
        held = _places(model, torch.float16)
        if precision == "bf16":
            # A head may be tied to the embedding, which is not a product.
            others = [module for module in model.modules() if not isinstance(module, nn.Linear)]
            outside = {
                id(each) for module in others for each in (*module.parameters(False), *module.buffers(False))
            }
            held = [each for each in held if id(each.tensor) in outside]
        if getattr(model, "is_quantized", False):
            # Its buffers may be the scales of weights, whose kernels ask for their dtype.
            held = [each for each in held if isinstance(each.tensor, nn.Parameter)]
        self._upcast(held)

    def attach(self, adapter: Adapter, model: PreTrainedModel) -> PreTrainedModel:
        """Return the policy: the model with its adapter, the float16 weights that it trains upcast.

        Of an adapter that trains in place, the weights that it upcasts are among these, so that they are saved as they
        were loaded.
        """
        held = [(each, each.tensor.dtype) for each in _places(model, *_16_BITS)]
        policy = adapter.attach(model)
        if isinstance(adapter, InPlaceAdapter):
            upcast = [(each, dtype) for each, dtype in held if each.tensor.dtype != dtype]
            for each, dtype in upcast:
                self._note(each, dtype)
            if upcast and self._precision == "fp32":
                # Without autocast no product is of two dtypes, and these weights meet what the others compute.
                self._upcast(_places(policy, *_16_BITS))
        self._upcast(each for each in _places(policy, torch.float16) if each.tensor.requires_grad)
        return policy

    @contextmanager
    def as_loaded(self) -> Iterator[None]:
        """Hold them in their original dtypes inside the context, those that were trained rounded.

        Those that are sharded are not about to be saved, and stay as they are.
        """
        held = [(place.tensor, dtype) for place, dtype in self._before if not is_sharded(place.tensor)]
        trained = [(tensor, tensor.data) for tensor, _ in held if tensor.requires_grad]
        for tensor, dtype in held:
            tensor.data = tensor.data.to(dtype)
        try:
            yield
        finally:
            for tensor, _ in held:
                tensor.data = tensor.data.float()
            for tensor, exact in trained:
                tensor.data = exact

    def _upcast(self, places: Iterable[_Place]) -> None:
        for place in places:
            tensor = place.tensor
            self._note(place, tensor.dtype)
            tensor.data = tensor.data.float()

    def _note(self, place: _Place, dtype: torch.dtype) -> None:
        self._before.append((place, dtype))
        self.float16_bytes += 4 * place.tensor.numel() * (dtype == torch.float16)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a model has a tensor. Another one may come there, when weights are sharded over processes."""

    module: nn.Module
    name: str

    @property
    def tensor(self) -> torch.Tensor:
        tensor: torch.Tensor = getattr(self.module, self.name)
        return tensor


def _places(model: nn.Module, *dtypes: torch.dtype) -> list[_Place]:
    """Return where parameters and buffers of these dtypes are; of one that is in several places the first."""
    found: dict[int, _Place] = {}
    for module in model.modules():
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in own:
            if tensor.dtype in dtypes:
                found.setdefault(id(tensor), _Place(module, name))
    return list(found.values())
