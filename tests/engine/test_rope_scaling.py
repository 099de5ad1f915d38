"""Rotary embeddings that take their frequencies from the longest position of a call: log-probs are the model's own."""

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel, LlamaRotaryEmbedding

from dpotrain.core.errors import RunError
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.batches.packing import pack
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.rope_scaling import length_rules
from dpotrain.recipe.load import load_recipe
from dpotrain.run.planning.plan import make_plan
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build, gradients, own_log_prob_sums
from tests.run.recipes import Recording, losses, project, records, run
from tests.support import tiny_model

LIMIT = 32
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": LIMIT,
}
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
#: Architecture and its configuration: both types, the second also for the layers of one kind only.
MODELS = {
    "longrope": (
        "phi3",
        {"rope_parameters": LONG, "original_max_position_embeddings": LIMIT, "max_position_embeddings": 512},
    ),
    "dynamic": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": LIMIT}),
    "by layer type": (
        "gemma3",
        {
            "rope_parameters": {"sliding_attention": PLAIN, "full_attention": DYNAMIC},
            "max_position_embeddings": LIMIT,
        },
    ),
}
#: Both answers short, both long, one of each, exactly the limit, and one of a length that occurs twice.
SIZES = [(5, 4, 7), (20, 30, 45), (16, 8, 40), (10, 22, 23), (30, 20, 35), (7, 1, 2)]


