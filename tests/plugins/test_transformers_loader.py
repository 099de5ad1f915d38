"""The transformers loader: what it loads, in what state, and what it says when it cannot."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from dpotrain.core.errors import RecipeError, RunError
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.support import EOS, tiny_checkpoint, tiny_model, tiny_tokenizer

IDS = torch.arange(4, 24)[None]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def loader(name, **options):
    return TransformersLoader(TransformersLoader.Options(name=str(name), **options))


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "base", "llama")


@pytest.fixture(scope="module")
def adapter(checkpoint):
    """An adapter folder beside the base model's, without a tokenizer."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model("llama"), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    folder = checkpoint.parent / "adapter"
    model.save_pretrained(folder)
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(checkpoint))
    return folder


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A copy of the base model's folder to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def rewrite(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_model_is_the_one_in_the_folder(checkpoint):
    model = loader(checkpoint).load_model(LoadRequest())
    assert torch.equal(logits(model), logits(tiny_model("llama")))
    assert Path(model.name_or_path) == checkpoint


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")]
)
def test_weights_are_held_in_the_asked_dtype(checkpoint, dtype, expected):
    model = loader(checkpoint, dtype=dtype).load_model(LoadRequest())
    assert {weight.dtype for weight in model.parameters()} == {getattr(torch, expected)}


def test_the_attention_implementation_is_the_asked_one(checkpoint):
    assert (
        loader(checkpoint, attention="eager").load_model(LoadRequest()).config._attn_implementation == "eager"
    )
    assert loader(checkpoint).load_model(LoadRequest()).config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {"attention_dropout": 0.3}),
        ("gpt2", {"resid_pdrop": 0.3, "attn_pdrop": 0.3, "embd_pdrop": 0.3}),
        ("gpt_neox", {"attention_dropout": 0.3, "hidden_dropout": 0.3}),
        ("phi3", {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attention_dropout": 0.3}),
        ("bloom", {"hidden_dropout": 0.3, "attention_dropout": 0.3}),
        ("granite", {"attention_dropout": 0.3}),
        ("mixtral", {"router_jitter_noise": 0.3}),
    ],
)
def test_a_model_in_train_mode_computes_what_it_computes_in_eval_mode(tmp_path, kind, config):
    """The config's dropout is off, and so is every other source of chance in training."""
    tiny_checkpoint(tmp_path, kind, **config)
    model = loader(tmp_path).load_model(LoadRequest())
    assert all(module.training for module in model.modules())
    torch.manual_seed(0)
    assert torch.equal(logits(model), logits(model.eval()))


def test_the_config_stays_as_it_was_and_generates_with_its_cache(checkpoint):
    """What is saved at the end must not carry settings of the training."""
    model = loader(checkpoint).load_model(LoadRequest())
    assert model.config.use_cache == tiny_model("llama").config.use_cache
    answer = model.generate(
        IDS, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, pad_token_id=0
    )
    assert answer.past_key_values is not None
    expected = tiny_model("llama").generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(answer.sequences, expected)


def test_an_adapter_is_merged_into_its_base(checkpoint, adapter):
    merged = loader(adapter).load_model(LoadRequest())
    expected = logits(PeftModel.from_pretrained(tiny_model("llama"), adapter))
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert merged.training
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, logits(tiny_model("llama")), atol=1e-2)


@pytest.mark.parametrize("quantized", [False, True])
def test_an_adapter_is_kept_trainable_on_its_base(adapter, quantized):
    quantization = Bnb4bit(Bnb4bit.Options()).loading_config() if quantized else None
    policy = loader(adapter).load_model(LoadRequest(keep_adapter=True, quantization=quantization))
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert isinstance(policy, PeftModel)
    assert policy.training
    assert len(trained) == 8
    assert all("lora_" in name for name in trained)
    if not quantized:
        assert torch.equal(logits(policy), logits(PeftModel.from_pretrained(tiny_model("llama"), adapter)))


