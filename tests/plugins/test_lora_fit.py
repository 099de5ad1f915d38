"""Where LoRA's options and a model do not fit: the key that is named, and what would stay untrained."""

import re
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from dpotrain.core.errors import RunError, RunWarning
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.run.recipes import Recording, project, run
from tests.support import dpotrain, tiny_model, tiny_tokenizer

IDS = torch.arange(4, 24)[None]
#: What LoRA of rank 4 has on the text's linear layers of the model that also takes pictures, and on its tower.
TEXT, TOWER = 4096, 2816


def lora(**options):
    return Lora(Lora.Options(**({"rank": 4} | options)))


def attach(model, **options):
    """The policy with its adapter, and the warnings that a person sees."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        policy = lora(**options).attach(model)
    return policy, [str(each.message) for each in caught if each.category is RunWarning]


def trained(policy):
    return {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}


def count(policy):
    return sum(weight.numel() for weight in trained(policy).values())


def seeing():
    """A causal language model with a tower for pictures, whose linear layers have the names of the text's."""
    from transformers import Gemma3Config

    text = {
        "vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
        "sliding_window": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=380
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = project(tmp_path_factory.mktemp("seeing"), adapter=True)
    seeing().save_pretrained(path.parent / "model")
    tiny_tokenizer(path.parent / "model")
    return path


def test_all_linear_is_what_text_passes(recipe):
    policy, said = attach(seeing())
    assert said == []
    assert count(policy) == TEXT
    assert not any("vision" in name or "projector" in name or "lm_head" in name for name in trained(policy))
    policy(IDS, labels=IDS).loss.backward()
    assert all(weight.grad is not None for weight in trained(policy).values())


def test_plan_and_run_train_the_same_numbers_and_plain_peft_loads_them(recipe, tmp_path):
    outcome = run(recipe, "training.steps=2", into=tmp_path / "run")
    saved = load_file(outcome.final / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == TEXT
    assert f'"trained_parameters": {TEXT},' in dpotrain("plan", str(recipe), "--json").stdout
    base = AutoModelForCausalLM.from_pretrained(recipe.parent / "model")
    loaded = PeftModel.from_pretrained(base, outcome.final)
    tuned = {name for name, _ in loaded.named_parameters() if "lora_" in name}
    assert len(tuned) == len(saved)


@pytest.mark.parametrize(
    ("options", "idle"),
    [({"target_modules": ["q_proj"]}, 256), ({"modules_to_save": ["mlp"]}, 8384)],
    ids=str,
)
def test_what_is_named_on_the_tower_is_told_of(options, idle):
    policy, (text,) = attach(seeing(), **options)
    assert f"{idle:,} of {count(policy):,} trained parameters are in model.vision_tower" in text
    assert "text never passes" in text
    assert "adapter.target_modules" in text


def test_nothing_but_the_tower_is_refused():
    with pytest.raises(RunError, match=r"names only modules in model\.vision_tower, which text never passes"):
        attach(seeing(), target_modules=r".*vision_tower.*q_proj")


def test_an_adapter_that_arrives_on_the_tower_is_told_of(recipe, tmp_path):
    """It was trained with peft's own "all-linear", perhaps on pictures."""
    wrapped = get_peft_model(seeing(), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    assert count(wrapped) == TEXT + TOWER
    reporter = Recording()
    wrapped.base_model.model.name_or_path = str(recipe.parent / "model")
    wrapped.peft_config["default"].base_model_name_or_path = str(recipe.parent / "model")
    wrapped.save_pretrained(tmp_path / "sft")
    overrides = [f"model.name={str(tmp_path / 'sft')!r}", "training.steps=1"]
    run(recipe, *overrides, into=tmp_path / "run", reporter=reporter)
    (text,) = [text for text in reporter.warnings if "vision_tower" in text]
    assert f"{TOWER:,} of {TEXT + TOWER:,}" in text
    shown = dpotrain("plan", str(recipe), *[word for each in overrides for word in ("--set", each)])
    assert f"{TOWER:,} of {TEXT + TOWER:,}" in re.sub(r"\s+", " ", shown.output)


def test_the_head_of_a_model_inside_the_model_is_no_linear_layer_of_all_linear():
    """Older models for sound and pictures hold a whole language model, and have no head of their own."""
    model = seeing()
    model.inner = tiny_model()
    model.model.language_model = model.inner.model
    model.inner.model = nn.Identity()
    head, model.lm_head = model.lm_head, nn.Identity()
    model.lm_head, model.get_output_embeddings = head, lambda: None
    policy, _ = attach(model)
    assert not any("lm_head" in name for name in trained(policy))


@pytest.mark.parametrize(
    ("kind", "options", "key"),
    [
        ("qwen3_moe", {"dropout": 0.1}, "adapter.dropout = 0.1"),
        ("mixtral", {"dropout": 0.1}, "adapter.dropout = 0.1"),
        ("qwen3_moe", {"dora": True}, "adapter.dora = True"),
    ],
)
def test_what_experts_cannot_have_is_named_by_its_key(kind, options, key):
    with pytest.raises(RunError) as error:
        lora(**options).attach(tiny_model(kind).train())
    text = str(error.value)
    assert text.startswith(f"{key} does not fit {type(tiny_model(kind)).__name__}")
    assert f"Leave {key.split(' ')[0]} out" in text
    (named,) = re.findall(r"adapter\.target_modules = (\[.*\])", text)
    policy, _ = attach(tiny_model(kind).train(), **options, target_modules=eval(named))
    assert trained(policy)
    plain, said = attach(tiny_model(kind).train())
    assert count(plain) > count(policy)
    assert said == []


def test_dropout_that_an_embedding_does_not_get_is_told_of():
    options = {"target_modules": ["embed_tokens", "q_proj"]}
    _, said = attach(tiny_model().train(), **options, dropout=0.5)
    assert said == [
        "adapter.dropout = 0.5 has no effect on model.embed_tokens: peft drops nothing of embeddings."
    ]
    policy, said = attach(tiny_model().train(), target_modules=["embed_tokens"], dropout=0.5)
    for weight in trained(policy).values():
        nn.init.normal_(weight)
    assert torch.equal(policy(IDS).logits, policy(IDS).logits)
    _, said = attach(tiny_model().train(), **options)
    assert said == []


def test_dropout_is_not_dropped_where_training_goes_on_on_experts(tmp_path):
    tiny_model("qwen3_moe").save_pretrained(tmp_path / "base")
    lora().attach(AutoModelForCausalLM.from_pretrained(tmp_path / "base")).save_pretrained(tmp_path / "sft")
    loader = TransformersLoader(TransformersLoader.Options(name=str(tmp_path / "sft")))
    for load in (loader.load_model, loader.blueprint):
        with pytest.raises(RunError, match=r"adapter.dropout = 0\.1.*Leave adapter.dropout out"):
            Lora(Lora.Options(dropout=0.1)).attach(load(LoadRequest(keep_adapter=True)))


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (
            {"modules_to_save": ["layers"]},
            "adapter.modules_to_save = ['layers'] does not fit LlamaForCausalLM",
        ),
        ({"modules_to_save": ["model"]}, "adapter.modules_to_save = ['model'] does not fit"),
        ({"target_modules": ["norm"]}, "adapter.target_modules = ['norm'] does not fit"),
    ],
)
def test_what_peft_refuses_is_named_by_its_own_key(options, start):
    with pytest.raises(RunError) as error:
        lora(**options).attach(tiny_model().train())
    assert str(error.value).startswith(start)


def test_a_refusal_that_is_about_no_key_blames_none(monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("the moon is full")

    monkeypatch.setattr("peft.get_peft_model", refuse)
    with pytest.raises(
        RunError, match=r"^peft cannot put the adapter .* LlamaForCausalLM: the moon is full$"
    ):
        lora().attach(tiny_model().train())


@pytest.mark.parametrize("kind", ["gpt_oss", "jamba"])
def test_experts_that_all_linear_leaves_out_are_told_of(kind):
    policy, (text,) = attach(tiny_model(kind).train())
    left = sum(
        weight.numel()
        for name, weight in policy.named_parameters()
        if "experts." in name and weight.ndim == 3
    )
    assert f'"all-linear" leaves out {left:,} of' in text
    assert "experts.down_proj, experts.gate_up_proj" in text
    assert not any("experts" in name for name in trained(policy))
