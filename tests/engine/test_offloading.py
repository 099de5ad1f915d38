"""Inputs of checkpointed layers on the host: the same bits, and nothing else is moved."""

import pytest
import torch

from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers import offloading
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.layers.offloading import host_bytes, offload_inputs
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

PAIRS = random_pairs([(5, 9, 3), (2, 1, 17), (11, 4, 4)])
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def gradients(layers: int, on_host: bool, device: str, **config) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(1)
    model = tiny_model("llama", num_hidden_layers=4, **config).train()
    policy = Lora(Lora.Options(rank=4, dropout=0.3)).attach(model).to(device)
    checkpoint_layers(policy, layers)
    if on_host:
        assert offload_inputs(policy) == layers
    torch.manual_seed(2)
    scorer = PackedScorer(policy, LogitTransform(), False)
    total = torch.zeros((), device=device)
    for chosen in ([0, 1], [2]):  # gradients of two micro-batches are added up
        sums = scorer(pack(PAIRS, chosen).to(torch.device(device)))
        sums.square().sum().backward()
        total = total + sums.sum().detach()
    return total, [weight.grad for weight in policy.parameters() if weight.grad is not None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layers", [1, 4])
def test_no_bit_changes(layers, device):
    expected, expected_gradients = gradients(layers, False, device)
    got, found = gradients(layers, True, device)
    assert got.equal(expected)
    assert all(map(torch.equal, found, expected_gradients))


def test_what_is_moved_are_the_inputs_of_the_checkpointed_layers(monkeypatch):
    moved, pack_copy = [], offloading._Copies.pack

    def noting(self, number, tensor):
        moved.append((number, tuple(tensor.shape)))
        return pack_copy(self, number, tensor)

    monkeypatch.setattr(offloading._Copies, "pack", noting)
    gradients(3, True, "cpu")
    rows = [len(pack(PAIRS, chosen).input_ids) for chosen in ([0, 1], [2])]
    assert moved == [(number, (1, row, 32)) for row in rows for number in range(3)]


def test_without_gradients_nothing_is_moved(monkeypatch):
    monkeypatch.setattr(offloading._Copies, "pack", None)
    policy = tiny_model("llama").train()
    checkpoint_layers(policy, 2)
    offload_inputs(policy)
    with torch.no_grad():
        PackedScorer(policy, LogitTransform(), False)(pack(PAIRS, [0]))


@pytest.mark.cuda
def test_the_device_holds_a_few_inputs_instead_of_all():
    def peak(on_host: bool) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        policy = (
            tiny_model("llama", num_hidden_layers=32, hidden_size=256, intermediate_size=256).train().cuda()
        )
        held = torch.cuda.memory_allocated() - before
        checkpoint_layers(policy, 32)
        if on_host:
            offload_inputs(policy)
        batch = pack(random_pairs([(9000, 100, 100)]), [0]).to(torch.device("cuda"))
        PackedScorer(policy, LogitTransform(), True)(batch).sum().backward()
        return torch.cuda.max_memory_allocated() - before - 2 * held

    inputs = 32 * 9200 * 256 * 4
    assert peak(False) - peak(True) > 0.7 * inputs


def test_pinned_memory_is_counted_as_torch_allocates_it():
    assert [host_bytes(size) for size in (1, 2, 3, 1000, 1024, 1025)] == [1, 2, 4, 1024, 1024, 2048]
