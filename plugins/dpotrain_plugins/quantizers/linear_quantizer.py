"""What quantizers that replace linear layers have in common, whatever library rounds their weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dpotrain.plugin.api import Quantizer, RunError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

#: What transformers' models call the language-model head where it is a layer of its own.
_HEADS = ["lm_head", "embed_out"]


def skip_modules_of(saved: Iterable[str] | None) -> list[str]:
    """Return the ``skip_modules`` of a checkpoint from its list of modules; the head is skipped either way."""
    parts = (re.sub(r"\\(.)", r"\1", name.removeprefix(".*").removesuffix(".*")) for name in saved or ())
    return [part for part in parts if part not in _HEADS]


class LinearQuantizer(Quantizer):
    """Quantizes the linear layers, leaves the embedding and the head as they are, and freezes all of it."""

    library: ClassVar[str]
    """What rounds the weights, for messages."""

    class Options(Quantizer.Options):
        skip_modules: list[str] = Field(
            default_factory=list,
            description="Parts of the names of layers that are not quantized, besides the model's head.",
        )

    options: Options

    @property
    def _skipped(self) -> list[str] | None:
        """What transformers is told to skip; None lets it find the head and what is tied to it.

        It takes a bare name for the beginning or the end of one: "mlp" would skip nothing, and for torchao, which it
        asks about parameters, neither would "down_proj".
        """
        anywhere = [f".*{re.escape(part)}.*" for part in self.options.skip_modules]
        return [*anywhere, *_HEADS] if anywhere else None

    def _differing(self, saved: Mapping[str, Any]) -> list[str]:
        """Return a line for each key of the table whose value is another one in ``saved``, values by key."""
        own = {key: getattr(self.options, key) for key in saved}
        return [
            f"quantizer.{key} = {json.dumps(own[key])}, but the weights were saved with {json.dumps(value)}"
            for key, value in saved.items()
            if (set(own[key]) != set(value) if isinstance(value, list) else own[key] != value)
        ]

    def _layer_bits(
        self, model: PreTrainedModel, kinds: tuple[type[Any], ...], linear: float, row: float = 0.0
    ) -> dict[str, float]:
        """Return the bits of the weight of each layer of these kinds: so many a number, and so many more a row."""
        ends = {id(part) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
        return {
            f"{name}.weight": linear + row / layer.weight.shape[-1]
            for name, layer in model.named_modules()
            if isinstance(layer, kinds)
            and id(layer) not in ends
            and not any(part in name for part in self.options.skip_modules)
        }

    def _freeze_around(self, model: PreTrainedModel, layers: Mapping[str, nn.Linear]) -> None:
        """Freeze the model, or raise if ``layers``, the quantized ones by name, are not what was asked for."""
        if not layers:
            raise RunError(
                f'quantizer "{self.name}" quantized nothing: {type(model).__name__} has no linear layer that '
                f"{self.library} could replace. Leave out [quantizer], or check skip_modules"
            )
        head = model.get_output_embeddings()
        for name, layer in layers.items():
            if layer is head:
                raise RunError(
                    f"the language-model head {name} was quantized, which log-probs are too sensitive for; "
                    f'add "{name}" to quantizer.skip_modules'
                )
        self._require_most_quantized(model, layers)
        model.requires_grad_(False)

    def _require_most_quantized(self, model: PreTrainedModel, layers: Mapping[str, nn.Linear]) -> None:
        """Raise if most weights were left as they are.

        Only linear layers are quantized, and the experts of many mixtures are held in one tensor a layer.
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
            and not any(part in name for part in self.options.skip_modules)
        }
        quantized = sum(layer.in_features * layer.out_features for layer in layers.values())
        if sum(left.values()) > quantized:
            largest = max(left, key=lambda name: left[name])
            share = quantized / (quantized + sum(left.values()))
            raise RunError(
                f'quantizer "{self.name}" quantized only {share:.0%} of the weights: {self.library} quantizes '
                f"linear layers, and {largest} is none. If the rest fits into memory as it is, say so with "
                f'quantizer.skip_modules = ["{largest.split(".")[-2]}"]'
            )
