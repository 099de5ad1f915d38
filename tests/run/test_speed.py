"""The predicted time of a run: operations counted as torch counts them, reference passes when they are computed."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.batches.packing import pack
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.memory.model_size import count
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.plugin.api import InPlaceAdapter
from dpotrain.run import speed
from dpotrain.run.planning.plan import make_plan
from dpotrain.run.speed import ModelWork, Workload
from dpotrain_plugins.layers import Layers
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.run.recipes import project
from tests.support import tiny_model


def test_a_model_without_attention_is_counted():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=2))
    assert not hasattr(model.config, "num_attention_heads")
    work = ModelWork.of(model, count(model), in_place=True)
    assert work.attention == 0 < work.layers


ADAPTERS = {
    "full": AllWeights(AllWeights.Options()),
    "lora": Lora(Lora.Options(rank=4)),
    "the last layer": Layers(Layers.Options(last=1)),
    "the head": Layers(Layers.Options(match=["lm_head.*"])),
}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_operations_are_those_that_torch_counts(adapter):
    """Few tokens in a wide model: attention, of which torch counts what is masked, too, is next to nothing."""
    policy = adapter.attach(tiny_model("llama", hidden_size=256, intermediate_size=512).train())
    data = random_pairs([(3, 9, 5), (2, 4, 8)])
    load = Workload.of(data, padded=False)
    work = ModelWork.of(policy, count(policy), in_place=isinstance(adapter, InPlaceAdapter))
    scorer = PackedScorer(policy, LogitTransform(), False)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        scorer(pack(data, np.arange(2)))
    with FlopCounterMode(display=False) as both:
        scorer(pack(data, np.arange(2))).sum().backward()
    assert work.forward(load) == pytest.approx(forward.get_total_flops(), rel=0.05)
    predicted = work.training(load, reference_passes=0, recomputed=0.0)
    # With an adapter, autograd skips the gradient of the first layer's input, which counts in a model of two.
    assert predicted == pytest.approx(both.get_total_flops(), rel=0.1)


def test_the_rate_of_products_is_measured_on_random_numbers_and_leaves_the_generator_alone(monkeypatch):
    """Products of equal numbers take a GPU less power, and so less time."""
    seen = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda left, right: seen.append((left, right)) or product(left, right)
    )
    before = torch.get_rng_state()
    assert speed.product_rate(torch.device("cpu"), torch.float32) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert min(len(each.unique()) for each in seen[0]) > 10_000
    assert not seen[0][0].equal(seen[0][1])


def test_the_reference_takes_its_time_in_every_step_or_once_before(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "product_rate", lambda device, dtype: 1e9)
    path = project(tmp_path, adapter=True)
    data = None

    def seconds(when: str, epochs: int) -> float:
        nonlocal data
        recipe = load_recipe(path, [f"reference.when={when!r}", f"training.epochs={epochs}"])
        data = data or prepare_data(recipe, recipe.model.load_tokenizer(), SilentReporter())
        duration = make_plan(recipe, data).duration
        return duration.training + duration.reference

    live, stored = (seconds(when, 2) for when in ("live", "precomputed"))
    assert live == pytest.approx(2 * seconds("live", 1))
    assert seconds("precomputed", 1) == pytest.approx(seconds("auto", 1)) == pytest.approx(live / 2)
    assert stored == pytest.approx(seconds("auto", 2))
    assert stored < live
