"""The bitsandbytes quantizers: QLoRA's 4 bits and LLM.int8's 8.

The quantized weights stay frozen; an adapter is trained beside them. Both work on CUDA and on a CPU.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Quantizer, import_apart, require
from dpotrain_plugins.quantizers.linear_quantizer import LinearQuantizer, skip_modules_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

dpotrain_interface = 2


class _BitsAndBytes(LinearQuantizer):
    """What both have in common."""

    library = "bitsandbytes"
    width: ClassVar[int]
    """Bits of a weight."""

    def check(self) -> None:
        require(self, "bitsandbytes")

    def contradictions(self, saved: Mapping[str, Any]) -> list[str]:
        if lines := super().contradictions(saved):
            return lines
        width = 4 if saved.get("load_in_4bit", saved.get("_load_in_4bit")) else 8
        if width != self.width:
            return [
                f'quantizer.use = "{self.name}", but the weights were saved in {width} bits ("bnb-{width}bit")'
            ]
        skipped = skip_modules_of(saved.get("llm_int8_skip_modules"))
        return self._differing(self._options_of(saved) | {"skip_modules": skipped})

    def _options_of(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that decide the stored weights, as they were saved."""
        raise NotImplementedError

    def _bits(self, model: PreTrainedModel, linear: float, row: float = 0.0) -> dict[str, float]:
        """Return the bits of each layer's weight; GPT-2's transposed layers are replaced as well."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        return self._layer_bits(model, (nn.Linear, Conv1D), linear, row)

    def _freeze(self, model: PreTrainedModel, kind: type[nn.Linear]) -> list[Any]:
        """Freeze the model and return its quantized layers, or raise if it is not really a quantized one."""
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kind)}
        self._freeze_around(model, layers)
        return list(layers.values())


class Bnb4bit(_BitsAndBytes):
    """QLoRA's block-wise 4-bit weights (Dettmers et al. 2023, arXiv 2305.14314)."""

    name = "bnb-4bit"
    width = 4
    shardable = True

    class Options(_BitsAndBytes.Options):
        quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit NormalFloat, or 4-bit float.")
        double_quant: bool = Field(
            True, description="Quantize the scales too: saves 0.4 bits a weight, costs nothing measurable."
        )
        compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
            "auto", description='What products are computed in; "auto" follows training.precision.'
        )

    options: Options

    def loading_config(self) -> Any:
        import_apart("bitsandbytes")
        from transformers import BitsAndBytesConfig

        compute = self.options.compute_dtype
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.options.quant_type,
            bnb_4bit_use_double_quant=self.options.double_quant,
            bnb_4bit_compute_dtype=None if compute == "auto" else compute,
            llm_int8_skip_modules=self._skipped,
        )

    def _options_of(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        # What products are computed in is no property of the weights: prepare() sets it.
        return {
            "quant_type": saved.get("bnb_4bit_quant_type", "fp4"),
            "double_quant": saved.get("bnb_4bit_use_double_quant", False),
        }

    def bits(self, model: PreTrainedModel) -> dict[str, float]:
        """Return 4, and the scales of blocks of 64: 32 bits each, or 8 and 32 for every 256 of them."""
        return self._bits(model, 4 + (8 / 64 + 32 / (64 * 256) if self.options.double_quant else 32 / 64))

    def prepare(self, model: PreTrainedModel) -> None:
        import torch
        from bitsandbytes.nn import Linear4bit

        for layer in self._freeze(model, Linear4bit):
            # On CPUs with AVX512-BF16 a forward in eval() without gradients would repack the weights for
            # inference, for good, and no gradient would pass them any more. This flag is what it asks first.
            layer.support_avx512bf16_for_cpu = False
            if self.options.compute_dtype == "auto":
                layer.register_forward_pre_hook(_follow_precision)
            else:
                # Weights that were saved quantized come with the dtype that they were saved with.
                layer.compute_dtype = getattr(torch, self.options.compute_dtype)
                layer.forward = _outside_autocast(layer.forward)


class Bnb8bit(_BitsAndBytes):
    """LLM.int8's row-wise 8-bit weights (Dettmers et al. 2022, arXiv 2208.07339)."""

    name = "bnb-8bit"
    width = 8

    class Options(_BitsAndBytes.Options):
        threshold: float = Field(
            6.0,
            ge=0,
            description="Activations beyond it are multiplied in 16 bits instead of 8; 0 does so with none. On CUDA "
            "they are looked for over the whole micro-batch, so which pairs share one shows in the numbers, as "
            "small as the quantization is. A CPU in training multiplies all in full precision.",
        )

    options: Options

    def loading_config(self) -> Any:
        import_apart("bitsandbytes")
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=self.options.threshold,
            llm_int8_skip_modules=self._skipped,
        )

    def _options_of(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        return {"threshold": saved.get("llm_int8_threshold", 6.0)}

    def bits(self, model: PreTrainedModel) -> dict[str, float]:
        """Return 8, and a scale of 32 bits for every row."""
        return self._bits(model, 8, 32)

    def prepare(self, model: PreTrainedModel) -> None:
        from bitsandbytes.nn import Linear8bitLt

        self._freeze(model, Linear8bitLt)
        # It would be said for every layer in every forward pass.
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_not_about_casting)


def _follow_precision(layer: Any, args: tuple[torch.Tensor, ...]) -> None:
    """Compute in the dtype of autocast, or the input's without: the same with gradients and without.

    Left to itself, bitsandbytes computes in the configured dtype where no gradient is needed (the reference),
    and in autocast's where one is (the policy).
    """
    import torch

    device = args[0].device.type
    autocast = torch.is_autocast_enabled(device)
    layer.compute_dtype = torch.get_autocast_dtype(device) if autocast else args[0].dtype


def _outside_autocast(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compute in the configured dtype with gradients as without; autocast would have its own way with them."""
    import torch

    @functools.wraps(forward)
    def computed(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden)

    return computed


def _not_about_casting(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in record.getMessage()


@hookimpl
def dpotrain_quantizers() -> list[type[Quantizer]]:
    return [Bnb4bit, Bnb8bit]