def test_merging_an_adapter_into_quantized_weights_is_explained(adapter):
    with pytest.raises(RunError, match="round them anew"):
        loader(adapter).load_model(LoadRequest(quantization=Bnb4bit(Bnb4bit.Options()).loading_config()))


def test_an_adapters_relative_base_is_found_from_the_adapter(adapter, tmp_path, monkeypatch, checkpoint):
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "elsewhere"
    shutil.copytree(adapter, models / "adapter")
    shutil.copytree(checkpoint, models / "base")
    rewrite(models / "adapter/adapter_config.json", base_model_name_or_path="../base")
    found = loader(models / "adapter")
    found.check()
    assert isinstance(found.load_model(LoadRequest(keep_adapter=True)), PeftModel)


def test_an_adapter_without_a_tokenizer_has_its_bases(adapter, checkpoint):
    assert loader(adapter).load_tokenizer().get_vocab() == loader(checkpoint).load_tokenizer().get_vocab()


def test_an_adapter_whose_base_is_gone_is_named(adapter, tmp_path):
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    rewrite(folder / "adapter_config.json", base_model_name_or_path="/nowhere/base")
    with pytest.raises(RecipeError, match=r"belongs to the model in /nowhere/base.*base_model_name_or_path"):
        loader(folder).check()
    rewrite(folder / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(RecipeError, match="names no base_model_name_or_path"):
        loader(folder).check()


def test_an_adapter_on_an_adapter_is_refused(adapter, tmp_path):
    folder = Path(shutil.copytree(adapter, tmp_path / "second"))
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(adapter))
    with pytest.raises(RecipeError, match="is itself an adapter"):
        loader(folder).load_model(LoadRequest())


def test_an_adapter_of_another_shape_or_with_weights_missing_is_refused(adapter, tmp_path):
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), folder / "adapter_model.safetensors")
    with pytest.raises(RunError, match="some of its weights are missing"):
        loader(folder).load_model(LoadRequest())
    save_file({name: weight[:1] for name, weight in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(
        RunError, match=r"tensors have another shape \(.*is \[1, 32\], and the base needs \[4, 32\]"
    ):
        loader(folder).load_model(LoadRequest())


@pytest.mark.parametrize(
    "name", ["./nowhere", "../nowhere", "/nowhere/model", "~/nowhere-at-all", "a/b/c", "gone/"]
)
def test_a_missing_folder_is_named(name):
    with pytest.raises(RecipeError) as error:
        loader(name).check()
    assert repr(name) in str(error.value)
    assert "there is no such folder" in str(error.value)


@pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-2-7b-hf"])
def test_a_hub_name_passes_the_check(name):
    loader(name, revision="main").check()


def test_a_folder_without_a_model_is_named_with_the_one_inside_it(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match=r"neither config.json nor adapter_config.json is there$"):
        loader(tmp_path).check()
    shutil.copytree(checkpoint, tmp_path / "final")
    with pytest.raises(RecipeError, match=r"did you mean .*/final\?"):
        loader(tmp_path).check()


def test_a_file_is_no_folder(checkpoint):
    with pytest.raises(RecipeError, match="is a file; name the folder"):
        loader(checkpoint / "config.json").check()


def test_a_revision_of_a_folder_is_no_silent_option(checkpoint):
    with pytest.raises(RecipeError, match=r"model.revision = 'main' is of no use"):
        loader(checkpoint, revision="main").check()


def test_pickles_are_refused_with_the_command_that_converts_them(copied):
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"model\.safetensors is not there"):
        loader(copied).check()
    torch.save(state, copied / "pytorch_model.bin")
    for attempt in (loader(copied).check, lambda: loader(copied).load_model(LoadRequest())):
        with pytest.raises(RecipeError, match=r"only as pickles \(pytorch_model.bin\)") as error:
            attempt()
    assert f"{copied}-safetensors" in str(error.value)


def test_the_command_that_converts_a_pickled_adapter_converts_it(adapter, tmp_path):
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, folder / "adapter_model.bin")
    with pytest.raises(RecipeError, match="only as pickles") as error:
        loader(folder).check()
    exec(str(error.value).split('python -c "')[1].removesuffix('"'))
    loader(folder).check()
    assert load_file(folder / "adapter_model.safetensors").keys() == weights.keys()


