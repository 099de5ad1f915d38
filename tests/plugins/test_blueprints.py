"""Models without weights: what loaders and quantizers tell ``dpotrain plan``, against what they load."""

import pytest
import torch

from dpotrain.engine.memory.model_size import count
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit, Bnb8bit
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.support import tiny_checkpoint


def shapes(model) -> dict:
    return {name: (tuple(each.shape), each.dtype) for name, each in model.named_parameters()}


def loader(folder, **options) -> TransformersLoader:
    return TransformersLoader(TransformersLoader.Options(name=str(folder), **options))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "mixtral"])
def test_a_blueprint_has_the_shapes_and_dtypes_of_the_model(kind, dtype, tmp_path):
    mine = loader(tiny_checkpoint(tmp_path, kind), dtype=dtype)
    blueprint = mine.blueprint(LoadRequest())
    assert all(weight.is_meta for weight in blueprint.parameters())
    assert shapes(blueprint) == shapes(mine.load_model(LoadRequest()))
    assert blueprint.training


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_adapters_attach_to_it_as_to_the_model(options, tmp_path):
    mine = loader(tiny_checkpoint(tmp_path))
    adapter = Lora(Lora.Options(rank=4, **options))
    real = adapter.attach(mine.load_model(LoadRequest()))
    with torch.device("meta"):
        blueprint = adapter.attach(mine.blueprint(LoadRequest()))
    assert shapes(blueprint) == shapes(real)
    assert count(blueprint).trained == count(real).trained


def test_an_adapter_that_the_source_is_comes_along(tmp_path):
    base = tiny_checkpoint(tmp_path / "base")
    wrapped = Lora(Lora.Options(rank=4)).attach(loader(base).load_model(LoadRequest()))
    wrapped.save_pretrained(tmp_path / "adapter")
    mine = loader(tmp_path / "adapter")
    kept = LoadRequest(keep_adapter=True)
    assert shapes(mine.blueprint(kept)) == shapes(mine.load_model(kept))
    assert shapes(mine.blueprint(LoadRequest())) == shapes(mine.load_model(LoadRequest()))


@pytest.mark.parametrize(
    "quantizer",
    [
        Bnb4bit(Bnb4bit.Options()),
        Bnb4bit(Bnb4bit.Options(double_quant=False, skip_modules=["down_proj"])),
        Bnb8bit(Bnb8bit.Options()),
    ],
    ids=["4 bit", "4 bit, some", "8 bit"],
)
def test_the_bits_are_those_of_the_quantized_model(quantizer, tmp_path):
    mine = loader(tiny_checkpoint(tmp_path, hidden_size=256, intermediate_size=512))
    blueprint = mine.blueprint(LoadRequest())
    bits = quantizer.bits(blueprint)
    real = mine.load_model(LoadRequest(quantization=quantizer.loading_config()))
    quantizer.prepare(real)
    quantized = {name: weight for name, weight in real.named_parameters() if weight.dtype.itemsize == 1}
    assert bits.keys() == quantized.keys()
    for name, weight in quantized.items():
        state = getattr(weight, "quant_state", None)
        held = weight.nbytes
        if state is not None:
            held += state.absmax.nbytes
            # The code book of the scales' scales, 1 kB, is next to nothing in a real layer.
            held += state.state2.absmax.nbytes if state.nested else 0
        else:
            held += 4 * weight.shape[0]
        assert bits[name] * blueprint.get_parameter(name).numel() / 8 == pytest.approx(held, rel=0.01)
