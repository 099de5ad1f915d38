"""Quantizers: weights loaded in fewer bits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.returns import by_name, is_number, is_texts, optional, returns

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Quantizer(Component):
    """Loads the weights in fewer bits; selected by ``[quantizer]``."""

    kind = "quantizer"

    trains_all_weights: ClassVar[bool] = False
    """Whether the quantized weights themselves can be trained. Where not, a recipe needs an ``[adapter]`` that trains
    others beside them."""

    shardable: ClassVar[bool] = False
    """Whether processes can shard the quantized weights (``parallel.shard``): each layer computes with
    parameters of two dimensions or more, which are cut by rows and gathered byte by byte, and keeps only what is small
    beside them. A gathered parameter has the class and the attributes that the loaded one had."""

    @abstractmethod
    def loading_config(self) -> Any:
        """Return what the model loader passes on to loading (for transformers, a quantization config)."""

    @abstractmethod
    def prepare(self, model: PreTrainedModel) -> None:
        """Make the loaded model trainable around its frozen weights, in place.

        Raise a RunError if nothing was quantized after all.
        """

    @returns("a list of texts", is_texts)
    def contradictions(self, saved: Mapping[str, Any]) -> list[str]:
        """Return where weights that were saved quantized are not what this table asks for, a line for each key.

        Weights are loaded as they were saved, whatever :meth:`loading_config` returns. ``saved`` is the
        ``quantization_config`` of the checkpoint's ``config.json``. Only the method is compared here; a quantizer with
        options compares them, too.
        """
        wanted, has = getattr(self.loading_config(), "quant_method", None), saved.get("quant_method")
        if wanted in (None, has):
            return []
        return [
            f'quantizer.use = "{self.name}", but the weights were saved with {has or "an unknown method"}'
        ]

    @returns("bits by the name of a parameter, or None", optional(by_name(is_number)))
    def bits(self, model: PreTrainedModel) -> Mapping[str, float] | None:
        """Return the bits that a weight takes, scales included, by the name of each parameter that is quantized.

        ``model`` is on the meta device (see :meth:`ModelLoader.blueprint`) and is not changed; None (as here) says
        that the quantizer cannot tell.
        """
        return None


@hookspec
def dpotrain_quantizers() -> Iterable[type[Quantizer]]:  # type: ignore[empty-body]
    """Offer quantizers, which load the weights in fewer bits.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch, transformers or the quantization library at the top of its module.

    Result: classes. ``[quantizer] use`` picks one by ``name``. A recipe without ``[adapter]`` is refused
    unless the quantizer says ``trains_all_weights = True``.

    Example:
        from typing import Literal

        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Quantizer, RunError


        class Quanto(Quantizer):
            name = "quanto"

            class Options(Quantizer.Options):
                weights: Literal["int8", "int4"] = Field("int8", description="What weights become.")

            def loading_config(self):
                from transformers import QuantoConfig

                return QuantoConfig(weights=self.options.weights)

            def prepare(self, model):
                if not any("Q" in type(module).__name__ for module in model.modules()):
                    raise RunError("quanto quantized no layer of this model")
                model.requires_grad_(False)


        @hookimpl
        def dpotrain_quantizers():
            return [Quanto]
    """
