"""The ``torchao-int8`` quantizer: row-wise 8-bit weights of torchao; needs the extra ``torchao``.

torchao rounds the weights. The products are computed here: torchao's own keep a dequantized copy of every weight for
the backward pass, which is more memory than was saved, and its tensors cannot be sent to other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dpotrain import hookimpl
from dpotrain.plugin.api import Quantizer, RecipeError, require
from dpotrain_plugins.quantizers.linear_quantizer import LinearQuantizer, skip_modules_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

dpotrain_interface = 2


class TorchAoInt8(LinearQuantizer):
    """Row-wise 8-bit weights, rounded by torchao; activations stay as they are.

    Which pairs share a micro-batch does not show in the numbers, as it does with `bnb-8bit` on CUDA. Needs the extra
    `torchao`.
    """

    name = "torchao-int8"
    library = "torchao"

    def check(self) -> None:
        require(self, "torchao", extra="torchao")
        from dpotrain.plugin.runtime.requirements import unmet

        if (wrong := unmet("torchao>=0.18")) is not None:
            raise RecipeError(f'the "{self.name}" quantizer needs a later torchao: {wrong}')

    def loading_config(self) -> Any:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        # Otherwise it changes how torch.compile tunes whatever else is compiled in this process.
        weights = Int8WeightOnlyConfig(set_inductor_config=False)
        return TorchAoConfig(weights, modules_to_not_convert=self._skipped)

    def contradictions(self, saved: Mapping[str, Any]) -> list[str]:
        if lines := super().contradictions(saved):
            return lines
        kind = saved.get("quant_type")
        # transformers writes {"default": {"_type": the configuration's class, "_data": its fields}}.
        kind = kind.get("default", kind) if isinstance(kind, Mapping) else {"_type": kind}
        group_size = kind.get("_data", {}).get("group_size")
        if kind.get("_type") != "Int8WeightOnlyConfig" or group_size is not None:
            group = "" if group_size is None else f" in groups of {group_size}"
            return [
                f'quantizer.use = "{self.name}", but the weights were saved with torchao\'s {kind.get("_type")}{group}'
            ]
        return self._differing({"skip_modules": skip_modules_of(saved.get("modules_to_not_convert"))})

    def bits(self, model: PreTrainedModel) -> dict[str, float]:
        """Return 8, and a scale of 32 bits for every row."""
        from torch import nn

        return self._layer_bits(model, (nn.Linear,), 8, 32)

    def prepare(self, model: PreTrainedModel) -> None:
        from dpotrain_plugins.quantizers.int8_linear import convert, dequantized

        self._freeze_around(model, convert(model))
        # transformers asks its quantizer, which has no answer for torchao's weights.
        model.hf_quantizer._dequantize = dequantized


@hookimpl
def dpotrain_quantizers() -> list[type[Quantizer]]:
    return [TorchAoInt8]
