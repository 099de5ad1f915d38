"""Where a step's time goes, and which of the machine's limits holds: arithmetic, and a real step in the profiler."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.benchmarks.flops import ModelShape
from tests.benchmarks.groups import GROUPS, RANGE, operator_group, seconds_by_group
from tests.benchmarks.phases import PARTS, watching
from tests.benchmarks.roofline import Machine, of_result, roofline, shares_of_groups, work_of_step
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build
from tests.engine.test_trainer import SIZES, trainer_of

SHAPE = ModelShape(
    linear=100,
    adapter=10,
    head=50,
    attention=8,
    trained=False,
    inputs=12,
    outputs=16,
    hidden=5,
    trained_weights=10,
)
SIZES_OF_STEP = {"tokens": 20, "attended": 90, "scored": 6}


def test_least_bytes_of_a_step():
    work = work_of_step(SHAPE, SIZES_OF_STEP, microbatches=3, weight_bytes=2, compute_bytes=4)
    weights, once = 3 * 2 * (100 + 50), 4 * (20 * 28 + 6 * 5)
    assert work["reference"]["bytes"] == weights + once
    assert work["forward"]["bytes"] == weights + 3 * 4 * 10 + once
    # The head is frozen: its gradient is formed in the forward pass. Inputs are read again for LoRA's gradients.
    assert work["backward"]["bytes"] == 3 * 2 * 100 + 3 * 4 * 10 + 4 * (20 * 40 + 6 * 5) + 3 * 4 * 10
    assert work["optimizer"] == {"flops": 0.0, "bytes": 28 * 10}
    assert work["backward"]["flops"] == sum(SHAPE.parts(**SIZES_OF_STEP)["backward"].values())


def test_gradients_and_moments_have_the_size_of_the_weights_that_are_trained():
    full = replace(SHAPE, trained=True, adapter=0, trained_weights=150)
    narrow, wide = (work_of_step(full, SIZES_OF_STEP, 1, weight_bytes, 4) for weight_bytes in (2, 4))
    assert (narrow["optimizer"]["bytes"], wide["optimizer"]["bytes"]) == (14 * 150, 28 * 150)
    # Weights are read, and their gradients written.
    assert wide["backward"]["bytes"] - narrow["backward"]["bytes"] == 2 * 2 * 150


def test_the_limit_is_the_one_that_takes_longer():
    work = {"forward": {"flops": 100.0, "bytes": 10.0}, "optimizer": {"flops": 0.0, "bytes": 40.0}}
    forward, optimizer = roofline(work, {"forward": 4.0, "optimizer": 8.0}, Machine(flops=50.0, bytes=10.0))
    assert forward["limit"] == "products"
    assert forward["least_seconds"] == 2.0
    assert forward["share_of_matrix_product_rate"] == 0.5
    assert forward["share_of_memory_rate"] == 0.25
    assert (optimizer["limit"], optimizer["least_seconds"]) == ("memory", 4.0)


def test_a_stored_reference_has_no_row():
    facts = {
        "epoch": SIZES_OF_STEP,
        "shape": vars(SHAPE),
        "matrix_product_flops_per_second": 1e9,
        "memory_bytes_per_second": 1e9,
    }
    result = {"calls": {"forward": 3}, "phases": dict.fromkeys(PARTS, 1.0), "live_reference": False}
    work = {"weights": "bfloat16", "precision": "bf16"}
    rows = of_result(work, facts, result, steps=2)
    assert [row["part"] for row in rows] == ["forward", "backward", "optimizer"]
    half = {name: count / 2 for name, count in SIZES_OF_STEP.items()}
    assert rows[0]["flops"] == sum(SHAPE.parts(**half)["forward"].values())
    assert len(of_result(work, facts, {**result, "live_reference": True}, steps=2)) == 4


def test_products_and_attention_have_shares_of_the_rate():
    facts = {
        "pairs": [{}] * 5,
        "epoch": SIZES_OF_STEP,
        "shape": vars(SHAPE),
        "matrix_product_flops_per_second": 1000.0,
    }
    groups = {"forward": {"products": 1.0, "attention": 0.5}, "backward": {"products": 1.0, "attention": 0.0}}
    # The last of three steps has one of the five pairs.
    parts = SHAPE.parts(**{name: count / 5 for name, count in SIZES_OF_STEP.items()})
    result = {"groups": groups, "live_reference": False}
    shares = shares_of_groups({"pairs_per_step": 2}, facts, result)
    of_both = [parts["forward"], parts["backward"]]
    assert shares["products"] == pytest.approx(
        sum(each["linear"] + each["head"] for each in of_both) / 2 / 1000
    )
    assert shares["attention"] == pytest.approx(sum(each["attention"] for each in of_both) / 0.5 / 1000)
    live = shares_of_groups({"pairs_per_step": 2}, facts, {**result, "live_reference": True})
    assert live["products"] > shares["products"]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::addmm_", "products"),
        ("aten::bmm", "products"),
        ("aten::mkldnn_rnn_layer_linear", "products"),
        ("aten::copy_", "copies"),
        ("aten::_to_copy", "copies"),
        ("aten::index_select", "copies"),
        ("aten::_softmax", "elementwise"),
        ("aten::mul_", "elementwise"),
        ("autograd::engine::evaluate_function: MmBackward0", None),
        ("MmBackward0", None),
        (f"{RANGE}forward", None),
    ],
)
def test_an_operator_has_a_group(name, group):
    assert operator_group(name) == group


def event(name, own, parent=None, number=-1):
    return SimpleNamespace(name=name, own=own, cpu_parent=parent, sequence_nr=number)


def test_attention_keeps_its_backward_and_nothing_else_s():
    step = event(f"{RANGE}step", 1)
    forward = event(f"{RANGE}forward", 2, step)
    attention = event(f"{RANGE}attention", 4, forward)
    function = event("_Attention", 8, attention, number=7)
    # Without gradients of its own it carries the number of the next node.
    inside = event("aten::bmm", 16, function, number=8)
    after = event("aten::mm", 32, forward, number=8)
    backward = event(f"{RANGE}backward", 64, step)
    engine = "autograd::engine::evaluate_function: "
    of_product = event(f"{engine}MmBackward0", 128, backward, number=8)
    of_attention = event(f"{engine}_AttentionBackward", 256, backward, number=7)
    deep = event("aten::mul", 512, of_attention)
    elsewhere = event(f"{engine}MulBackward0", 1024)
    events = [
        *(step, forward, attention, function, inside, after, backward),
        *(of_product, of_attention, deep, elsewhere),
    ]
    found = seconds_by_group(events, PARTS, lambda each: each.own)
    assert found["forward"]["attention"] == 4 + 8 + 16
    assert found["forward"]["products"] == 32
    assert found["forward"]["the rest"] == 2
    assert found["backward"]["attention"] == 256 + 512
    assert found["backward"]["the rest"] == 64 + 128 + 1024
    assert found["rest"]["the rest"] == 1
    assert sum(sum(groups.values()) for groups in found.values()) == sum(each.own for each in events)


def test_a_real_step_is_profiled():
    trainer_of(build("llama"), random_pairs(SIZES))  # segment attention is registered once in a process
    with watching() as phases:
        trainer = trainer_of(build("llama"), random_pairs(SIZES))
        steps = len(list(trainer.steps()))
    assert set(phases.groups) == {*PARTS, "rest"}
    for part in ("forward", "backward"):
        assert list(phases.groups[part]) == list(GROUPS)
        assert all(seconds > 0 for seconds in phases.groups[part].values())
    assert phases.groups["optimizer"]["attention"] == 0
    assert len(phases.steps) == steps
    assert phases.calls_per_step()["forward"] >= 1
