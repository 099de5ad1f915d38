"""The LoRA adapter: what is trained, what the reference is, and that the result loads elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dpotrain.core.errors import RecipeError, RunError
from dpotrain_plugins.lora import Lora
from tests.support import tiny_checkpoint, tiny_model

IDS = torch.arange(4, 24)[None]
VARIANTS = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head", "norm"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
}


def lora(**options):
    return Lora(Lora.Options(**({"rank": 4} | options)))


def base(folder, **kwargs):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kwargs).train()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def train(policy, steps=3, seed=0):
    """Move the trained weights a good way, as an optimizer would."""
    torch.manual_seed(seed)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.02)
    for _ in range(steps):
        policy(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def sft(tmp_path_factory, checkpoint):
    """The folder of an adapter that somebody fine-tuned, dropout and all, with a whole module in it."""
    torch.manual_seed(1)
    config = LoraConfig(
        r=8,
        lora_alpha=8,
        lora_dropout=0.2,
        target_modules=["q_proj", "v_proj"],
        modules_to_save=["norm"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base(checkpoint), config)
    train(model, seed=2)
    folder = tmp_path_factory.mktemp("sft")
    model.save_pretrained(folder)
    return folder


def continuing(checkpoint, sft):
    return PeftModel.from_pretrained(base(checkpoint), sft, is_trainable=True).train()


def test_all_linear_layers_but_the_head_are_adapted(checkpoint):
    policy = lora().attach(base(checkpoint))
    adapted = {
        name.split(".lora_A")[0].rpartition(".")[2] for name in lora().state(policy) if "lora_A" in name
    }
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert policy.peft_config["default"].lora_alpha == 8


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "mamba2"])
def test_all_linear_finds_something_in_other_architectures(kind):
    policy = lora().attach(tiny_model(kind).train())
    assert any("lora_B" in name for name in lora().state(policy))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_exactly_the_adapter_parameters(checkpoint, variant):
    adapter = lora(**VARIANTS[variant])
    policy = adapter.attach(base(checkpoint))
    train(policy, steps=1)  # lora_B starts at zero, and lora_A has no gradient until it has moved
    policy(IDS, labels=IDS).loss.backward()
    with_gradient = {name for name, weight in policy.named_parameters() if weight.grad is not None}
    assert with_gradient == set(adapter.state(policy))
    assert all(policy.get_parameter(name).grad.abs().sum() > 0 for name in with_gradient)
    assert all("lora_" in name or "modules_to_save.default" in name for name in with_gradient)


def test_adapters_in_bf16_lose_their_updates_so_they_are_float32_on_bf16_weights(checkpoint):
    adapter = lora(modules_to_save=["lm_head"])
    policy = adapter.attach(base(checkpoint).to(torch.bfloat16))
    state = adapter.state(policy)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert any("lm_head" in name for name in state)
    frozen = {weight.dtype for name, weight in policy.named_parameters() if name not in state}
    assert frozen == {torch.bfloat16}
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy(IDS, labels=IDS).loss
    loss.backward()
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight -= 5e-7 * weight.grad.sign()
    changed = [name for name in state if "lora_A" not in name and not torch.equal(state[name], before[name])]
    assert len(changed) == sum("lora_A" not in name for name in state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_after_training_is_the_initial_policy_exactly(checkpoint, variant):
    adapter = lora(**VARIANTS[variant])
    policy = adapter.attach(base(checkpoint))
    initial = logits(policy)
    train(policy)
    trained = logits(policy)
    assert not torch.allclose(trained, initial, atol=1e-2)
    with adapter.reference(policy):
        reference = logits(policy)
    assert torch.equal(reference, initial)
    assert torch.equal(logits(policy), trained)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_is_the_initial_policy_exactly_on_bf16_weights_too(checkpoint, variant):
    """DoRA without any training is the base model only up to the rounding of its weights."""
    adapter = lora(**VARIANTS[variant])
    policy = adapter.attach(base(checkpoint).to(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        initial = logits(policy)
        with adapter.reference(policy):
            torch.testing.assert_close(logits(policy), initial, atol=0, rtol=0, check_dtype=False)


def test_lora_dropout_is_not_applied_to_the_reference(checkpoint):
    adapter = lora(dropout=0.5)
    policy = adapter.attach(base(checkpoint))
    initial = logits(tiny_model("llama"))
    train(policy)
    assert policy.training
    assert not torch.equal(logits(policy), logits(policy))
    with adapter.reference(policy):
        assert torch.equal(logits(policy), initial)


@pytest.mark.parametrize("arrives_with_adapter", [False, True])
def test_reference_restores_everything_even_after_an_exception(checkpoint, sft, arrives_with_adapter):
    adapter = lora(modules_to_save=["norm"]) if not arrives_with_adapter else Lora(Lora.Options())
    policy = continuing(checkpoint, sft) if arrives_with_adapter else base(checkpoint)
    policy = adapter.attach(policy)
    train(policy)
    next(weight for weight in policy.parameters() if weight.requires_grad).requires_grad_(False)
    policy.get_submodule("base_model.model.model.layers.0").eval()

    def everything():
        flags = [weight.requires_grad for weight in policy.parameters()]
        return flags, [module.training for module in policy.modules()], policy.active_adapters

    before, trained = everything(), logits(policy)
    with pytest.raises(ZeroDivisionError), adapter.reference(policy):  # noqa: PT012
        assert [module.training for module in policy.modules()] == before[1]
        assert not torch.equal(logits(policy), trained)
        raise ZeroDivisionError
    assert everything() == before
    assert torch.equal(logits(policy), trained)


@pytest.mark.parametrize("arrives_with_adapter", [False, True])
def test_a_reference_between_forward_and_backward_takes_no_gradient_away(
    checkpoint, sft, arrives_with_adapter
):
    gradients = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        adapter = Lora(Lora.Options())
        policy = adapter.attach(continuing(checkpoint, sft) if arrives_with_adapter else base(checkpoint))
        loss = policy(IDS, labels=IDS).loss
        if interrupted:
            with adapter.reference(policy):
                logits(policy)
        loss.backward()
        gradients.append([weight.grad for weight in policy.parameters() if weight.requires_grad])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_training_goes_on_from_an_sft_adapter_and_the_reference_is_that_adapter(checkpoint, sft):
    """Not the base model, which is what switching the adapter off would give."""
    arrived = continuing(checkpoint, sft)
    plain = PeftModel.from_pretrained(base(checkpoint), sft).eval()
    adapter = Lora(Lora.Options())
    policy = adapter.attach(arrived)
    initial = logits(policy)
    assert torch.equal(initial, logits(plain))
    assert not torch.allclose(initial, logits(base(checkpoint)), atol=1e-2)
    train(policy)
    assert not torch.allclose(logits(policy), initial, atol=1e-2)
    with adapter.reference(policy):
        assert torch.equal(logits(policy), initial)


def test_the_copy_of_the_sft_adapter_is_neither_trained_nor_checkpointed_nor_saved(checkpoint, sft, tmp_path):
    adapter = Lora(Lora.Options())
    policy = adapter.attach(continuing(checkpoint, sft))
    state = adapter.state(policy)
    assert not any("initial" in name for name in state)
    assert len(state) == 2 * 2 * 2 + 5  # A and B of two projections in two layers, and the norms
    before = {name: weight.clone() for name, weight in policy.named_parameters() if ".initial" in name}
    train(policy)
    assert before
    assert all(torch.equal(policy.get_parameter(name), weight) for name, weight in before.items())
    adapter.save(policy, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert not any("initial" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base(checkpoint), tmp_path)), logits(policy))


def test_the_recipe_and_not_the_sft_adapter_decides_dropout(checkpoint, sft):
    for dropout in (0.0, 0.3):
        policy = lora(rank=8, dropout=dropout).attach(continuing(checkpoint, sft))
        found = {module.p for module in policy.modules() if isinstance(module, torch.nn.Dropout)}
        assert found - {0.0} == {dropout} - {0.0}


def test_an_option_that_contradicts_the_sft_adapter_is_an_error_that_names_both(checkpoint, sft):
    with pytest.raises(RunError) as error:
        lora(rank=16, dora=True, target_modules=["k_proj"]).attach(continuing(checkpoint, sft))
    assert "adapter.rank = 16, but the adapter that training goes on from has 8" in str(error.value)
    assert "adapter.dora = True" in str(error.value)
    assert (
        "target_modules = ['k_proj'], but the adapter that training goes on from is on q_proj, v_proj"
        in str(error.value)
    )
    agreeing = {"rank": 8, "alpha": 8, "target_modules": ["v_proj", "q_proj"], "modules_to_save": ["norm"]}
    lora(**agreeing).attach(continuing(checkpoint, sft))
    with pytest.raises(RunError, match="all-linear"):
        lora(rank=8, target_modules="all-linear").attach(continuing(checkpoint, sft))


def test_all_linear_agrees_with_an_sft_adapter_on_all_linear_layers(checkpoint):
    policy = get_peft_model(base(checkpoint), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    lora(rank=8, target_modules="all-linear").attach(policy)


def test_an_adapter_of_another_type_is_refused(checkpoint):
    from peft import IA3Config

    policy = get_peft_model(base(checkpoint), IA3Config(task_type="CAUSAL_LM"))
    with pytest.raises(RunError, match="IA3"):
        lora().attach(policy)
    biased = get_peft_model(base(checkpoint), LoraConfig(bias="all", task_type="CAUSAL_LM"))
    with pytest.raises(RunError, match="trained biases"):
        lora(rank=8).attach(biased)


def test_a_checkpoint_of_another_adapter_is_refused(checkpoint):
    adapter = lora()
    policy = adapter.attach(base(checkpoint))
    state = dict(adapter.state(policy))
    missing = dict(list(state.items())[1:])
    with pytest.raises(RunError, match="1 tensors differ in name or shape"):
        adapter.load_state(policy, missing)
    with pytest.raises(RunError, match="surplus"):
        adapter.load_state(policy, state | {"surplus": torch.zeros(1)})
    with pytest.raises(RunError, match="differ in name or shape"):
        adapter.load_state(policy, lora(rank=8).state(lora(rank=8).attach(base(checkpoint))))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_saved_adapter_loads_with_plain_peft(checkpoint, tmp_path, variant):
    adapter = lora(**VARIANTS[variant])
    policy = adapter.attach(base(checkpoint))
    train(policy)
    adapter.save(policy, tmp_path)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoint), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(policy), atol=1e-6, rtol=1e-6)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["inference_mode"] is True
    assert Path(config["base_model_name_or_path"]) == checkpoint
    assert not any("embed_tokens" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    # Saving is no end: the policy can be trained on.
    assert adapter.state(policy)


def test_the_base_models_commit_is_in_the_saved_adapter(checkpoint, tmp_path):
    model = base(checkpoint)
    model.config._commit_hash = "0123abc"
    adapter = lora()
    adapter.save(adapter.attach(model), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["revision"] == "0123abc"
    assert 'revision="0123abc"' in adapter.how_to_load(tmp_path)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("variant", [*VARIANTS, "embedding"])
def test_merging_gives_the_same_logits_and_leaves_the_policy_alone(tmp_path, variant, tied):
    options = {"modules_to_save": ["embed_tokens"]} if variant == "embedding" else VARIANTS[variant]
    adapter = lora(merge=True, **options)
    policy = adapter.attach(tiny_model("llama", tie_word_embeddings=tied).train())
    train(policy)
    expected = logits(policy)
    adapter.save(policy, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), expected, atol=2e-5, rtol=1e-5)
    assert "adapter_config.json" not in [path.name for path in tmp_path.iterdir()]
    assert "AutoModelForCausalLM" in adapter.how_to_load(tmp_path)
    assert torch.equal(logits(policy), expected)
    assert adapter.state(policy)


def test_merging_an_adapter_that_went_on_from_an_sft_adapter(checkpoint, sft):
    adapter = Lora(Lora.Options(merge=True))
    policy = adapter.attach(continuing(checkpoint, sft))
    train(policy)
    model = adapter.merge(policy)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name or "modules_to_save" in name for name, _ in model.named_modules())
    torch.testing.assert_close(logits(model), logits(policy), atol=2e-5, rtol=1e-5)


def test_merging_into_quantized_weights_is_refused_before_training(checkpoint):
    from transformers import BitsAndBytesConfig

    model = base(checkpoint, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    with pytest.raises(RunError, match="quantized"):
        lora(merge=True).attach(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_porj"]}, r'no module of.*; did you mean "q_proj"'),
        ({"target_modules": ["q_proj", "v_porj"]}, 'no module "v_porj"; did you mean "v_proj"'),
        ({"target_modules": "attn.*"}, "fits no module"),
        ({"modules_to_save": ["lm_haed"]}, 'did you mean "lm_head"'),
        ({"target_modules": ["norm"]}, "does not fit"),
    ],
)
def test_targets_that_are_not_there_are_an_error_with_the_nearest_names(checkpoint, options, message):
    with pytest.raises(RunError, match=message) as error:
        lora(**options).attach(base(checkpoint))
    assert "linear modules are down_proj, gate_proj, k_proj" in str(error.value)


def test_a_regular_expression_chooses_whole_names(checkpoint):
    policy = lora(target_modules=r".*layers\.1\..*q_proj").attach(base(checkpoint))
    assert len(lora().state(policy)) == 2


def test_a_broken_regular_expression_is_found_before_loading():
    with pytest.raises(RecipeError, match="not a regular expression"):
        lora(target_modules="(q_proj").check()
    lora().check()


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"alpha": -1},
        {"dropout": 1.0},
        {"target_modules": []},
        {"lr": 1},
        {"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]},
    ],
)
def test_meaningless_options_are_refused(options):
    with pytest.raises(ValidationError):
        lora(**options)


def test_gradient_checkpointing_with_a_frozen_embedding_trains(checkpoint):
    """The gradients are those without checkpointing; with reentrant checkpointing there would be none."""
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        policy = lora().attach(base(checkpoint))
        if checkpointing:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
        policy(IDS, labels=IDS).loss.backward()
        gradients.append([weight.grad for weight in policy.parameters() if weight.requires_grad])
    assert any(gradient.abs().sum() > 0 for gradient in gradients[1])
    assert all(torch.allclose(*pair, atol=1e-7) for pair in zip(*gradients, strict=True))
