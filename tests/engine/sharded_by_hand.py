"""Small models that ``fully_shard`` cuts here, without the engine's own way to do that, and what holds of them.

``python -m torch.distributed.run --nproc-per-node=4 -m tests.engine.sharded_by_hand GROUP CHECK…`` makes the checks on
every process; ``GROUP`` is the number of processes that hold one copy of the weights.
"""

from __future__ import annotations

import copy
import math
import os
import re
import sys

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dpotrain.core.errors import RunError
from dpotrain.engine.parallel.replicated import Replicated
from dpotrain.engine.sharding.filling import take_numbers
from dpotrain.engine.sharding.shards import local_shard
from dpotrain.engine.sharding.whole_states import WholeStates
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.plugin.api import Adapter


class Block(nn.Module):
    """A layer with a matrix of each kind: rows that divide, that do not, fewer than processes, and one alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.even = nn.Linear(width, 8)
        self.uneven = nn.Linear(8, 7, bias=False)
        self.few = nn.Linear(7, 3)
        self.one = nn.Linear(3, 1, bias=False)
        self.back = nn.Linear(1, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.back(self.one(self.few(self.uneven(self.even(x)).tanh()))))


class Toy(nn.Module):
    """Two layers between an embedding and the head that is tied to it, with a buffer that no file has."""

    name_or_path = "toy"

    def __init__(self, rows: int = 11, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, rows, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.arange(1.0, 1.0 + width), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) * self.scale
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class ByHand(WholeStates):
    """The processes, sharding a model over groups of so many."""

    def __init__(self, joined: Replicated, group: int) -> None:
        vars(self).update(vars(joined), collective_passes=True, shards_weights=True)
        copies = self.world_size // group
        shape, names = ((group,), ("shard",)) if copies == 1 else ((copies, group), ("copy", "shard"))
        self.mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        self.parts: dict[int, torch.Tensor] = {}

    def shard(self, model: nn.Module, layers: list[nn.Module]) -> None:
        """Shard the matrices of a model."""
        vectors = {weight for weight in model.parameters() if weight.ndim < 2}
        for unit in (*layers, model):
            fully_shard(unit, mesh=self.mesh, ignored_params=vectors)

    def optimized(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the local parts of what is trained."""
        parts = []
        for weight in model.parameters():
            if weight.requires_grad:
                part = nn.Parameter(local_shard(weight)) if isinstance(weight, DTensor) else weight
                self.parts[id(part)] = weight
                parts.append(part)
        return parts

    def weight_of(self, parameter: torch.Tensor) -> torch.Tensor:
        return self.parts.get(id(parameter), parameter)


def toy(**sizes: int) -> Toy:
    torch.manual_seed(0)
    return Toy(**sizes)


def adapter() -> Adapter:
    return AllWeights(AllWeights.Options())


