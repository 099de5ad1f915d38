"""The shipped model is small, of a known make, answers well, and uses both styles equally."""

import itertools

import pytest

from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.demo.grammar import Request, requests, style
from dpotrain_plugins.demo.loader import MODEL_FOLDER, DemoLoader
from dpotrain_plugins.demo.sampling import sample_replies


@pytest.fixture(scope="module")
def loader() -> DemoLoader:
    return DemoLoader(DemoLoader.Options())


@pytest.fixture(scope="module")
def tokenizer(loader):
    return loader.load_tokenizer()


@pytest.fixture(scope="module")
def model(loader):
    return loader.load_model(LoadRequest())


@pytest.fixture(scope="module")
def sampled(model, tokenizer) -> list[tuple[Request, str]]:
    asked = list(itertools.islice(requests(11, held_out=True), 400))
    return list(zip(asked, sample_replies(model, tokenizer, [r.text for r in asked], seed=11), strict=True))


def test_all_shipped_files_together_have_at_most_two_megabytes():
    files = {file.name: file.stat().st_size for file in MODEL_FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(files)
    assert sum(files.values()) <= 2 * 1024**2


def test_everybody_may_read_the_shipped_files():
    """Weights are saved for their owner alone, and an installed package often has another owner."""
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in MODEL_FOLDER.iterdir())


def test_it_is_a_llama_in_float32_ready_to_be_trained(model):
    import torch
    from transformers import LlamaForCausalLM

    assert isinstance(model, LlamaForCausalLM)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.training


def test_half_of_the_sampled_replies_are_courteous(sampled):
    assert 0.4 <= sum(style(reply) == "courteous" for _, reply in sampled) / len(sampled) <= 0.6


def test_nearly_all_sampled_replies_are_grammatical_and_right(sampled):
    """Also the test that prompts of many lengths in one batch do not disturb each other."""
    assert sum(style(reply) == "other" for _, reply in sampled) / len(sampled) < 0.1
    assert sum(request.is_answered_by(reply) for request, reply in sampled) / len(sampled) > 0.85


def test_the_chat_template_writes_each_special_token_once(tokenizer):
    chat = [
        {"role": "user", "content": "Where are the spoons?"},
        {"role": "assistant", "content": "Kitchen."},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<s><user>Where are the spoons?<assistant>Kitchen.</s>"
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    assert prompt.endswith("<assistant>")


def test_the_tokenizer_takes_any_text_back_and_forth(tokenizer):
    text = "Ünïcode, 漢字 and\ttabs\n: nothing is unknown 🙂"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


def test_a_role_the_model_does_not_know_is_refused_by_name(tokenizer):
    with pytest.raises(Exception, match="not system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be kind."}], tokenize=False)
