"""Precision: bfloat16 where the device has matrix products in it, otherwise float32.

A CPU without instructions for them takes 6 to 40 times as long for a product in bfloat16 as in float32 (measured on
AVX2), so a run computes in float32 there: 16-bit weights are upcast when loaded, and cast back before they are saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import nn

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
    """Holds a model's 16-bit parameters and buffers in float32; quantized weights stay as they are."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [each for each in (*model.parameters(), *model.buffers()) if each.dtype in _16_BITS]
        self._before = [(each, each.dtype) for each in tensors]
        self._upcast()

    def _upcast(self) -> None:
        for tensor, _ in self._before:
            tensor.data = tensor.data.float()

    @contextmanager
    def as_loaded(self) -> Iterator[None]:
        """Hold them in their original dtypes inside the context: exact for weights that were not trained."""
        for tensor, dtype in self._before:
            tensor.data = tensor.data.to(dtype)
        try:
            yield
        finally:
            self._upcast()
