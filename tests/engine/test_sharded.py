"""Weights sharded over processes: the steps of one process, in a part of its memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.engine.sharding import sharded_model
from dpotrain.engine.sharding.sharded_model import Root, settings_of
from dpotrain_plugins.lora import Lora
from tests.engine.sharding import in_four_bits, steps
from tests.engine.test_packed_equals_unpacked import build
from tests.torchrun import torchrun

soak = pytest.mark.soak

#: By what is different from the first.
WAYS: dict[str, dict[str, Any]] = {
    "all weights, stored reference": {},
    "all weights, live reference": {"reference": "live"},
    "lora, live reference": {"adapter": "lora", "reference": "live"},
    "tied embeddings": {"model": {"tie_word_embeddings": True}},
    "tied embeddings, live reference": {"model": {"tie_word_embeddings": True}, "reference": "live"},
    "moving reference": {"reference": "moving"},
    "lora, stored reference": {"adapter": "lora"},
    "lora, moving reference": {"adapter": "lora", "reference": "moving"},
    "the last layer": {"adapter": "layers", "reference": "live"},
    "one pair a micro-batch": {"budget": 1},
    "one micro-batch": {"budget": 1000},
    "checkpointing": {"checkpointed": 1, "reference": "live"},
    "lora, checkpointing": {"checkpointed": 2, "adapter": "lora"},
    "inputs on the host": {"checkpointed": 2, "on_host": True},
    "tiles": {"checkpointed": 2, "tiles": 7},
    "a coupled loss": {"loss": "coupled", "reference": "live"},
    "lora, a coupled loss": {"loss": "coupled", "adapter": "lora"},
    "a mixture": {"kind": "qwen3_moe"},
    "a mixture, live reference": {"kind": "mixtral", "reference": "live"},
    "lora on a mixture": {"kind": "qwen3_moe", "adapter": "lora", "reference": "live"},
    "padded": {"kind": "gpt_oss"},
    "positions in a table": {"kind": "gpt2"},
    "windows": {"kind": "gemma2"},
    "recurrent": {"kind": "jamba"},
    "lion": {"optimizer": "lion"},
    "4 bits": {"adapter": "lora", "reference": "live", "four_bits": "uint8"},
    "4 bits, checkpointing": {"adapter": "lora", "four_bits": "uint8", "checkpointed": 2},
    "4 bits in float32": {"adapter": "lora", "four_bits": "float32"},
    "4 bits, dora": {"adapter": "dora", "reference": "live", "four_bits": "uint8"},
}
#: Those that differ in what processes exchange, or in when.
EXCHANGES = [
    "all weights, stored reference",
    "tied embeddings, live reference",
    "moving reference",
    "lora, live reference",
    "one pair a micro-batch",
    "checkpointing",
    "a coupled loss",
    "a mixture",
    "4 bits",
]
QUICK = ["all weights, stored reference", "tied embeddings, live reference", "lora, live reference", "4 bits"]
OFFLOADED = ["all weights, live reference", "lora, live reference"]
#: A quantized weight that the second process has with another byte than the first.
DAMAGED = "base_model.model.model.layers.1.mlp.up_proj.base_layer.weight"


def launched(cases: list[dict[str, Any]], processes: int, out: Path) -> list[list[dict[str, Any]]]:
    """Return what each process found of each case."""
    torchrun(processes, "tests.engine.sharding", json.dumps(cases), str(out), timeout=1800)
    return json.loads(out.read_text(encoding="utf-8"))


def alone(case: dict[str, Any]) -> dict[str, Any]:
    return steps(OneProcess(torch.device("cpu")), **case)


def check_same(found: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for each in found:
        assert each["packs"] == expected["packs"]
        assert len(each["loss"]) == len(expected["loss"]) == 6
        assert each["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert each["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
        for name, weight in expected["weights"].items():
            if name.endswith("attn.c_attn.bias"):  # keys need no bias: its gradient is rounding
                continue
            torch.testing.assert_close(
                torch.tensor(each["weights"][name]), torch.tensor(weight), atol=1e-4, rtol=0, msg=name
            )


@pytest.fixture(scope="module")
def over_two(tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """What two processes found of the quick ways, and of the first again, when libraries have what they keep.

    And of 4-bit weights that they do not have the same.
    """
    cases = [{"shards": 2, **WAYS[way]} for way in [*QUICK, QUICK[0]]]
    cases += [{"shards": 2, "offload": True, **WAYS[way]} for way in OFFLOADED]
    cases.append({"shards": 2, **WAYS["4 bits"], "damage": DAMAGED})
    found = launched(cases, 2, tmp_path_factory.mktemp("two") / "out.json")
    names = [*QUICK, "again", *(f"{way}, offloaded" for way in OFFLOADED), "damaged"]
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("way", QUICK)
def test_the_steps_are_those_of_one_process(way, over_two):
    check_same(over_two[way], alone(WAYS[way]))


@pytest.mark.parametrize("way", OFFLOADED)
def test_shards_that_torch_offloads_take_the_same_steps(way, over_two):
    check_same(over_two[f"{way}, offloaded"], alone(WAYS[way]))


class _Given(Exception):
    """Ends a test once torch was asked to shard."""


@pytest.mark.parametrize(("offload", "policy"), [(False, OffloadPolicy), (True, CPUOffloadPolicy)])
def test_torch_is_told_whether_shards_are_in_the_host_s_memory(offload, policy, monkeypatch):
    def given(unit, *, offload_policy, **options):
        raise _Given(type(offload_policy))

    monkeypatch.setattr(sharded_model, "fully_shard", given)
    model = build("llama")
    with pytest.raises(_Given) as found:
        sharded_model.shard_model(
            model, decoder_layers(model), None, bf16=False, in_place=True, offload=offload
        )
    assert found.value.args == (policy,)


def test_weights_gradients_and_optimizer_are_sharded_and_nothing_keeps_the_whole(over_two):
    (own, _), one = over_two["again"], alone({})
    check_sharded(own["bytes"], one["bytes"], 2)


def test_the_codes_of_quantized_weights_are_sharded_and_nothing_keeps_the_whole(over_two):
    found = alone(WAYS["4 bits"])
    one = found["bytes"]
    scales = one["alive codes"] - one["codes"]
    assert 0 < scales < 0.04 * one["codes"]
    for each in over_two["4 bits"]:
        assert each["bytes"]["codes"] == one["codes"] / 2 > 0
        assert each["bytes"]["alive codes"] == each["bytes"]["codes"] + scales
        assert each["parameters"] == found["parameters"]
        assert each["layers"] == found["layers"] == ["FusedLinear4bit"]


def test_quantized_weights_that_do_not_come_back_as_they_were_are_refused(over_two):
    for each in over_two["damaged"]:
        assert (
            f"sharded over processes, quantized weights do not come back as they were ({DAMAGED}, on process 1)"
            in each["ended"]
        )
        assert """--set 'parallel.shard="none"'""" in each["ended"]


def check_sharded(own: dict[str, int], one: dict[str, int], shards: int) -> None:
    for part in ("weights", "gradients", "optimizer"):
        # Norms are whole; matrices of a tiny model may leave a row over.
        assert own[part] <= 1.05 * one[part] / shards, part
        assert own[part] >= 0.95 * one[part] / shards, part
    beside = one["alive"] - one["weights"] - one["optimizer"]
    assert own["alive"] - beside <= 1.1 * (own["weights"] + own["optimizer"]), own


@soak
@pytest.mark.parametrize(
    ("processes", "shards", "ways"),
    [(2, 2, list(WAYS)), (4, 2, EXCHANGES), (4, 4, [*QUICK, "one pair a micro-batch"])],
    ids=["2 shards", "2x2", "4 shards"],
)
def test_every_way_of_training_gives_the_steps_of_one_process(processes, shards, ways, tmp_path):
    cases = [{"shards": shards, **WAYS[way]} for way in ways]
    found = launched(cases, processes, tmp_path / "out.json")
    failed = []
    for way, each in zip(ways, found, strict=True):
        try:
            check_same(each, alone(WAYS[way]))
        except AssertionError as error:
            failed.append(f"{way}: {error}")
    assert not failed, "\n".join(failed)


@soak
def test_compiled_layers_that_are_sharded_give_the_steps_of_one_process(tmp_path):
    """By a backend that traces forward and backward graphs, and has no compiler behind it."""
    (found,) = launched([{"shards": 2, "compiled": "aot_eager"}], 2, tmp_path / "out.json")
    check_same(found, alone({}))


@soak
@pytest.mark.parametrize("processes", [2, 4])
def test_memory_goes_down_with_the_number_of_shards(processes, tmp_path):
    model = {"hidden_size": 64, "intermediate_size": 128}
    _, (own, *_) = launched([{"shards": processes, "model": model}] * 2, processes, tmp_path / "out.json")
    check_sharded(own["bytes"], alone({"model": model})["bytes"], processes)


@soak
def test_an_interruption_of_one_process_is_agreed_upon_before_the_next_micro_batch(tmp_path):
    case = {"shards": 2, "budget": 1, "stop_on": 3}
    ((first, second),) = launched([case], 2, tmp_path / "out.json")
    assert (first["ended"], second["ended"]) == ("interrupted", "interrupted")
    assert first["weights"] == second["weights"]


def sharded_and_settings(model, *, in_place=True, bf16=False):
    """Return the names of the weights that are sharded, and the precision of each layer and of what is outside."""
    whole, settings = settings_of([*decoder_layers(causal_lm(model)), Root(model)], bf16, in_place)
    sharded = {name for name, weight in model.named_parameters() if weight not in whole}
    return sharded, [precision for precision, _ in settings]


def test_matrices_are_sharded_and_vectors_stay_whole():
    model = build("qwen3_moe")
    sharded, _ = sharded_and_settings(model)
    assert sharded == {name for name, weight in model.named_parameters() if weight.ndim >= 2}
    assert any("experts" in name for name in sharded)
    assert len(sharded) < len(list(model.parameters()))


def test_of_a_model_with_an_adapter_the_frozen_matrices_are_sharded():
    model = Lora(Lora.Options(rank=4)).attach(build("llama"))
    sharded, _ = sharded_and_settings(model, in_place=False)
    assert sharded
    assert not any("lora_" in name for name in sharded)


@pytest.mark.parametrize(
    ("kind", "options", "low"),
    [("llama", None, True), ("llama", {}, True), ("llama", {"dora": True}, False), ("mixtral", None, False)],
    ids=["linear layers", "lora", "dora", "experts"],
)
def test_layers_are_gathered_in_bfloat16_where_autocast_rounds_all_of_their_matrices(kind, options, low):
    model = build(kind)
    if options is not None:
        model = Lora(Lora.Options(rank=4, **options)).attach(model)
    _, precisions = sharded_and_settings(model, in_place=options is None, bf16=True)
    assert [each.param_dtype for each in precisions] == [torch.bfloat16 if low else None] * 2 + [None]
    assert all(each.reduce_dtype == torch.float32 for each in precisions)
    assert not any(each.cast_forward_inputs for each in precisions)


@pytest.mark.parametrize("storage", ["uint8", "bfloat16", "float32"])
def test_no_cast_touches_quantized_weights(storage):
    model = build("llama")
    in_four_bits(model, storage)
    sharded, precisions = sharded_and_settings(model, in_place=False, bf16=True)
    assert "model.layers.0.mlp.up_proj.weight" in sharded
    assert all(each.param_dtype is None for each in precisions)


def test_weights_that_several_layers_share_and_trained_ones_of_another_dtype_stay_whole():
    model = build("llama")
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    first.mlp.down_proj.weight.data = first.mlp.down_proj.weight.data.double()
    sharded, _ = sharded_and_settings(model)
    layer = "model.layers.0.mlp"
    assert f"{layer}.gate_proj.weight" in sharded
    assert f"{layer}.up_proj.weight" not in sharded
    assert f"{layer}.down_proj.weight" not in sharded
