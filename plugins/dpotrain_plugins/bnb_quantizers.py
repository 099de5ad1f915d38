"""The bitsandbytes quantizers: QLoRA's 4 bits and LLM.int8's 8.

The quantized weights stay frozen; an adapter is trained beside them. Both work on CUDA and on a CPU.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.errors import RunError
from dpotrain.plugin.components import Quantizer
from dpotrain.plugin.requirements import require

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: What transformers' models call the language-model head where it is a layer of its own.
_HEADS = ["lm_head", "embed_out"]


class _BitsAndBytes(Quantizer):
    """What both have in common."""

    class Options(Quantizer.Options):
        skip_modules: list[str] = Field(
            default_factory=list,
            description="Parts of the names of layers that are not quantized, besides the model's head.",
        )

    options: Options

    def check(self) -> None:
        require(self, "bitsandbytes")

    @property
    def _skipped(self) -> list[str] | None:
        """What transformers is told to skip; None lets it find the head and what is tied to it."""
        return [*self.options.skip_modules, *_HEADS] if self.options.skip_modules else None

    def _bits(self, model: PreTrainedModel, linear: float, row: float = 0.0) -> dict[str, float]:
        """Return the bits of each linear layer's weight: so many a number, and so many more a row."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        ends = {id(part) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
        return {
            f"{name}.weight": linear + row / layer.weight.shape[-1]
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear | Conv1D)
            and id(layer) not in ends
            and not any(part in name for part in self.options.skip_modules)
        }

    def _freeze(self, model: PreTrainedModel, kind: type[torch.nn.Module]) -> list[Any]:
        """Freeze the model and return its quantized layers, or raise if it is not really a quantized one."""
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kind)}
        if not layers:
            raise RunError(
                f'quantizer "{self.name}" quantized nothing: {type(model).__name__} has no linear layer that '
                "bitsandbytes could replace. Leave out [quantizer], or check skip_modules"
            )
        head = model.get_output_embeddings()
        for name, layer in layers.items():
            if layer is head:
                raise RunError(
                    f"the language-model head {name} was quantized, which log-probs are too sensitive for; "
                    f'add "{name}" to quantizer.skip_modules'
                )
        _require_most_quantized(self, model, layers)
        model.requires_grad_(False)
        return list(layers.values())


class Bnb4bit(_BitsAndBytes):
    """QLoRA's block-wise 4-bit weights (Dettmers et al. 2023, arXiv 2305.14314)."""

    name = "bnb-4bit"

    class Options(_BitsAndBytes.Options):  # noqa: D106
        quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit NormalFloat, or 4-bit float.")
        double_quant: bool = Field(
            True, description="Quantize the scales too: saves 0.4 bits a weight, costs nothing measurable."
        )
        compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
            "auto", description='What products are computed in; "auto" follows training.precision.'
        )

    options: Options

    def loading_config(self) -> Any:  # noqa: D102
        from transformers import BitsAndBytesConfig

        compute = self.options.compute_dtype
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.options.quant_type,
            bnb_4bit_use_double_quant=self.options.double_quant,
            bnb_4bit_compute_dtype=None if compute == "auto" else compute,
            llm_int8_skip_modules=self._skipped,
        )

    def bits(self, model: PreTrainedModel) -> dict[str, float]:
        """Return 4, and the scales of blocks of 64: 32 bits each, or 8 and 32 for every 256 of them."""
        return self._bits(model, 4 + (8 / 64 + 32 / (64 * 256) if self.options.double_quant else 32 / 64))

    def prepare(self, model: PreTrainedModel) -> None:  # noqa: D102
        from bitsandbytes.nn import Linear4bit

        for layer in self._freeze(model, Linear4bit):
            # On CPUs with AVX512-BF16 a forward in eval() without gradients would repack the weights for
            # inference, for good, and no gradient would pass them any more. This flag is what it asks first.
            layer.support_avx512bf16_for_cpu = False
            if self.options.compute_dtype == "auto":
                layer.register_forward_pre_hook(_follow_precision)
            else:
                layer.forward = _outside_autocast(layer.forward)


class Bnb8bit(_BitsAndBytes):
    """LLM.int8's row-wise 8-bit weights (Dettmers et al. 2022, arXiv 2208.07339)."""

    name = "bnb-8bit"

    class Options(_BitsAndBytes.Options):  # noqa: D106
        threshold: float = Field(
            6.0,
            ge=0,
            description="Activations beyond it are multiplied in 16 bits instead of 8; 0 does so with none. On CUDA "
            "they are looked for over the whole micro-batch, so which pairs share one shows in the numbers, as "
            "small as the quantization is. A CPU in training multiplies all in full precision.",
        )

    options: Options

    def loading_config(self) -> Any:  # noqa: D102
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=self.options.threshold,
            llm_int8_skip_modules=self._skipped,
        )

    def bits(self, model: PreTrainedModel) -> dict[str, float]:
        """Return 8, and a scale of 32 bits for every row."""
        return self._bits(model, 8, 32)

    def prepare(self, model: PreTrainedModel) -> None:  # noqa: D102
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


def _outside_autocast(
    forward: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compute in the configured dtype with gradients as without; autocast would have its own way with them."""
    import torch

    @functools.wraps(forward)
    def computed(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden)

    return computed


def _not_about_casting(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in record.getMessage()


def _require_most_quantized(quantizer: _BitsAndBytes, model: PreTrainedModel, layers: dict[str, Any]) -> None:
    """Raise if most weights were left as they are.

    bitsandbytes knows linear layers only, and the experts of many mixtures are held in one tensor a layer.
    """
    ends = {id(part) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    exempt = [name for name, module in model.named_modules() if id(module) in ends]
    arrived_with_adapter = hasattr(model, "peft_config")
    left = {
        name: weight.numel()
        for name, weight in model.named_parameters()
        if weight.ndim > 1
        and not (arrived_with_adapter and weight.requires_grad)
        and name.rpartition(".")[0] not in layers
        and not any(name.startswith(f"{end}.") for end in exempt)
        and not any(part in name for part in quantizer.options.skip_modules)
    }
    quantized = sum(layer.in_features * layer.out_features for layer in layers.values())
    if sum(left.values()) > quantized:
        largest = max(left, key=lambda name: left[name])
        share = quantized / (quantized + sum(left.values()))
        raise RunError(
            f'quantizer "{quantizer.name}" quantized only {share:.0%} of the weights: bitsandbytes quantizes '
            f"linear layers, and {largest} is none. If the rest fits into memory as it is, say so with "
            f'quantizer.skip_modules = ["{largest.split(".")[-2]}"]'
        )


@hookimpl
def dpotrain_quantizers() -> list[type[Quantizer]]:
    """Offer both."""
    return [Bnb4bit, Bnb8bit]
