"""A whole model's files that say something else than what would be loaded from them."""

import shutil
from pathlib import Path

import pytest
import torch

from dpotrain.core.errors import RunError
from tests.plugins.model_files import MERGED, change, loader, raised, rewrite, warned
from tests.run.recipes import project, run
from tests.support import dpotrain, tiny_checkpoint, tiny_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def model(base, tmp_path):
    return Path(shutil.copytree(base, tmp_path / "model"))


def test_weights_of_a_layer_that_the_config_leaves_out_are_an_error(model):
    change(
        model / "model.safetensors",
        lambda weights: weights.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
    )
    with pytest.raises(
        RunError, match=r"layers would be without \(model\.layers\.0\.self_attn\.q_proj\.bias\)"
    ):
        loader(model).load_model(MERGED)


def test_other_weights_that_nothing_uses_are_told_of(model, base):
    rewrite(model / "config.json", num_hidden_layers=1)
    (text,) = warned(loader(model).load_model)
    assert f"9 of the weights in {model} are used by nothing in a LlamaForCausalLM (model.layers.1." in text
    change(
        Path(model / "model.safetensors"),
        lambda weights: [weights.pop(name) for name in list(weights) if "layers.1." in name],
    )
    assert warned(loader(model).load_model) == []
    assert warned(loader(base).load_model) == []


def test_old_checkpoints_frequencies_are_no_weights(model):
    change(
        model / "model.safetensors",
        lambda weights: weights.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    )
    assert warned(loader(model).load_model) == []


def test_weights_of_another_shape_are_named_with_both(model):
    rewrite(model / "config.json", vocab_size=400)
    with pytest.raises(RunError, match=r"lm_head\.weight is \[384, 32\], and config\.json means \[400, 32\]"):
        loader(model).load_model(MERGED)


def test_weights_that_are_not_finite_are_named_before_they_are_taken_for_a_step_that_diverged(model):
    change(
        model / "model.safetensors",
        lambda weights: weights["model.layers.1.mlp.up_proj.weight"][0].fill_(float("inf")),
    )
    with pytest.raises(
        RunError, match=r"1 of the weights .* not finite \(model\.layers\.1\.mlp\.up_proj\.weight\)"
    ):
        loader(model).load_model(MERGED)


def test_a_file_that_is_cut_off_is_named(model):
    (file,) = model.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is damaged" in raised(model)


def test_check_plan_and_run_refuse_tokens_that_the_embedding_has_no_row_for(tmp_path):
    recipe = project(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["fox"])
    tokenizer.save_pretrained(tmp_path / "model")
    said = "the data has token 384, but the policy has an embedding of 384 tokens"
    for command in ("check", "plan"):
        result = dpotrain(command, str(recipe))
        assert result.exit_code == 1
        assert said in result.output
    with pytest.raises(RunError, match=said):
        run(recipe, into=tmp_path / "run")
