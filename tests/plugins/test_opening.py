"""Models whose weights stay in their files: once read they are what ``load_model`` returns, to the bit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpotrain.core.errors import RunError
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.demo.loader import DemoLoader
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.support import tiny_checkpoint


def loader(folder, **options) -> TransformersLoader:
    return TransformersLoader(TransformersLoader.Options(name=str(folder), **options))


def read(opened):
    """Return the model of an OpenedModel with every weight read, in pieces of three rows."""
    model = opened.model
    assert all(weight.is_meta for weight in model.parameters())
    names = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if name in opened.weights:
            names.setdefault(weight, name)
    for weight, name in names.items():
        whole, rows = opened.weights[name], weight.shape[0]
        pieces = (
            [whole[start : start + 3] for start in range(0, rows, 3)] if weight.ndim > 1 else [whole[...]]
        )
        filled = torch.nn.Parameter(torch.cat(pieces).to(weight.dtype), requires_grad=weight.requires_grad)
        assert filled.shape == weight.shape
        torch.utils.swap_tensors(weight, filled)
    return model


def check_same(found, expected):
    for kind in ("named_parameters", "named_buffers"):
        here, there = (dict(getattr(model, kind)(remove_duplicate=False)) for model in (found, expected))
        assert list(here) == list(there)
        for name, tensor in there.items():
            assert (here[name].dtype, here[name].requires_grad) == (tensor.dtype, tensor.requires_grad), name
            assert here[name].device == tensor.device, name
            assert here[name].equal(tensor), name
    assert [module.training for module in found.modules()] == [
        module.training for module in expected.modules()
    ]
    assert found.config.to_dict() == expected.config.to_dict()
    assert found.generation_config.to_dict() == expected.generation_config.to_dict()
    tied = [
        id(model.get_input_embeddings().weight) == id(model.get_output_embeddings().weight)
        for model in (found, expected)
    ]
    assert tied[0] == tied[1]
    tokens = torch.arange(4, 24).view(1, -1)
    with torch.no_grad():
        assert found(tokens).logits.equal(expected(tokens).logits)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "phi3"])
def test_what_is_read_is_what_is_loaded(kind, dtype, tmp_path):
    mine = loader(tiny_checkpoint(tmp_path, kind), dtype=dtype)
    torch.manual_seed(3)
    opened = mine.open_model(LoadRequest())
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert drawn == torch.rand(())  # an adapter is initialized next
    check_same(read(opened), mine.load_model(LoadRequest()))


@pytest.mark.soak
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "kind",
    ["qwen2", "qwen3", "mistral", "gemma2", "gpt_neox", "cohere", "granite", "bloom", "mamba2", "jamba"],
)
def test_it_is_for_other_architectures(kind, tied, tmp_path):
    for dtype in ("auto", "bfloat16"):
        mine = loader(tiny_checkpoint(tmp_path / dtype, kind, tie_word_embeddings=tied), dtype=dtype)
        opened = mine.open_model(LoadRequest())
        if opened is not None:
            check_same(read(opened), mine.load_model(LoadRequest()))
        assert opened is not None or kind == "jamba"


def test_weights_in_several_files_and_in_other_dtypes_than_the_config_s_are_found(tmp_path):
    tiny_checkpoint(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(whole)
    files = {name: f"part-{number % 3}.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        own = {name: whole[name].bfloat16() for name in names if files[name] == file}
        save_file(own, tmp_path / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    mine = loader(tmp_path)
    opened = mine.open_model(LoadRequest())
    check_same(read(opened), mine.load_model(LoadRequest()))


def test_names_without_the_prefix_of_the_model_are_found(tmp_path):
    """As the files of the first GPT-2 have them."""
    tiny_checkpoint(tmp_path, "gpt2")
    file = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    mine = loader(tmp_path)
    assert "transformer.wte.weight" in mine.open_model(LoadRequest()).weights
    check_same(read(mine.open_model(LoadRequest())), mine.load_model(LoadRequest()))


def test_a_tied_weight_may_be_saved_under_its_other_name(tmp_path):
    tiny_checkpoint(tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    mine = loader(tmp_path)
    check_same(read(mine.open_model(LoadRequest())), mine.load_model(LoadRequest()))


def test_the_demo_model_can_be_opened():
    mine = DemoLoader(DemoLoader.Options())
    check_same(read(mine.open_model(LoadRequest())), mine.load_model(LoadRequest()))


def test_weights_that_loading_makes_are_not_promised(tmp_path):
    assert loader(tiny_checkpoint(tmp_path / "experts", "mixtral")).open_model(LoadRequest()) is None
    base = tiny_checkpoint(tmp_path / "base")
    quantized = LoadRequest(quantization=Bnb4bit(Bnb4bit.Options()).loading_config())
    assert loader(base).open_model(quantized) is None
    wrapped = Lora(Lora.Options(rank=4)).attach(loader(base).load_model(LoadRequest()))
    wrapped.save_pretrained(tmp_path / "adapter")
    assert loader(tmp_path / "adapter").open_model(LoadRequest()) is None
    # Both names of a tied weight: loading compares the two.
    tiny_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    file = tmp_path / "tied" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert loader(tmp_path / "tied").open_model(LoadRequest()) is None


def test_files_that_cannot_be_loaded_cannot_be_opened(tmp_path):
    tiny_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    removed = tensors.pop("model.norm.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match="lacks 1 of the weights"):
        loader(tmp_path).open_model(LoadRequest())
    save_file({**tensors, "model.norm.weight": removed[:5]}, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match="have another shape"):
        loader(tmp_path).open_model(LoadRequest())
