"""An adapter's files that say something else than what would be loaded from them."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, VeraConfig, get_peft_model

from dpotrain.core.errors import RecipeError, RunError
from tests.plugins.model_files import KEPT, MERGED, change, loader, raised, rewrite, warned
from tests.run.recipes import Recording, project, run
from tests.support import dpotrain, tiny_checkpoint, tiny_model, tiny_tokenizer

IDS = torch.arange(4, 24)[None]


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def saved(base):
    """An adapter on two kinds of modules, and one module trained in full."""
    config = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"]
    )
    return save_adapter(base, base.parent / "adapter", config)


def save_adapter(base, folder, config, kind="llama", **model):
    """Save an adapter with random numbers in all that it trains."""
    torch.manual_seed(0)
    wrapped = get_peft_model(tiny_model(kind, **model), config)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) / 10)
    wrapped.save_pretrained(folder)
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(base))
    return folder


@pytest.fixture
def adapter(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def test_a_key_that_this_peft_does_not_know_is_named_and_an_empty_one_is_not(adapter):
    unknown = {"use_rotation": True, "spread": {"by": 2}, "other": None, "off": False, "none": {"by": 0}}
    rewrite(adapter / "adapter_config.json", **unknown)
    for load in (loader(adapter).load_model, loader(adapter).blueprint):
        for request in (KEPT, MERGED):
            (text,) = warned(load, request)
            assert (
                f"ignores spread = {{'by': 2}}, use_rotation = True of {adapter}/adapter_config.json" in text
            )
            assert "pip install -U peft" in text
            assert "other" not in text


def test_check_plan_and_run_show_it_to_the_person(adapter, tmp_path):
    rewrite(adapter / "adapter_config.json", use_rotation=True)
    (tmp_path / "project").mkdir()
    recipe = project(tmp_path / "project")
    overrides = [f"model.name={str(adapter)!r}", 'adapter.use="lora"', "training.steps=1"]
    words = [word for each in overrides for word in ("--set", each)]
    for command in ("check", "plan"):
        shown = dpotrain(command, str(recipe), *words)
        assert shown.exit_code == 0, shown.output
        assert shown.output.count("use_rotation") == 1
    reporter = Recording()
    run(recipe, *overrides, into=tmp_path / "run", reporter=reporter)
    assert [text for text in reporter.warnings if "use_rotation" in text]


def test_an_adapter_of_a_type_that_this_peft_does_not_know_is_named(adapter):
    rewrite(adapter / "adapter_config.json", peft_type="ROTATION")
    assert "knows no adapter of type 'ROTATION'" in raised(adapter)


def test_tensors_of_modules_that_the_config_does_not_list_are_not_left_out(adapter):
    rewrite(adapter / "adapter_config.json", target_modules=["q_proj"])
    text = raised(adapter)
    assert f"4 of the 9 tensors in {adapter}/adapter_model.safetensors belong to no module" in text
    assert "layers.0.mlp.down_proj.lora_A.weight" in text
    assert "target_modules" in text


@pytest.mark.parametrize(
    ("old", "new"), [("q_proj", "query"), ("layers.1", "layers.7"), ("lora_A", "lora_C")]
)
def test_tensors_of_renamed_modules_or_other_layers_are_not_left_out(adapter, old, new):
    def rename(weights):
        for name in [name for name in weights if old in name]:
            weights[name.replace(old, new)] = weights.pop(name)

    change(adapter / "adapter_model.safetensors", rename)
    assert "belong to no module" in raised(adapter)


def test_a_module_trained_in_full_that_the_config_does_not_list_is_not_put_on_the_base_silently(adapter):
    """Its tensor has the name of the base's own weight, which peft would replace; the adapter saved in the end would
    lack it."""
    rewrite(adapter / "adapter_config.json", modules_to_save=None)
    with pytest.raises(RunError, match=r"changed weights of the base model itself .*lm_head\.weight"):
        loader(adapter).load_model(KEPT)


def test_embeddings_saved_beside_an_adapter_unchanged_are_no_change(base, tmp_path):
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens"])
    torch.manual_seed(0)
    wrapped = get_peft_model(tiny_model(), config)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    rewrite(tmp_path / "adapter/adapter_config.json", base_model_name_or_path=str(base))
    assert isinstance(loader(tmp_path / "adapter").load_model(KEPT), PeftModel)


def test_tensors_that_are_missing_are_named(adapter):
    change(adapter / "adapter_model.safetensors", lambda weights: weights.pop(sorted(weights)[-1]))
    text = raised(adapter)
    assert "lacks 1 tensors" in text
    assert "layers.1.self_attn.q_proj.lora_B.weight" in text


def test_numbers_that_are_not_finite_are_named(adapter):
    change(
        adapter / "adapter_model.safetensors", lambda weights: weights[sorted(weights)[1]].fill_(float("nan"))
    )
    assert "numbers that are not finite" in raised(adapter)


def test_another_rank_than_the_config_says_is_told_with_both_shapes(adapter):
    rewrite(adapter / "adapter_config.json", r=3)
    text = raised(adapter)
    assert "have another shape" in text
    assert "and the base needs [3, " in text


GROWN = {
    "in full": LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    ),
    "low rank": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "the head": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"]),
}


@pytest.mark.parametrize("trained", GROWN)
def test_an_adapter_with_more_tokens_than_its_base_gets_the_command_that_joins_them(base, tmp_path, trained):
    tokenizer, model = tiny_tokenizer(), tiny_model()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|plan|>", "<|act|>"]})
    model.resize_token_embeddings(len(tokenizer))
    folder = tmp_path / "sft"
    wrapped = get_peft_model(model, GROWN[trained])
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(base))
    text = raised(folder)
    assert f"trained with an embedding of 386 tokens, and its base model {base} has 384" in text
    assert f"name the result ({folder}-merged) in model.name" in text
    exec(text.split('python -c "')[1].removesuffix('"'))
    assert torch.allclose(
        logits(loader(f"{folder}-merged").load_model(MERGED))[..., :384],
        logits(wrapped)[..., :384],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", LoraConfig(task_type="CAUSAL_LM", use_dora=True)),
        ("llama", LoraConfig(task_type="CAUSAL_LM", rank_pattern={"q_proj": 3})),
        ("llama", LoraConfig(task_type="CAUSAL_LM", trainable_token_indices=[1, 2])),
        ("llama", LoraConfig(task_type="CAUSAL_LM", init_lora_weights="pissa")),
        ("llama", LoraConfig(target_modules="all-linear", layers_to_transform=None)),
        ("llama", IA3Config(task_type="CAUSAL_LM")),
        ("llama", VeraConfig(task_type="CAUSAL_LM")),
        ("gpt2", LoraConfig(task_type="CAUSAL_LM", trainable_token_indices=[1, 2])),
        ("gpt2", LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn", "wte", "lm_head"])),
        ("qwen3_moe", LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")),
        ("mixtral", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "w1", "w2", "w3"])),
    ],
    ids=lambda value: value if isinstance(value, str) else value.peft_type.value,
)
def test_what_peft_saves_is_loaded_whole_kept_and_merged(tmp_path, kind, config):
    base = tiny_checkpoint(tmp_path / "base", kind)
    folder = save_adapter(base, tmp_path / "adapter", config, kind)
    expected = logits(PeftModel.from_pretrained(tiny_model(kind), folder))
    for request in (KEPT, MERGED):
        loaded = loader(folder)
        assert warned(loaded.blueprint, request) == []
        torch.testing.assert_close(logits(loaded.load_model(request)), expected, atol=1e-4, rtol=1e-4)


def test_a_folder_with_an_adapter_and_a_whole_model_is_ambiguous(adapter, base):
    shutil.copy(base / "model.safetensors", adapter)
    shutil.copy(base / "config.json", adapter)
    for act in (loader(adapter).check, lambda: loader(adapter).load_model(KEPT)):
        with pytest.raises(RecipeError, match="holds both an adapter and a whole model"):
            act()


def test_an_adapter_on_itself_is_refused(adapter):
    rewrite(adapter / "adapter_config.json", base_model_name_or_path=str(adapter))
    with pytest.raises(RecipeError, match="names its own folder as base_model_name_or_path"):
        loader(adapter).check()


def test_a_folder_of_the_bases_name_that_holds_no_model_is_not_the_base(adapter, base, tmp_path, monkeypatch):
    (tmp_path / "elsewhere/model").mkdir(parents=True)
    shutil.copytree(base, tmp_path / "model")
    rewrite(adapter / "adapter_config.json", base_model_name_or_path="model")
    monkeypatch.chdir(tmp_path / "elsewhere")
    loader(adapter).check()


def test_a_file_that_is_cut_off_is_named(adapter):
    (file,) = adapter.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is damaged" in raised(adapter)
