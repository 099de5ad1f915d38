"""Answers are those of transformers' own ``generate``, and leave nothing behind in the model or its training."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dpotrain.core.random_state import RandomState
from dpotrain.engine.attention import packed
from dpotrain.engine.generation import Decoding, answer, inference, stop_tokens
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from tests.support import tiny_model

PROMPT = [5, 9, 17, 4, 30]
LONG = Decoding(24)


def plain(model, prompt, **how):
    """What transformers answers by itself, in evaluation mode."""
    model = copy.deepcopy(model).eval()
    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **how)
    return found[0, len(prompt) :].tolist()


def ends_of(model) -> set[int]:
    return stop_tokens(model, ())


def checkpointed(model) -> list[str]:
    return [name for name, part in model.named_modules() if getattr(part, "gradient_checkpointing", False)]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("packs", [True, False])
def test_the_likeliest_tokens_are_those_of_generate(kind, packs):
    model = tiny_model(kind).train()
    expected = plain(model, PROMPT, max_new_tokens=24, do_sample=False)
    if packs:
        packed.install(model)
    found = answer(model, PROMPT, LONG, ends_of(model), bf16=False)
    assert found == [token for token in expected if token not in ends_of(model)]


def test_with_activation_checkpointing_keys_and_values_are_kept():
    """A checkpointed layer in training drops them, and every token would see only itself."""
    model = tiny_model().train()
    expected = answer(model, PROMPT, LONG, (), bf16=False)
    checkpoint_layers(model, 1)
    flags = checkpointed(model)
    assert answer(model, PROMPT, LONG, (), bf16=False) == expected
    assert checkpointed(model) == flags != []


def test_inference_alone_lets_a_plugin_generate_with_activation_checkpointing():
    """A plugin calls ``policy.generate`` itself, in this context."""
    model = tiny_model().train()
    expected = plain(model, PROMPT, max_new_tokens=24, do_sample=False)
    checkpoint_layers(model, 1)
    flags, ids = checkpointed(model), torch.tensor([PROMPT])
    with inference(model, bf16=False):
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), pad_token_id=0, max_new_tokens=24, do_sample=False
        )
    assert found[0, len(PROMPT) :].tolist() == expected
    assert checkpointed(model) == flags != []


def test_nothing_drops_out():
    model = tiny_model("gpt2", embd_pdrop=0.5, resid_pdrop=0.5, attn_pdrop=0.0).train()
    expected = plain(model, PROMPT, max_new_tokens=24, do_sample=False)
    assert answer(model, PROMPT, LONG, (), bf16=False) == expected
    assert model.transformer.drop.p == 0.5


def test_the_model_and_the_random_states_are_as_before():
    model = tiny_model().train()
    packed.install(model)
    dropout = torch.nn.Dropout(0.5)
    model.model.layers[0].register_module("extra_dropout", dropout)
    config, settings = copy.deepcopy(model.config.to_dict()), model.generation_config
    kept = copy.deepcopy(settings.to_dict())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    states = RandomState.capture().as_json()
    answer(model, PROMPT, Decoding(8, temperature=1.0, top_p=0.9, seed=3), (), bf16=True)
    assert RandomState.capture().as_json() == states
    assert (model.config.to_dict(), model.generation_config.to_dict()) == (config, kept)
    assert model.generation_config is settings
    assert (model.training, dropout.p) == (True, 0.5)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(weight.grad is not None for weight in model.parameters())


def test_the_same_seed_draws_the_same_tokens_and_another_one_others():
    model = tiny_model()
    drawn = [
        answer(model, PROMPT, Decoding(16, temperature=1.0, seed=seed), (), bf16=False) for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_model_s_own_settings_of_generation_do_not_count():
    model = tiny_model()
    expected = answer(model, PROMPT, LONG, (), bf16=False)
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.do_sample = True
    assert answer(model, PROMPT, LONG, (), bf16=False) == expected


def test_it_ends_at_a_stop_token_which_is_not_part_of_the_answer():
    model = tiny_model()
    whole = answer(model, PROMPT, LONG, (), bf16=False)
    stop = whole[3]
    assert answer(model, PROMPT, LONG, {stop}, bf16=False) == whole[: whole.index(stop)]


class Waits(TorchDispatchMode):
    """Counts how often Python asks for a number that a device has computed."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_process_alone_waits_for_the_device_no_more_often_than_generate():
    model = tiny_model()
    with Waits() as own:
        plain(model, PROMPT, max_new_tokens=24, do_sample=False)
    with Waits() as alone:
        answer(model, PROMPT, LONG, ends_of(model), bf16=False)
    assert alone.count <= own.count
    with Waits() as together:
        answer(model, PROMPT, LONG, ends_of(model), bf16=False, agreed=lambda ended: ended)
    assert together.count == alone.count + 24


@pytest.mark.parametrize("stop", [None, 3])
def test_processes_that_answer_together_stop_where_they_agree_to(stop):
    model = tiny_model()
    whole = answer(model, PROMPT, LONG, (), bf16=False)
    asked: list[bool] = []

    def agreed(ended: bool) -> bool:
        asked.append(ended)
        return len(asked) == 6

    stops = set() if stop is None else {whole[stop]}
    found = answer(model, PROMPT, LONG, stops, bf16=False, agreed=agreed)
    assert asked == [token in stops for token in whole[: len(asked)]]
    assert found == whole[: 6 if stop is None else whole.index(whole[stop])]


def test_it_ends_where_the_model_has_no_more_positions():
    model = tiny_model("gpt2", n_positions=8)
    assert len(answer(model, PROMPT, LONG, (), bf16=False)) == 3
    with pytest.raises(ValueError, match="the prompt has 8 tokens, and the model 8 positions"):
        answer(model, [*PROMPT, 1, 2, 3], LONG, (), bf16=False)


def test_what_is_raised_between_two_tokens_leaves_nothing_behind():
    model = tiny_model()
    checkpoint_layers(model.train(), 1)
    states, settings = RandomState.capture().as_json(), model.generation_config
    flags = checkpointed(model)

    def interrupt(ids) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(model, PROMPT, Decoding(8, temperature=1.0), (), bf16=False, each_token=interrupt)
    assert RandomState.capture().as_json() == states
    assert model.generation_config is settings
    assert checkpointed(model) == flags != []
