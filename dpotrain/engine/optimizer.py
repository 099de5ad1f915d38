"""The optimizer over the trained weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dpotrain.recipe.sections import OptimizerSection


def build_optimizer(parameters: Iterable[nn.Parameter], options: OptimizerSection) -> torch.optim.Optimizer:
    """Return AdamW (arXiv:1711.05101) over the parameters that require gradients.

    Weight decay spares vectors (biases, norms), as usual: shrinking them regularizes nothing.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [each for each in trained if each.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    settings: dict[str, Any] = {"lr": options.lr, "betas": options.betas, "eps": options.eps}
    if options.use == "adamw-8bit":
        import bitsandbytes

        optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, **settings)
        return optimizer
    optimizer = torch.optim.AdamW(groups, fused=True, **settings)
    _allocate_moments(optimizer)
    return optimizer


def _allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Give every weight the state that the first step would give it.

    There, it would come to lie between the freed activations of that step, where a CPU's allocator then lacks room
    for the next step's. And where memory is too small for it, that is better known before the first step.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
            }
