"""Activation checkpointing of the first k layers: the same numbers, to the last bit."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import pack
from dpotrain.engine.layers.checkpointing import checkpoint_layers, decoder_layers, wanted_layers
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain_plugins.layers import Layers
from dpotrain_plugins.lora import Lora
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

BATCH = pack(random_pairs([(5, 9, 3), (2, 1, 17), (11, 4, 4)]), range(3))


def gradients(adapter: str, layers: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model = tiny_model("llama", num_hidden_layers=3).train()
    torch.manual_seed(1)
    policy = (
        Lora(Lora.Options(rank=4, dropout=0.3)).attach(model)
        if adapter == "lora"
        else AllWeights(AllWeights.Options()).attach(model)
    )
    checkpoint_layers(policy, layers)
    flags = [layer.gradient_checkpointing for layer in decoder_layers(policy)]
    assert flags == [number < layers for number in range(3)]
    torch.manual_seed(2)
    sums = PackedScorer(policy, LogitTransform(), False)(BATCH)
    sums.square().sum().backward()
    return sums, [weight.grad for weight in policy.parameters() if weight.grad is not None]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_some_or_all_layers_change_no_bit(adapter, layers):
    """TRAPS: dropout drawn again in the recomputation."""
    expected, expected_gradients = gradients(adapter, 0)
    got, got_gradients = gradients(adapter, layers)
    assert torch.equal(got, expected)
    assert all(map(torch.equal, got_gradients, expected_gradients))


def test_no_backward_pass_goes_through_layers_below_what_is_trained():
    policy = Layers(Layers.Options(last=1)).attach(tiny_model("llama", num_hidden_layers=3).train())
    checkpoint_layers(policy, 3)
    calls, reached = [0] * 3, []
    for number, layer in enumerate(decoder_layers(policy)):

        def count(module: object, given: object, at: int = number) -> None:
            calls[at] += 1

        layer.mlp.register_forward_pre_hook(count)
        layer.register_forward_hook(lambda module, given, found: reached.append(found.requires_grad))
    PackedScorer(policy, LogitTransform(), False)(BATCH).sum().backward()
    assert reached == [False, False, True]
    assert calls == [1, 1, 2]


class Live(TorchDispatchMode):
    """The most bytes that were alive at once, of the tensors made meanwhile."""

    def __init__(self):
        super().__init__()
        self.storages, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.storages = {key: each for key, each in self.storages.items() if not each[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.storages.values()))
        return made


def test_a_pair_of_twice_the_length_takes_at_most_twice_the_memory():
    """Not four times: nothing has the length of a row twice, no mask and no matrix of attention, in either pass."""
    policy = AllWeights(AllWeights.Options()).attach(tiny_model("llama").train())
    checkpoint_layers(policy, 2)
    scorer, most = PackedScorer(policy, LogitTransform(), False), []
    for tokens in (1024, 2048):
        batch = pack(random_pairs([(tokens // 2, tokens // 4, tokens // 4)]), [0])
        with Live() as live:
            scorer(batch).sum().backward()
        most.append(live.most)
        policy.zero_grad()
    assert most[1] <= 2.2 * most[0]


@pytest.mark.parametrize("draws", ["nothing", "a module", "the configuration", "unknown code"])
def test_a_random_state_is_kept_only_where_something_may_draw(draws, monkeypatch):
    model = tiny_model("llama").train()
    policy = Lora(Lora.Options(rank=4, dropout=0.3 * (draws == "a module"))).attach(model)
    if draws == "the configuration":
        model.config.attention_dropout = 0.1
    if draws == "unknown code":
        monkeypatch.setattr(type(model), "__module__", "own.modeling")
    checkpoint_layers(policy, 1)
    kept = decoder_layers(policy)[0]._gradient_checkpointing_func.keywords["preserve_rng_state"]
    assert kept == (draws != "nothing")


def test_the_recipes_setting_becomes_a_number():
    model = tiny_model("llama", num_hidden_layers=3)
    assert [wanted_layers(model, wanted) for wanted in (False, 2, 3, True)] == [0, 2, 3, 3]


def test_more_layers_than_there_are_is_an_error():
    with pytest.raises(RunError, match=r"activation_checkpointing = 9, but LlamaForCausalLM has 2 layers"):
        wanted_layers(tiny_model("llama"), 9)


def test_a_model_that_does_not_support_it_says_so():
    model = tiny_model("llama")
    type(model).supports_gradient_checkpointing, before = False, type(model).supports_gradient_checkpointing
    try:
        with pytest.raises(RunError, match="LlamaForCausalLM does not support activation checkpointing"):
            wanted_layers(model, True)
    finally:
        type(model).supports_gradient_checkpointing = before
