"""How a run is spread over devices, planned from configurations of known shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.memory.activations import estimate
from dpotrain.run.planning import description, target
from dpotrain.run.planning.devices import Asked
from dpotrain.run.planning.plan import Plan, make_plan
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.run.recipes import project

GB = 2**30
#: Shapes of Llama 3.1 8B, Llama 3.2 1B and Llama 3.1 70B.
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
    | {"num_key_value_heads": 8, "vocab_size": 128256},
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    }
    | {"num_key_value_heads": 8, "vocab_size": 128256},
}


@pytest.fixture
def shape(monkeypatch):
    """Has recipes describe a model of that shape, in float32; its activations are estimated."""

    def of(name: str) -> None:
        config = LlamaConfig(**SHAPES[name], max_position_embeddings=8192)

        def blueprint(self, request):
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(
                    config, dtype=getattr(torch, self.options.dtype)
                ).train()

        monkeypatch.setattr(TransformersLoader, "blueprint", blueprint)

    monkeypatch.setattr(
        description, "activations_from_shapes", lambda policy, one, two, bf16: (estimate(policy, bf16), True)
    )
    return of


def planned(recipe, devices: int, gigabytes: float, *overrides: str, **asked: Any) -> Plan:
    loaded = load_recipe(recipe, ["training.precision=bf16", "training.pairs_per_step=64", *overrides])
    data = prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter())
    return make_plan(loaded, data, int(gigabytes * GB), asked=Asked(devices, **asked))


def test_1b_fits_one_gpu_of_80_gb_and_stays_replicated_on_eight(shape, tmp_path):
    shape("1b")
    recipe = project(tmp_path)
    assert planned(recipe, 1, 80).fits
    plan = planned(recipe, 8, 80)
    assert plan.fits
    assert plan.devices.layout == "replicated"
    assert "weights are replicated" in plan.devices.reason
    assert "gathered weights" not in plan.parts
    assert plan.gathered == 0


def test_8b_in_full_is_sharded_over_eight_gpus_of_80_gb(shape, tmp_path):
    shape("8b")
    recipe = project(tmp_path)
    assert not planned(recipe, 1, 80).fits
    plan = planned(recipe, 8, 80)
    assert plan.fits
    assert plan.devices.layout == "sharded over all 8"
    assert plan.devices.reason.startswith("weights are sharded over all devices: replicated they take 1")
    # 8.03 billion numbers in float32, and their gradients and moments, but for norms by an eighth each.
    assert plan.parameters == 8_030_261_248
    for part, times in (("weights", 1), ("gradients", 1), ("optimizer", 2)):
        assert plan.parts[part] == pytest.approx(times * 4 * plan.parameters / 8, rel=1e-3)
    assert sum(plan.parts.values()) == plan.needed
    # Weights and moments, whole.
    assert plan.gathered == pytest.approx(12 * plan.parameters, rel=1e-6)
    # Embedding and head in float32, and three layers in bfloat16, of one its gradients.
    assert plan.parts["gathered weights"] == pytest.approx(
        2 * 2.1e9 + 3 * 0.436e9 + 0.436e9 + 0.87e9, rel=0.01
    )
    ways = {way.layout: way for way in plan.devices.ways}
    assert next(iter(ways)) == "sharded over all 8"
    assert [way.chosen for way in ways.values()].count(True) == 1
    assert not ways["replicated"].fits
    assert ways["sharded over groups of 4"].needed > plan.needed
    # Half the tokens, about twice the longest pair; queries and keys are sent for it.
    spread = ways["sharded over all 8, context of 2"]
    assert spread.longest_pair == pytest.approx(2 * ways["sharded over all 8"].longest_pair, rel=0.01)
    assert spread.exchange.attention > 0
    assert ways["sharded over all 8, shards in the host's memory"].on_host > 0.9 * 16 * plan.parameters / 8
    assert ways["sharded over all 8"].overrides == ("parallel.shard=all",)


def test_where_even_shards_do_not_fit_the_host_holds_them_or_more_devices_do(shape, tmp_path, monkeypatch):
    shape("70b")
    recipe = project(tmp_path)
    plan = planned(recipe, 8, 80)
    assert not plan.fits
    assert plan.devices.reason.endswith("which is too much, too")
    assert [way.layout for way in plan.devices.ways if way.fits] == [
        "sharded over all 8, shards in the host's memory"
    ]
    assert plan.devices.fewest is None, "that it fits is enough"
    # For each of eight processes 16 bytes of each of 8.8 billion numbers, and 12 of all of them in the main one.
    gpu = replace(target.target_of(80 * GB), host=120e9)
    monkeypatch.setattr("dpotrain.run.planning.plan.target_of", lambda memory, devices=1: gpu)
    plan = planned(recipe, 8, 80)
    assert not any(way.fits for way in plan.devices.ways)
    assert plan.devices.fewest == 32


def test_what_is_sent_costs_time_by_the_rate_of_the_links(shape, tmp_path):
    shape("8b")
    recipe = project(tmp_path)
    fast, slow = (planned(recipe, 8, 80, link=link, operations=4e14) for link in (3e11, 1e9))
    assert fast.tokens_per_second > 2 * slow.tokens_per_second
    assert (fast.speed_from, fast.operations) == ("given", 4e14)
    assert planned(recipe, 8, 80).speed_from == "assumed"
    assert planned(recipe, 1, 80, operations=4e14).speed_from == "given"
    assert planned(recipe, 1, 80).tokens_per_second is None


def test_processes_on_a_cpu_share_its_memory_and_its_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(target, "free_memory", lambda device: 10 * GB)
    monkeypatch.setattr(target, "resident_memory", lambda: 2 * GB)
    monkeypatch.setattr("dpotrain.run.planning.plan.sustained_rate", lambda device, precision: 8e9)
    recipe = load_recipe(project(tmp_path))
    data = prepare_data(recipe, recipe.model.load_tokenizer(), SilentReporter())
    one, four = (make_plan(recipe, data, asked=Asked(devices)) for devices in (1, 4))
    assert (one.memory, one.operations) == (12 * GB, 8e9)
    assert (four.memory, four.operations, four.devices.machine) == (3 * GB, 2e9, 4)
    assert "checkpoint in the main process" not in four.parts
    recipe = load_recipe(tmp_path / "recipe.toml", ["parallel.shard=all", "checkpoints.every=1"])
    four = make_plan(recipe, data, asked=Asked(4))
    assert four.parts["checkpoint in the main process"] == four.gathered
    assert four.gathered == pytest.approx(12 * four.parameters, rel=1e-2)
    assert "copy of a checkpoint" not in four.parts


def test_a_layout_is_named_by_what_the_recipe_does_not_say_already(shape, tmp_path):
    shape("1b")
    recipe = project(tmp_path)
    given = ["parallel.shard=all", "parallel.group=4", "parallel.offload=cpu", "parallel.context=2"]
    ways = planned(recipe, 8, 80, *given).devices.ways
    assert {way.layout: way.overrides for way in ways} == {
        "sharded over groups of 4, context of 2, shards in the host's memory": ("parallel.shard=all",),
        "replicated, context of 2": (
            "parallel.shard=none",
            "parallel.group=false",
            "parallel.offload=false",
        ),
        "sharded over groups of 4, context of 2": ("parallel.shard=all", "parallel.offload=false"),
        "sharded over all 8, context of 2": (
            "parallel.shard=all",
            "parallel.group=8",
            "parallel.offload=false",
        ),
        "sharded over all 8, context of 2, shards in the host's memory": (
            "parallel.shard=all",
            "parallel.group=8",
        ),
        "replicated, context of 4": (
            "parallel.shard=none",
            "parallel.group=false",
            "parallel.context=4",
            "parallel.offload=false",
        ),
        "sharded over all 8, context of 4": (
            "parallel.shard=all",
            "parallel.group=8",
            "parallel.context=4",
            "parallel.offload=false",
        ),
    }
    for way in ways:
        assert load_recipe(recipe, [*given, *way.overrides]), "each can be given"


def test_what_does_not_fit_has_no_time_and_no_change_fits_but_one_that_the_host_has_room_for(
    shape, tmp_path, monkeypatch
):
    shape("8b")
    recipe = project(tmp_path)
    assert planned(recipe, 8, 80, operations=4e14).seconds is not None
    assert planned(recipe, 8, 8, operations=4e14).seconds is None
    loaded = load_recipe(recipe, ["training.precision=bf16", "parallel.shard=all", "parallel.offload=cpu"])
    data = prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter())
    # 16 bytes a number over eight processes, and 12 in the main one.
    for host, fits in (
        (16.0 * 8.1 / 8 + 12 * 8.1 / 8, True),
        (16 * 8.1 / 8 + 6 * 8.1 / 8, False),
        (8, False),
    ):
        host *= 1e9
        gpu = replace(target.target_of(80 * GB), host=host)
        monkeypatch.setattr("dpotrain.run.planning.plan.target_of", lambda memory, devices=1, gpu=gpu: gpu)
        plan = make_plan(loaded, data, reload=lambda more: loaded, asked=Asked(8))
        assert (plan.fits, plan.gpus.as_is is not None) == (fits, fits)


def test_an_optimizer_that_needs_whole_weights_leaves_them_whole_and_says_so(shape, tmp_path):
    shape("1b")
    recipe = project(tmp_path)
    plan = planned(recipe, 8, 12, "optimizer.use=adamw-8bit")
    assert plan.devices.layout == "replicated"
    assert '"adamw-8bit" needs whole matrices' in plan.devices.reason
    assert all("sharded" not in way.layout for way in plan.devices.ways)


def test_a_reference_of_its_own_is_sharded_like_the_policy(shape, tmp_path):
    shape("1b")
    recipe = project(tmp_path)
    live = [f"reference.of={str(tmp_path / 'model')!r}", "reference.when=live"]
    plan = planned(recipe, 8, 12, *live)
    assert plan.devices.layout == "sharded over all 8"
    assert plan.parts["reference model"] == pytest.approx(plan.parts["weights"], rel=1e-3)


def test_quantized_weights_are_sharded_where_all_of_them_fit_while_they_load(shape, tmp_path):
    shape("70b")
    recipe = project(tmp_path, adapter=True)
    few = ["quantizer.use=bnb-4bit", "model.dtype=bfloat16"]
    plan = planned(recipe, 8, 38, *few)
    assert plan.devices.layout == "sharded over all 8"
    assert plan.fits
    # Embedding and head in bfloat16 and layers in 4 bits by an eighth each; scales and the adapter whole.
    layers = 68.5e9
    codes, scales = layers / 2, layers * 0.127 / 8
    assert plan.parts["weights"] == pytest.approx((codes + 4.2e9) / 8 + scales, rel=0.05)
    assert plan.needed == pytest.approx(codes + 4.2e9 + scales, rel=0.05)
    assert "whole weights while they load" in plan.parts
    assert not planned(recipe, 8, 24, *few).fits
