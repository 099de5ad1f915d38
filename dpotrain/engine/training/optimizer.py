"""The optimizer over the trained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from dpotrain.engine.training.weight_groups import split_groups
from dpotrain.plugin.api import Optimizer
from dpotrain.plugin.api.returns import WrongReturnError


def build_optimizer(
    chosen: Optimizer,
    policy: nn.Module,
    note: Callable[[str], None] = lambda text: None,
    optimized: Callable[[Mapping[str, nn.Parameter]], dict[str, nn.Parameter]] = dict,
) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over what is trained of ``policy``, in the recipe's groups.

    ``note`` is told which weights have settings of their own; ``optimized`` returns what of them is updated here (see
    :meth:`.protocol.Parallel.optimized`).

    Raises:
        WrongReturnError: the optimizer is not over all of that, each weight once.
        RecipeError: a group of the recipe does not fit the weights or the optimizer.
    """
    trained = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
    weights = optimized(trained)
    optimizer = chosen.build(weights)
    # Otherwise a weight would stay as it is without a word, or one move that is not trained.
    held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    left = [name for name, weight in weights.items() if id(weight) not in held]
    if left or len(held) != len(weights):
        what = (
            f"that leaves out {len(left)} of {len(weights)} trained weights ({', '.join(left[:3])})"
            if left
            else f"that holds {len(held)} weights, and {len(weights)} are trained"
        )
        raise WrongReturnError(
            f"build returned an optimizer {what}; it must hold each of them, and nothing else", chosen
        )
    for text in split_groups(chosen, optimizer, weights):
        note(text)
    return optimizer