def test_missing_shards_are_named(copied):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        RecipeError, match=r"1 of 2 weight files are missing \(model-00002-of-00002.safetensors\)"
    ):
        loader(copied).check()


def test_a_config_that_is_no_json_is_named(copied):
    (copied / "config.json").write_text("{")
    with pytest.raises(RecipeError, match=r"config.json cannot be read as JSON"):
        loader(copied).check()


def test_check_imports_nothing_heavy(checkpoint, adapter):
    code = (
        "import sys; from dpotrain_plugins.transformers_loader import TransformersLoader as T\n"
        f"for name in {[str(checkpoint), str(adapter), 'org/name']}: T(T.Options(name=name)).check()\n"
        "print(*{'torch', 'transformers', 'peft', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "options", [{"name": ""}, {"dtype": "bf16"}, {"attention": "flash"}, {"typo": 1}, {}]
)
def test_meaningless_options_are_refused(options):
    options = {"name": "gpt2"} | options if options else options
    with pytest.raises(ValidationError):
        TransformersLoader.Options(**options)


def test_weights_that_would_be_left_random_are_an_error(copied):
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=r"lacks 1 of the weights.*model.layers.1.mlp.up_proj.weight"):
        loader(copied).load_model(LoadRequest())


def test_tied_embeddings_are_not_missing(tmp_path):
    tiny_checkpoint(tmp_path, "llama", tie_word_embeddings=True)
    model = loader(tmp_path).load_model(LoadRequest())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_unknown_architecture_is_named(copied):
    rewrite(copied / "config.json", model_type="perceptron-9000", architectures=["Perceptron"])
    with pytest.raises(RunError, match="perceptron-9000"):
        loader(copied).load_model(LoadRequest())


def test_a_model_that_is_not_causal_is_refused(copied):
    from transformers import T5Config

    T5Config().save_pretrained(copied)
    with pytest.raises(RunError, match=r"no causal language model .* config\.json describes a t5 model"):
        loader(copied).load_model(LoadRequest())


