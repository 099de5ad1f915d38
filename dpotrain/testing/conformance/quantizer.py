"""The suite for quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dpotrain.core.errors import RunError
from dpotrain.plugin.api import LoadRequest, ModelLoader
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.testing.conformance.adapter import load, logits
from dpotrain.testing.conformance.component import ComponentConformance

if TYPE_CHECKING:
    import torch


class QuantizerConformance(ComponentConformance):
    """A quantizer makes weights smaller and still lets gradients through."""

    def recipe(self, table: Mapping[str, Any]) -> str:
        """Return a recipe that also trains an adapter, where the quantized weights cannot be trained."""
        text = super().recipe(table)
        if self.component.trains_all_weights:
            return text
        return f'{text}\n[adapter]\nuse = "lora"\nrank = 2'

    def quantized(self, part: Any, folder: Path) -> Any:
        """Return the tiny model as the engine loads it with this quantizer."""
        loader: Any = PluginManager.from_entry_points().find(ModelLoader, "transformers")
        made = loader(loader.Options(name=str(folder), dtype="float32"))
        model = made.load_model(LoadRequest(quantization=part.loading_config()))
        part.prepare(model)
        return model

    def test_the_model_is_smaller_and_nearly_the_same(self, part: Any, dpotrain_model: Path) -> None:
        """It takes fewer bytes, and its logits point where those of the model do."""
        import torch

        model, plain = self.quantized(part, dpotrain_model), load(dpotrain_model)
        assert _bytes(model) < _bytes(plain)
        close = torch.nn.functional.cosine_similarity(logits(model), logits(plain), dim=-1)
        assert close.mean() > 0.5

    def test_it_is_the_same_every_time(self, part: Any, dpotrain_model: Path) -> None:
        """Resumed runs and other processes quantize anew."""
        first, second = (self.quantized(part, dpotrain_model) for _ in range(2))
        assert logits(first).equal(logits(second))

    def test_what_cannot_be_trained_is_frozen(self, part: Any, dpotrain_model: Path) -> None:
        """An adapter beside the weights is all that moves, unless the weights themselves are trained."""
        model = self.quantized(part, dpotrain_model)
        trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
        assert bool(trained) is self.component.trains_all_weights
        assert model.training, "eval() lets some quantized layers forget their gradients"

    def test_gradients_pass_through_it_before_and_after_a_look_without_them(
        self, part: Any, dpotrain_model: Path
    ) -> None:
        """What lies before the quantized layers is trained by what lies after them."""
        import torch

        model = self.quantized(part, dpotrain_model)
        for _ in range(2):
            embedded = model.get_input_embeddings()(torch.arange(4, 24)[None]).detach().requires_grad_()
            model(inputs_embeds=embedded).logits.float().square().sum().backward()
            assert embedded.grad is not None, "no gradient passes the quantized layers"
            assert embedded.grad.isfinite().all()
            assert embedded.grad.any()
            logits(model)

    def test_a_model_with_nothing_to_quantize_is_refused(self, part: Any) -> None:
        """A run that was to be quantized and is not would run out of memory much later, or not at all."""
        with pytest.raises(RunError) as caught:
            part.prepare(_bare())
        assert self.component.name in str(caught.value)

    def test_the_bits_that_it_foretells_belong_to_weights_of_the_model(
        self, part: Any, dpotrain_model: Path
    ) -> None:
        """``dpotrain plan`` counts with them."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(dpotrain_model))
        bits = part.bits(model)
        if bits is None:
            pytest.skip("it says that it cannot tell")
        weights = dict(model.named_parameters())
        assert bits
        assert bits.keys() <= weights.keys()
        assert all(0 < each < 32 for each in bits.values())


def _bytes(model: Any) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _bare() -> torch.nn.Module:
    """Return a module with an embedding and a norm, neither of which anybody quantizes."""
    import torch

    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.norm = torch.nn.Embedding(8, 4), torch.nn.LayerNorm(4)

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.embedding

        def get_output_embeddings(self) -> None:
            return None

    return Bare()
