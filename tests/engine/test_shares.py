"""What a rank holds and sends, by formula, against torch's ``fully_shard`` on a rank of a group that sends nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from dpotrain.core.errors import RecipeError
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.memory.activations import Activations, Kept
from dpotrain.engine.memory.exchange import AttentionSize, Beside, Exchange, Links, StepWork, exchange_of
from dpotrain.engine.memory.layout import ONE_DEVICE, Layout
from dpotrain.engine.memory.model_size import count, trained_bytes
from dpotrain.engine.memory.shares import Share, matrices_of
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain_plugins.layers import Layers
from dpotrain_plugins.lora import Lora
from tests.support import tiny_model

WORK = StepWork(
    microbatches=1,
    tokens=1000,
    passes=0,
    reached=1.0,
    recomputed=0.0,
    attention=AttentionSize(layers=2, heads=4, groups=2, width=8, bytes_each=4),
)


ADAPTERS = {
    "full": AllWeights(AllWeights.Options()),
    "lora": Lora(Lora.Options(rank=4)),
    "last layer": Layers(Layers.Options(last=1)),
}


def policy(adapter: str = "full", **config: Any):
    return ADAPTERS[adapter].attach(tiny_model("llama", **config).train())


def share(model, layout: Layout = ONE_DEVICE, adapter: str = "full", bf16: bool = False) -> Share:
    return Share(count(model), matrices_of(model, in_place=adapter != "lora"), layout, bf16)


@contextmanager
def ranks(number: int) -> Iterator[None]:
    """Be the first of so many ranks, whose collectives take part in nothing."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=number)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