def test_remote_code_is_run_only_when_the_recipe_says_so(copied, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    rewrite(
        copied / "config.json",
        model_type="homemade",
        auto_map={"AutoConfig": "homemade.Config", "AutoModelForCausalLM": "homemade.Model"},
    )
    (copied / "homemade.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(ran)!r}).touch()\n"
        "class Config(LlamaConfig):\n    model_type = 'homemade'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    with pytest.raises(RunError, match=r"its own Python code.*model.trust_remote_code = true"):
        loader(copied).load_model(LoadRequest())
    assert not ran.exists()
    model = loader(copied, trust_remote_code=True).load_model(LoadRequest())
    assert ran.exists()
    assert torch.equal(logits(model), logits(tiny_model("llama")))


def test_weights_that_are_already_quantized_need_the_quantizer_table(copied):
    rewrite(copied / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(RunError, match=r"already quantized \(gptq\)"):
        loader(copied).load_model(LoadRequest())


def test_a_tokenizer_with_a_pad_token_keeps_it(checkpoint):
    assert loader(checkpoint).load_tokenizer().pad_token == "<pad>"


def test_a_tokenizer_without_pad_pads_with_eos_and_has_no_token_more(copied):
    tiny_tokenizer(copied, pad=None)
    tokenizer = loader(copied).load_tokenizer()
    assert (tokenizer.pad_token, len(tokenizer)) == (EOS, 384)


def test_a_pad_token_outside_the_embedding_is_not_used(copied):
    tokenizer = tiny_tokenizer(pad=None)
    tokenizer.add_special_tokens({"pad_token": "[ADDED]"})
    tokenizer.save_pretrained(copied)
    assert tokenizer.pad_token_id == 384
    assert loader(copied).load_tokenizer().pad_token == EOS


def test_a_tokenizer_without_bos_or_chat_template_is_fine(copied):
    for file in copied.glob("*.jinja"):
        file.unlink()
    tiny_tokenizer(copied, bos=None, chat_template=False)
    tokenizer = loader(copied).load_tokenizer()
    assert tokenizer.bos_token is None
    assert tokenizer.chat_template is None


def test_a_folder_without_a_tokenizer_is_named(copied):
    for file in copied.glob("*token*"):
        file.unlink()
    with pytest.raises(RunError, match="tokenizer") as error:
        loader(copied).load_tokenizer()
    assert str(copied) in str(error.value)


SAID = [{"role": "user", "content": "hi"}]
OWN = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"


@pytest.mark.parametrize(
    ("given", "rendered"),
    [
        (OWN, "[hi]"),
        ("file.jinja", "[hi]"),
        ("chatml", "<|im_start|>user\nhi<|im_end|>\n"),
        (None, "<s><|im_start|>user\nhi<|im_end|>\n"),
    ],
)
def test_the_chat_template_is_a_text_a_file_a_name_or_the_tokenizers_own(
    checkpoint, tmp_path, monkeypatch, given, rendered
):
    monkeypatch.chdir(tmp_path)
    Path("file.jinja").write_text(OWN)
    chosen = loader(checkpoint, chat_template=given)
    chosen.check()
    assert chosen.load_tokenizer().apply_chat_template(SAID, tokenize=False) == rendered


def test_one_of_several_templates_of_the_tokenizer_is_chosen_by_name(copied):
    tokenizer = tiny_tokenizer(chat_template=False)
    tokenizer.chat_template = {"default": "plain", "brackets": OWN}
    tokenizer.save_pretrained(copied)
    chosen = loader(copied, chat_template="brackets").load_tokenizer()
    assert chosen.apply_chat_template(SAID, tokenize=False) == "[hi]"


def test_a_chat_template_that_is_none_is_an_error_that_says_what_there_is(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match=r"'gone.jinja': there is no such file"):
        loader(checkpoint, chat_template="gone.jinja").check()
    with pytest.raises(
        RecipeError, match=r"'vicuna' is not a file, Jinja text or a known template \(chatml\)"
    ):
        loader(checkpoint, chat_template="vicuna").load_tokenizer()
    with pytest.raises(RecipeError, match=r"model.chat_template, line 2: not a Jinja template"):
        loader(checkpoint, chat_template="{{ bos_token }}\n{% for x %}").load_tokenizer()


@pytest.mark.parametrize("written", [7, [{"name": "default", "template": None}]], ids=str)
def test_a_chat_template_that_is_no_text_is_named_with_its_file(written, copied):
    (copied / "chat_template.jinja").unlink(missing_ok=True)
    rewrite(copied / "tokenizer_config.json", chat_template=written)
    with pytest.raises(
        RunError, match=r"chat_template that is no text; correct it in its tokenizer_config\.json"
    ):
        loader(copied).load_tokenizer()


@pytest.mark.parametrize("how", ["load_model", "blueprint"])
@pytest.mark.parametrize("text", ["[1]", '{"temperature":', '{"num_return_sequences": 4}'])
def test_a_generation_config_that_cannot_be_read_is_named(text, how, copied):
    (copied / "generation_config.json").write_text(text)
    with pytest.raises(RunError, match=r"generation_config\.json cannot be read"):
        getattr(loader(copied), how)(LoadRequest())


def test_the_fingerprint_changes_with_the_weights_and_nothing_else(checkpoint, copied):
    before = loader(copied).fingerprint()
    assert before == loader(checkpoint).fingerprint()
    tiny_tokenizer(copied, chat_template=False)
    assert loader(copied).fingerprint() == before
    assert loader(copied, dtype="bfloat16").fingerprint() != before
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    changed = loader(copied).fingerprint()
    assert changed != before
    rewrite(copied / "config.json", rms_norm_eps=0.1)
    assert loader(copied).fingerprint() != changed
    assert loader(checkpoint).fingerprint(str(copied)) == loader(copied).fingerprint()


def test_an_adapters_fingerprint_is_of_the_adapter_and_its_base(adapter, checkpoint, copied, tmp_path):
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    before = loader(folder).fingerprint()
    assert before != loader(checkpoint).fingerprint()
    weights = load_file(folder / "adapter_model.safetensors")
    changed = {name: weight + 1 for name, weight in weights.items()}
    save_file(changed, folder / "adapter_model.safetensors")
    assert loader(folder).fingerprint() != before
    save_file(weights, folder / "adapter_model.safetensors")
    rewrite(copied / "config.json", rms_norm_eps=0.1)
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(copied))
    assert loader(folder).fingerprint().split(" on ")[1] != before.split(" on ")[1]


def hub_cache(cache, repository, folder):
    """Lay out a folder's files as the hub's client keeps them."""
    home = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(COMMIT)


@pytest.mark.soak
def test_hub_names_are_loaded_from_the_cache_at_one_commit(checkpoint, adapter, tmp_path):
    """In a process of its own, because the hub's client reads where its cache is when it is imported."""
    hub_cache(tmp_path, "someone/model", checkpoint)
    on_hub = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    rewrite(on_hub / "adapter_config.json", base_model_name_or_path="someone/model")
    hub_cache(tmp_path, "someone/adapter", on_hub)
    code = """if True:
        from dpotrain.core.errors import RunError
        from dpotrain.plugin.api import LoadRequest
        from dpotrain_plugins.transformers_loader import TransformersLoader as T
        whole = T(T.Options(name="someone/model"))
        model = whole.load_model(LoadRequest())
        print(model.name_or_path, model.config._commit_hash, len(whole.load_tokenizer()))
        print(whole.fingerprint())
        adapter = T(T.Options(name="someone/adapter"))
        policy = adapter.load_model(LoadRequest(keep_adapter=True))
        print(type(policy).__name__, policy.get_base_model().name_or_path)
        print(adapter.fingerprint())
        for name, revision in (("someone/absent", None), ("someone/model", "v2")):
            try:
                T(T.Options(name=name, revision=revision)).load_tokenizer()
            except RunError as error:
                print(error)
    """
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"someone/model {COMMIT} 384"
    assert lines[1] == f"hub:someone/model@{COMMIT} dtype:auto"
    assert lines[2] == "PeftModelForCausalLM someone/model"
    assert lines[3] == (f"hub:models--someone--adapter@{COMMIT} on hub:someone/model@{COMMIT} dtype:auto")
    assert lines[4].startswith(f"someone/absent is neither a folder in {tmp_path} nor in the hub's cache")
    assert "HF_HUB_OFFLINE is set" in lines[4]
    assert lines[7].startswith("someone/model at revision 'v2' is neither")


def refusal(kind):
    import httpx

    response = httpx.Response(403, request=httpx.Request("GET", "https://hub.invalid/"))
    return kind("refused", response=response)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            lambda: refusal(errors.GatedRepoError),
            r"does not give out org/model.*accept its terms.*hf auth login",
        ),
        (
            lambda: refusal(errors.RepositoryNotFoundError),
            r"no model 'org/model', and there is no folder.*spelling",
        ),
        (lambda: refusal(errors.RevisionNotFoundError), "has no revision 'v9'"),
        (lambda: refusal(errors.RemoteEntryNotFoundError), "holds no config.json"),
        (lambda: OSError("read timed out\nmore"), "could not be fetched from the hub: read timed out$"),
    ],
    ids=["gated", "not found", "no revision", "no config", "network"],
)
def test_what_the_hub_answers_becomes_what_to_do(monkeypatch, raised, message):
    """The hub cannot be asked here; its client's own exceptions stand in for its answers."""

    def download(*args, **kwargs):
        raise raised()

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(RunError, match=message):
        loader("org/model", revision="v9").load_tokenizer()


def test_an_impossible_name_is_neither_folder_nor_hub_name():
    with pytest.raises(RunError, match="neither a folder here nor a possible hub name"):
        loader("no such model!").load_tokenizer()