def own_part(whole: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return this process's rows by torch's own arithmetic."""
    if not isinstance(weight, DTensor):
        return whole
    mesh = weight.device_mesh
    parts = list(whole.chunk(mesh.size(mesh.ndim - 1)))
    rank = mesh.get_local_rank(mesh.ndim - 1)
    return parts[rank] if rank < len(parts) else whole[:0]


def stepped(optimizer: torch.optim.Optimizer, weights: list[torch.Tensor]) -> None:
    """Take two steps with gradients that are the same rows of the same whole tensors on every process."""
    for step in range(2):
        torch.manual_seed(step)
        for weight, part in zip(weights, optimizer.param_groups[0]["params"], strict=True):
            part.grad = own_part(torch.randn(weight.shape), weight).clone()
        optimizer.step()


def states(parallel: ByHand) -> None:
    """Weights and optimizer, gathered and put back, are those of one process."""
    alone, model = toy(), toy()
    parallel.shard(model, list(model.layers))
    assert isinstance(model.layers[0].one.weight, DTensor)
    expected = torch.optim.AdamW(alone.parameters(), lr=0.1)
    optimizer = torch.optim.AdamW(parallel.optimized(model), lr=0.1)
    stepped(expected, list(alone.parameters()))
    stepped(optimizer, list(model.parameters()))
    trained = parallel.trained_state(adapter(), model)
    state = parallel.optimizer_state(optimizer)
    shapes = parallel.whole_shapes(optimizer)
    assert shapes == [weight.shape for weight in alone.parameters()]
    if parallel.is_main:
        assert list(trained) == list(adapter().state(alone))
        for name, tensor in adapter().state(alone).items():
            assert type(trained[name]) is torch.Tensor
            torch.testing.assert_close(trained[name], tensor, rtol=0, atol=0)
        compare(state["state"], expected.state_dict()["state"])
        assert state["param_groups"] == expected.state_dict()["param_groups"]
        local_shard(model.embed.weight).zero_()
        assert trained["embed.weight"].any()  # it is a copy
    # As read from a file by every process.
    trained, state = parallel.broadcast_object((trained, state))
    other = toy()
    parallel.shard(other, list(other.layers))
    again = torch.optim.AdamW(parallel.optimized(other), lr=0.1)
    parallel.load_trained(adapter(), other, trained)
    parallel.load_optimizer(again, state)
    for weight, whole in zip(other.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(local_shard(weight), own_part(whole.detach(), weight), rtol=0, atol=0)
    # And they go on alike.
    stepped(again, list(other.parameters()))
    stepped(expected, list(alone.parameters()))
    trained = parallel.trained_state(adapter(), other)
    if parallel.is_main:
        compare(trained, adapter().state(alone))
    with pytest.raises(RunError, match=re.escape("is of another model")):
        parallel.load_trained(adapter(), other, {"embed.weight": torch.zeros(2, 2)})


def dtypes(parallel: ByHand) -> None:
    """Tensors of every dtype that weights and states have arrive to the bit."""
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64, torch.bool):
        torch.manual_seed(1)
        whole = (
            torch.randint(0, 2, (6, 3)).to(dtype)
            if not dtype.is_floating_point
            else torch.randn(6, 3).to(dtype)
        )
        model = nn.ParameterDict({"weight": nn.Parameter(whole.clone(), requires_grad=False)})
        parallel.shard(model, [])
        gathered = parallel.trained_state(Everything(Everything.Options()), model)
        assert gathered.keys() == ({"weight"} if parallel.is_main else set())
        if parallel.is_main:
            assert gathered["weight"].dtype == dtype
            assert gathered["weight"].equal(whole)


class Everything(AllWeights):
    """Saves what is not trained, too."""

    name = "everything"

    def state(self, policy):
        return {name: weight.data for name, weight in policy.named_parameters()}


class Adapted(AllWeights):
    """Adds weights that it saves without the others."""

    name = "adapted"
    saves_whole_model = False


def whole(parallel: ByHand) -> None:
    """The main process sees whole tensors in modules that can be copied; afterwards all is as before."""
    alone, model = toy(), toy()
    model.layers[1].even.weight.requires_grad_(False)
    parallel.shard(model, list(model.layers))
    before, classes = list(model.parameters()), [type(module) for module in model.modules()]
    with parallel.whole(adapter(), model):
        if parallel.is_main:
            compare(dict(model.state_dict()), dict(alone.state_dict()))
            assert model.head.weight is model.embed.weight
            assert not model.layers[1].even.weight.requires_grad
            tokens = torch.arange(5)
            assert copy.deepcopy(model)(tokens).equal(alone(tokens))
        else:
            assert isinstance(model.embed.weight, DTensor)
    after = list(model.parameters())
    assert [id(each) for each in before] == [id(each) for each in after]
    assert classes == [type(module) for module in model.modules()]
    assert model.head.weight is model.embed.weight
    with parallel.whole(Adapted(Adapted.Options()), model):
        assert isinstance(model.layers[1].even.weight, DTensor)
        assert isinstance(model.layers[0].even.weight, DTensor) != parallel.is_main
    tokens = torch.arange(5)
    torch.testing.assert_close(model(tokens), alone(tokens))


def filled(parallel: ByHand) -> None:
    """A model from the meta device has the numbers of the files, or of the main process, and computes with them."""
    tokens = torch.arange(5)
    for way in ("files", "main"):
        alone = toy()
        with torch.device("meta"):
            model = Toy()
        held = None
        if parallel.is_main and way == "main":
            model = toy()
            held = take_numbers(model)
            assert all(weight.is_meta for weight in model.parameters())
            assert model.head.weight is model.embed.weight
        elif way == "files":
            model.scale = alone.scale.clone()
        parallel.shard(model, list(model.layers))
        if way == "files":
            # A tied weight by its second name, in another dtype than the parameter's.
            weights = dict(alone.named_parameters())
            weights["head.weight"] = weights.pop("embed.weight").double()
            parallel.fill_from_files(model, weights)
        else:
            parallel.fill_from_main(model, held)
        model._apply(lambda tensor: tensor)
        assert model.head.weight is model.embed.weight
        for weight, expected in zip(model.parameters(), alone.parameters(), strict=True):
            assert local_shard(weight).equal(own_part(expected.detach(), weight))
        torch.testing.assert_close(model(tokens), alone(tokens))
        model(tokens).sum().backward()


def faults(parallel: ByHand) -> None:
    """Numbers that are not finite, on one process only, and a blueprint of another model end all processes alike."""
    with torch.device("meta"):
        model = Toy()
    model.scale = torch.ones(6)
    parallel.shard(model, list(model.layers))
    weights = {name: weight.detach().clone() for name, weight in toy().named_parameters()}
    weights["layers.1.even.weight"][-1, 2] = math.nan
    with pytest.raises(
        RunError,
        match=re.escape("1 of the weights in toy hold numbers that are not finite (layers.1.even.weight)"),
    ):
        parallel.fill_from_files(model, weights)
    with torch.device("meta"):
        model = Toy()
    held = take_numbers(toy(rows=12)) if parallel.is_main else None
    with pytest.raises(
        RunError,
        match=re.escape(
            "blueprint differs from the model that it loads in 1 weights or buffers (embed.weight)"
        ),
    ):
        parallel.fill_from_main(model, held)


def compare(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


CHECKS = {each.__name__: each for each in (states, dtypes, whole, filled, faults)}

if __name__ == "__main__":
    processes = ByHand(Replicated(), int(sys.argv[1]))
    for check in sys.argv[2:] or CHECKS:
        CHECKS[check](processes)
    processes.leave()
    os._exit(0)  # as the command does: threads of the backend may still be running
