"""What is computed in bfloat16, and where float32 takes its place because the processor has no bfloat16 products.

Without instructions for them, a matrix product in bfloat16 takes 6 to 40 times as long as one in float32 (measured on
AVX2). A run that asks for bfloat16 there is computed in float32, which is more exact and no slower than the processor:
weights of 16 bits are widened when they are loaded, which loses nothing, and narrowed again before they are saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import nn

Precision: TypeAlias = Literal["bf16", "fp32"]

_NARROW = (torch.bfloat16, torch.float16)


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device of this type, "cpu" or "cuda", has matrix products in bfloat16 worth using."""
    if device != "cpu":
        return True
    # True with AVX512, whose kernels widen in registers, and with AMX or Arm's own instructions.
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def computed_in(wanted: Precision, device: str) -> Precision:
    """Return in what a run that asks for ``wanted`` is computed on a device of this type."""
    return wanted if multiplies_bfloat16(device) else "fp32"


class Widened:
    """The 16-bit parameters and buffers of a model, held in float32 from now on; quantized ones are none of these."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [each for each in (*model.parameters(), *model.buffers()) if each.dtype in _NARROW]
        self._before = [(each, each.dtype) for each in tensors]
        self._widen()

    def _widen(self) -> None:
        for tensor, _ in self._before:
            tensor.data = tensor.data.float()

    @contextmanager
    def narrow(self) -> Iterator[None]:
        """Hold them as they were loaded while the context is open: exact for what has not been trained since."""
        for tensor, dtype in self._before:
            tensor.data = tensor.data.to(dtype)
        try:
            yield
        finally:
            self._widen()
