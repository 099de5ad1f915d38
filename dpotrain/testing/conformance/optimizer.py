"""The suite for optimizers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from dpotrain.testing.conformance.component import ComponentConformance

if TYPE_CHECKING:
    import torch

#: Bytes of state that do not depend on the weights: step counts, tables of 8-bit values.
SMALL = 8192


def weights(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    """Return a matrix and a vector in float32, by name."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    shapes = {"layer.weight": (256, 256), "norm.weight": (256,)}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=draw)) for name, shape in shapes.items()}


def give_gradients(to: dict[str, torch.nn.Parameter], seed: int) -> None:
    """Set made-up gradients."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    for weight in to.values():
        weight.grad = torch.randn(weight.shape, generator=draw)


class OptimizerConformance(ComponentConformance):
    """An optimizer updates all that is trained, at the rate that the engine sets, and goes on from its state."""

    def stepped(self, part: Any, steps: int) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
        """Return weights after so many steps, and their optimizer."""
        made = weights()
        optimizer = part.build(made)
        for step in range(steps):
            give_gradients(made, step)
            optimizer.step()
        return made, optimizer

    def test_it_holds_every_weight_once_and_moves_it(self, part: Any) -> None:
        """No weight is left out, and a step leaves finite numbers."""
        before = weights()
        made, optimizer = self.stepped(part, 1)
        held = [weight for group in optimizer.param_groups for weight in group["params"]]
        assert sorted(map(id, held)) == sorted(map(id, made.values()))
        for name, weight in made.items():
            assert weight.isfinite().all()
            assert (weight != before[name]).any(), f"{name} has not moved"

    def test_the_engine_sets_its_rate(self, part: Any) -> None:
        """Groups begin at ``lr``, and at a rate of zero, as a schedule may have it, nothing moves."""
        made = weights()
        optimizer = part.build(made)
        assert any(group["lr"] == part.options.lr for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        give_gradients(made, 0)
        optimizer.step()
        assert all((weight == weights()[name]).all() for name, weight in made.items())

    def test_it_goes_on_from_its_state_bit_for_bit(self, part: Any) -> None:
        """What ``state_dict`` holds is all that the next step depends on."""
        made, optimizer = self.stepped(part, 3)
        other = {name: copy.deepcopy(weight) for name, weight in made.items()}
        resumed = part.build(other)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for each, stepper in ((made, optimizer), (other, resumed)):
            give_gradients(each, 3)
            stepper.step()
        assert all((weight == other[name]).all() for name, weight in made.items())

    def test_it_takes_the_groups_of_a_recipe(self, part: Any) -> None:
        """Its steps read ``param_groups``, which the engine splits where a recipe has ``[[optimizer.groups]]``."""
        from dpotrain.engine.training.weight_groups import split_groups
        from dpotrain.plugin.api.optimizer import WeightGroup

        group = WeightGroup.model_validate({"match": "norm.*", "lr": part.options.lr / 2})
        chosen = type(part)(part.options.model_copy(update={"groups": (group,)}))
        made = weights()
        optimizer = chosen.build(made)
        assert list(split_groups(chosen, optimizer, made))
        for each in optimizer.param_groups:
            if any(weight is made["norm.weight"] for weight in each["params"]):
                each["lr"] = 0.0
        give_gradients(made, 0)
        optimizer.step()
        before = weights()
        assert made["norm.weight"].equal(before["norm.weight"])
        assert not made["layer.weight"].equal(before["layer.weight"])

    def test_its_state_takes_the_memory_that_it_says(self, part: Any) -> None:
        """Micro-batches are sized by what is left."""
        import torch

        from dpotrain.plugin.api import Trained

        made, optimizer = self.stepped(part, 1)
        state = [value for held in optimizer.state.values() for value in held.values()]
        taken = {each.data_ptr(): each.nbytes for each in state if isinstance(each, torch.Tensor)}
        predicted = part.state_bytes(
            [
                Trained(weight.numel(), weight.element_size(), name, tuple(weight.shape))
                for name, weight in made.items()
            ]
        )
        assert abs(sum(taken.values()) - predicted) <= SMALL + 0.02 * predicted