def own_sums(name: str, data) -> torch.Tensor:
    """Each sequence by a model of its own: dynamic NTK keeps frequencies from call to call."""
    kind, config = MODELS[name]
    sums = []
    for index in range(len(data)):
        pair = data[index]
        for completion in (pair.chosen, pair.rejected):
            ids = torch.tensor([*pair.prompt.tolist(), *completion.tolist()])
            log_probs = build(kind, **config)(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
            start = len(pair.prompt)
            sums.append(log_probs[range(start - 1, len(ids) - 1), ids[start:]].sum())
    return torch.stack(sums).view(-1, 2).detach()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_log_probs_are_the_models_own_whoever_shares_the_micro_batch(name, checkpointed):
    kind, config = MODELS[name]
    model, data = build(kind, **config), random_pairs(SIZES)
    expected = own_sums(name, data)
    together = pack(data, range(len(data)))
    chosen = choose_scorer(model, pack(data, [5]), packing="auto", bf16=False, extremes=together)
    assert "depend on the longest sequence of a forward pass" in chosen.reason
    if checkpointed:
        checkpoint_layers(model, 2)
    found = []
    for batches in ([range(6)], [[5, 4], [3, 2], [1, 0]], [[1], [0], [2], [3], [4], [5]]):
        parts = {
            int(pair): row
            for pairs in batches
            for pair, row in zip(pairs, chosen.scorer(pack(data, pairs)), strict=True)
        }
        sums = torch.stack([parts[pair] for pair in range(len(data))])
        torch.testing.assert_close(sums, expected, atol=5e-5, rtol=1e-5)
        found.append(gradients(model, sums.mean()))
    for other in found[1:]:
        for weight, gradient in found[0].items():
            torch.testing.assert_close(other[weight], gradient, atol=5e-5, rtol=1e-4)
    with pytest.raises(RunError, match="cannot take packed pairs: its log-probs depend on the longest"):
        choose_scorer(model, pack(data, [5]), packing="on", bf16=False, extremes=together)


@pytest.mark.parametrize("name", MODELS)
def test_data_within_the_original_length_is_packed(name):
    kind, config = MODELS[name]
    data = random_pairs([(5, 4, 7), (20, 12, 9), (7, 1, 2)])
    batch = pack(data, range(3))
    chosen = choose_scorer(build(kind, **config), batch, packing="on", bf16=False)
    torch.testing.assert_close(chosen.scorer(batch).detach(), own_sums(name, data), atol=5e-5, rtol=1e-5)


def test_other_types_of_scaling_do_not_depend_on_the_length():
    for rope_type, more in {
        "linear": {},
        "yarn": {"original_max_position_embeddings": LIMIT},
        "llama3": {
            "original_max_position_embeddings": LIMIT,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    }.items():
        scaling = {"rope_type": rope_type, "rope_theta": 100.0, "factor": 4.0, **more}
        model = build("llama", rope_parameters=scaling)
        assert not length_rules(model, 10**6)
        data = random_pairs(SIZES)
        got = choose_scorer(model, pack(data, [0, 1, 2]), packing="on", bf16=False).scorer(
            pack(data, range(6))
        )
        torch.testing.assert_close(got, own_log_prob_sums(model, data), atol=5e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("longrope")
    kind, config = MODELS["longrope"]
    return project(folder, adapter=True, kind=kind, **config)


def test_a_run_is_the_same_for_any_micro_batch_and_reference(recipe, tmp_path):
    results = []
    for tokens in (1, 100_000):
        for when in ("live", "precomputed"):
            reporter, into = Recording(), tmp_path / f"{tokens}-{when}"
            cut = [
                f"training.tokens_per_microbatch={tokens}",
                f'reference.when="{when}"',
                "optimizer.lr=1e-2",
            ]
            run(recipe, *cut, into=into, reporter=reporter)
            told = [text for text in reporter.warnings if "longrope, beyond 32 tokens" in text]
            assert len(told) == 1
            evaluated = [record["logps/chosen"] for record in records(into, "eval")]
            results.append([*losses(into), *evaluated])
    assert results[0][0] != results[0][-1]
    for other in results[1:]:
        assert other == pytest.approx(results[0], abs=1e-5, rel=1e-6)


def test_a_plan_has_such_a_model_padded(recipe):
    data_of = {}
    for length in (LIMIT, 96):
        loaded = load_recipe(recipe, [f"data.max_length={length}"])
        data = prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter())
        data_of[length] = make_plan(loaded, data).packed
    assert data_of == {LIMIT: True, 96: False}


class ByCall(LlamaRotaryEmbedding):
    """What a model's own code may do: frequencies by the longest position, in no way that transformers knows."""

    keeps = False

    def forward(self, x, position_ids):
        longest = max(int(position_ids.max()) + 1, getattr(self, "seen", 0))
        if self.keeps:
            self.seen = longest
        cos, sin = super().forward(x, position_ids * (0.5 if longest > LIMIT else 1.0))
        return cos, sin


class Keeping(ByCall):
    keeps = True


def own_code(rotary: type[nn.Module]) -> LlamaForCausalLM:
    class OwnModel(LlamaForCausalLM):
        pass

    model = OwnModel(tiny_model("llama").config)
    model.load_state_dict(tiny_model("llama").state_dict())
    assert isinstance(model.model, LlamaModel)
    model.model.rotary_emb = rotary(model.config)
    return model


def test_what_a_models_own_code_does_with_the_length_is_found_by_comparing():
    data = random_pairs(SIZES)
    model = own_code(ByCall)
    expected = own_log_prob_sums(model, data)
    short, all_pairs = pack(data, [5, 0]), pack(data, range(6))
    # The shortest pairs alone do not show it.
    assert choose_scorer(own_code(ByCall), short, packing="auto", bf16=False).reason == ""
    for packing in ("auto", "off"):
        chosen = choose_scorer(model, short, packing=packing, bf16=False, extremes=pack(data, [5, 1]))
        assert "found by comparing" in chosen.reason
        torch.testing.assert_close(chosen.scorer(all_pairs), expected, atol=5e-5, rtol=1e-5)


def test_own_code_that_depends_on_nothing_is_packed():
    data = random_pairs(SIZES)
    model = own_code(LlamaRotaryEmbedding)
    chosen = choose_scorer(model, pack(data, [5]), packing="auto", bf16=False, extremes=pack(data, [5, 1]))
    assert chosen.reason == ""


def test_a_model_that_keeps_the_longest_length_is_refused():
    data = random_pairs(SIZES)
    with pytest.raises(RunError, match="depend on longer ones computed before"):
        choose_scorer(
            own_code(Keeping), pack(data, [5]), packing="auto", bf16=False, extremes=pack(data, [5, 1])
        )
