"""Folders of models, tokenizers and adapters that were made by somebody else."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dpotrain.core.errors import DpotrainError, RecipeError, RunError
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.security.hostile import Marker, promising, safetensors
from tests.support import tiny_checkpoint, tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


@pytest.fixture
def marker(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return Marker(tmp_path)


def loader(folder, **options):
    return TransformersLoader(TransformersLoader.Options(name=str(folder), **options))


def rewrite(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def load(folder, **options):
    """Go through all that a run does with a folder."""
    chosen = loader(folder, **options)
    chosen.check()
    return chosen.load_tokenizer(), chosen.load_model(LoadRequest())


def refused(folder):
    """Return what loading is refused with, by whichever step comes to it first."""
    with pytest.raises(DpotrainError) as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) <= 4
    return str(caught.value)


def test_a_pickle_is_not_read(model, marker):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(marker.pickle)
    assert "only as pickles" in refused(model)
    assert not marker.there


def test_a_pickle_beside_safetensors_is_not_read(model, marker):
    for name in ("pytorch_model.bin", "training_args.bin", "adapter_model.bin", "optimizer.pt"):
        (model / name).write_bytes(marker.pickle)
    loader(model).load_model(LoadRequest())
    assert not marker.there


@pytest.mark.parametrize(
    "shard", ["weights.bin", "weights.pt", "../weights.safetensors", "/weights.safetensors"]
)
def test_an_index_cannot_smuggle_in_a_pickle(model, marker, shard):
    """transformers would read such a shard with torch.load."""
    names = list(load_file(model / "model.safetensors"))
    (model / "weights.bin").write_bytes(marker.pickle)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, shard)})
    )
    assert "Only safetensors files beside it are read" in refused(model)
    assert not marker.there


@pytest.mark.parametrize("weights", [None, [], "x", {"a": 1}, {"a": ["b"]}])
def test_an_index_that_is_none_is_named(model, weights):
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert "does not say which weights are in which file" in refused(model)


def test_an_adapter_in_a_pickle_is_not_read(model, marker, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(model), "peft_type": "LORA"})
    )
    (adapter / "adapter_model.bin").write_bytes(marker.pickle)
    assert "only as pickles (adapter_model.bin)" in refused(adapter)
    assert not marker.there


@pytest.mark.parametrize("base", [7, ["x"], {"a": 1}, "a\0b", ""])
def test_an_adapter_of_no_model_is_named(tmp_path, base):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    with pytest.raises(RecipeError, match="names no base_model_name_or_path"):
        loader(tmp_path).check()


def test_a_tokenizers_code_runs_only_where_the_recipe_says_so(model, marker):
    (model / "homemade.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        f"{marker.code}class Homemade(PreTrainedTokenizerFast):\n    pass\n"
    )
    rewrite(
        model / "tokenizer_config.json",
        tokenizer_class="Homemade",
        auto_map={"AutoTokenizer": [None, "homemade.Homemade"]},
    )
    with suppress(RunError):  # transformers may do without
        loader(model).load_tokenizer()
    assert not marker.there
    loader(model, trust_remote_code=True).load_tokenizer()
    assert marker.there


def test_code_for_generating_is_not_run(model, marker):
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(
        marker.code + "def generate(*args, **kwargs):\n    pass\n"
    )
    load(model)
    assert not marker.there


@pytest.mark.parametrize(
    "header",
    [promising(w=("F32", [2**58], 2**60)), promising(w=("F32", [8], 8)), {"w": 1}],
    ids=["promises 2^60 bytes", "too few bytes", "no header"],
)
def test_weights_that_are_not_there_are_refused(model, header):
    safetensors(model / "model.safetensors", header, 64)
    assert "is damaged" in refused(model)


def test_weights_of_other_shapes_are_refused(model):
    tiny_model("llama", hidden_size=64).save_pretrained(model / "other")
    shutil.copy(model / "other" / "model.safetensors", model / "model.safetensors")
    refused(model)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 2**40},
        {"num_attention_heads": 0},
        {"num_attention_heads": "many"},
        {"vocab_size": -1},
        {"hidden_act": "__import__"},
        {"rope_parameters": {"rope_type": "nobody's"}},
        {"model_type": "../../x"},
        {"architectures": ["os.system"], "model_type": None},
        {"dtype": "os.system"},
        {"pad_token_id": 2**70},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_config_that_is_none_is_refused_in_a_few_lines(model, values):
    rewrite(model / "config.json", **values)
    said = ""
    try:
        load(model)  # which makes some of these good
    except DpotrainError as error:
        said = str(error)
    assert len(said.splitlines()) <= 4