class Sent(TorchDispatchMode):
    """Counts the bytes that collectives send by a ring."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.gathered, self.scattered = number, 0.0, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        rest = (self.number - 1) / self.number
        if func.overloadpacket == torch.ops.c10d._allgather_base_:
            self.gathered += args[0].nbytes * rest
        if func.overloadpacket == torch.ops.c10d._reduce_scatter_base_:
            self.scattered += args[1].nbytes * rest
        return func(*args, **(kwargs or {}))


def sharded(model, number: int, adapter: str):
    """Shard as runs do: each layer by itself, matrices of the base alone."""
    whole = {
        each for each in model.parameters() if each.ndim < 2 or (adapter == "lora" and each.requires_grad)
    }
    mesh = init_device_mesh("cpu", (number,))
    for unit in (*decoder_layers(model), model):
        fully_shard(
            unit,
            mesh=mesh,
            mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
            reshard_after_forward=True,
            ignored_params=whole,
        )
    return model


@pytest.mark.parametrize(("adapter", "reached"), [("full", 1.0), ("lora", 1.0), ("last layer", 1 / 4)])
@pytest.mark.parametrize(("number", "more"), [(4, {}), (4, {"tie_word_embeddings": True}), (3, {}), (64, {})])
def test_a_rank_holds_and_sends_what_fully_shard_does(number, more, adapter, reached):
    model = policy(adapter, num_hidden_layers=4, **more)
    predicted = share(model, Layout(number, number), adapter)
    expected = exchange_of(predicted, replace(WORK, reached=reached))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    sent = Sent(number)
    with ranks(number):
        sharded(model, number, adapter)
        local = {
            name: weight.to_local() if hasattr(weight, "to_local") else weight
            for name, weight in model.named_parameters()
        }
        buffers = sum(each.nbytes for each in model.buffers())
        assert predicted.weights == sum(each.nbytes for each in local.values()) + buffers
        assert trained_bytes(predicted.trained) == sum(local[name].nbytes for name in trained)
        assert {each.name: each.shape for each in predicted.trained} == {
            name: tuple(local[name].shape) for name in trained
        }
        with sent:
            model(input_ids=torch.arange(9)[None]).logits.float().sum().backward()
    assert sent.gathered == pytest.approx(expected.gathered)
    assert sent.scattered == pytest.approx(expected.scattered)


def test_what_is_sharded_is_divided_by_the_ranks_and_the_rest_is_whole():
    model = policy()
    whole = share(model)
    matrices = sum(each.bytes for each in whole.matrices)
    rest = whole.weights - matrices
    assert rest > 0
    for number in (1, 2, 4):
        part = share(model, Layout(number, number))
        assert part.weights == matrices // number + rest
        assert trained_bytes(part.trained) == trained_bytes(whole.trained) - matrices + matrices // number
        of_groups = share(model, Layout(2 * number, number))
        assert (of_groups.weights, of_groups.trained) == (part.weights, part.trained)
    assert whole.gathered == whole.added_up == 0


def test_of_quantized_weights_the_codes_are_divided_and_all_of_them_are_there_while_they_load():
    model = policy("lora")
    few = {id(layer.base_layer.weight) for layer in model.modules() if hasattr(layer, "base_layer")}
    assert few
    bits = dict.fromkeys(few, 4.5)
    size, matrices = count(model, bits), matrices_of(model, bits, in_place=False)
    whole, part = (Share(size, matrices, layout, bf16=True) for layout in (ONE_DEVICE, Layout(4, 4)))
    numbers = sum(each.numbers for each in matrices if each.quantized)
    rest = sum(each.bytes for each in matrices if not each.quantized)
    # 4 bits of each are a code, and half a bit is its part of a scale.
    assert whole.weights - part.weights == (numbers // 2 + rest) * 3 // 4
    # Nothing of them is rounded to bfloat16 as it is gathered.
    assert not any(each.narrow for each in matrices)
    assert (part.loading, whole.loading) == (size.bytes, 0)
    assert share(model, Layout(4, 4), "lora").loading == 0


def test_adapters_and_norms_are_whole_on_every_rank():
    model = policy("lora")
    part = share(model, Layout(8, 8), "lora")
    assert part.trained == part.size.trained
    assert not {each.name for each in part.matrices} & {each.name for each in part.size.trained}
    assert all("norm" not in each.name for each in part.matrices)


def test_in_bfloat16_layers_are_gathered_in_half_the_bytes_and_what_is_outside_as_it_is():
    model = policy(num_hidden_layers=4)
    full, half = (share(model, Layout(4, 4), bf16=bf16) for bf16 in (False, True))
    layer = sum(each.bytes for each in full.matrices if each.layer == 0)
    outside = sum(each.bytes for each in full.matrices if each.layer is None)
    # Three layers, and of one the gradients and the float32 buffer that adds them up.
    assert full.gathered == outside + 5 * layer
    assert half.gathered == outside + 3 * layer // 2 + layer // 2 + layer
    # Whole gradients of embedding and head, and once more to be added up; those of the head are counted with it.
    head = full.size.head_bytes
    assert full.added_up == 2 * outside - head
    assert share(policy("lora"), Layout(4, 4), "lora").added_up == 0


def test_offloaded_shards_are_in_the_host_s_memory_with_their_gradients_and_moments():
    model = policy()
    there, here = (share(model, Layout(4, 4, offload=offload)) for offload in (True, False))
    assert there.weights + there.weights_on_host == here.weights
    assert {each.name for each in there.trained} | {each.name for each in there.trained_on_host} == {
        each.name for each in here.trained
    }
    assert trained_bytes(there.trained) + trained_bytes(there.trained_on_host) == trained_bytes(here.trained)
    assert all(len(each.shape) == 1 for each in there.trained)
    assert here.weights_on_host == 0
    assert here.trained_on_host == ()


def test_with_context_parallelism_a_rank_has_a_part_of_the_tokens():
    found = Activations(
        outside=Kept(10.0, 2.0),
        layers=(Kept(5.0, 8.0),) * 3,
        inputs=(Kept(0.0, 1.0),) * 3,
        temporary=Kept(0.0, 4.0),
        tiled=(4.0,) * 3,
        temporary_tiled=1.0,
    )
    spread = share(policy(), Layout(8, context=4)).activations(
        replace(found, layers=found.layers[:2], inputs=found.inputs[:2], tiled=found.tiled[:2])
    )
    alone = replace(spread, context=1)
    for layers in (0, 1, 2):
        for tile in (0, 16):
            assert spread.peak(403, layers, tile) == alone.peak(101, layers, tile)
            room = alone.peak(1000, layers, tile)
            most = spread.most_tokens(room, layers, tile)
            assert most == 4 * alone.most_tokens(room, layers, tile)
            assert spread.peak(most, layers, tile) <= room
    assert spread.on_host(403, 2) == alone.on_host(101, 2)


def test_what_is_sent_by_hand():
    model = policy("lora")
    parts = share(model, ONE_DEVICE, "lora")
    adapter = sum(each.numbers for each in parts.size.trained)
    nothing = Exchange(0.0, 0.0, 0.0, 0.0, 0.0)
    assert exchange_of(parts, WORK) == nothing
    # Replicated: what is trained, added up once a step however many micro-batches there are.
    many = replace(WORK, microbatches=5)
    assert exchange_of(replace(parts, layout=Layout(4)), many) == replace(nothing, added_up=1.5 * 4 * adapter)
    # Context of 2: queries and outputs of 4 heads, keys and values of 2 groups, of half the tokens, half of it sent,
    # forward and backward, in 2 layers of 8 numbers a head.
    sent = 2 * (1000 / 2) * 2 * (2 * 4 + 2 * 2) * 8 * 4 / 2
    assert exchange_of(replace(parts, layout=Layout(2, context=2)), WORK).attention == sent
    # Groups are repeated until each of 4 ranks has one; a reference and layers that are computed again take part.
    more = replace(WORK, passes=1, recomputed=0.5)
    sent = 3.5 * (1000 / 4) * 2 * (2 * 4 + 2 * 4) * 8 * 4 * 3 / 4
    assert exchange_of(replace(parts, layout=Layout(4, context=4)), more).attention == sent
    # Below the last quarter of the layers there is no backward pass, and nothing is computed again for one.
    last = replace(WORK, reached=0.25, recomputed=1)
    sent = 1.5 * (1000 / 2) * 2 * (2 * 4 + 2 * 2) * 8 * 4 / 2
    assert exchange_of(replace(parts, layout=Layout(2, context=2)), last).attention == sent


def test_a_reference_of_its_own_size_sends_what_its_forward_pass_does():
    layout = Layout(4, 4, context=2)
    parts, small = share(policy(), layout), tiny_model("llama", hidden_size=16, intermediate_size=32)
    reference = Beside(share(small), AttentionSize.of(small, bf16=False)).in_layout(layout)
    work = replace(WORK, microbatches=3)
    alone, both = exchange_of(parts, work), exchange_of(parts, work, reference)
    matrices = sum(each.numbers for each in reference.share.matrices)
    # A quarter of its matrices to each other rank; 4 heads and 2 groups of 4 numbers in 2 layers, as above.
    assert both.gathered - alone.gathered == 3 * 3 * 4 * matrices / 4
    assert both.attention - alone.attention == (1000 / 2) * 2 * (2 * 4 + 2 * 2) * 4 * 4 / 2
    assert replace(both, gathered=alone.gathered, attention=alone.attention) == alone


def test_copies_of_hybrid_sharding_are_added_up_once_a_step():
    model = policy()
    hybrid, everything = (
        exchange_of(share(model, Layout(8, shards)), replace(WORK, microbatches=3)) for shards in (4, 8)
    )
    matrices = sum(each.numbers for each in share(model).matrices)
    assert hybrid.copies == 2 * (1 / 2) * 4 * matrices / 4
    assert everything.copies == 0
    assert hybrid.scattered == 3 * 4 * matrices * 3 / 4
    # Gathered among fewer ranks, less is sent.
    assert hybrid.gathered < everything.gathered


def test_gathers_run_beside_computing_and_sums_after_it():
    links = Links(inside=100.0, across=10.0, machine=8)
    sent = Exchange(gathered=600.0, scattered=200.0, copies=0.0, added_up=50.0, attention=20.0)
    inside = Layout(8, 8)
    assert sent.seconds(20.0, inside, links) == 20.0 + 0.7
    assert sent.seconds(5.0, inside, links) == 8.0 + 0.7
    # Over two machines only what stays in one is fast.
    assert sent.seconds(5.0, Layout(16, 16), links) == 80.0 + 5.0 + 0.2
    assert sent.seconds(5.0, Layout(16, 8), links) == 8.0 + 5.0 + 0.2


@pytest.mark.parametrize(
    ("values", "key"), [((8, None, 3), "parallel.context = 3"), ((8, 5, 1), "parallel.group = 5")]
)
def test_devices_that_cannot_be_divided_so_are_refused(values, key):
    with pytest.raises(RecipeError, match=f"{key} does not divide the run's 8 devices"):
        Layout(*values)
