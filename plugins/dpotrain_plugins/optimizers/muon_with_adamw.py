"""Muon for some weights and AdamW for others, as one optimizer with one state. Imports torch at the top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch

from dpotrain_plugins.optimizers.adamw import allocate_moments


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon and fused AdamW, each over the parameter groups whose ``method`` names it.

    Groups and state are this optimizer's; the two get theirs from it before every step, so that rates that are set,
    groups that are split and states that are loaded here reach them.
    """

    def __init__(
        self,
        muon: Sequence[dict[str, Any]],
        adamw: Sequence[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        adjust_lr: str,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        self._methods: dict[str, torch.optim.Optimizer] = {}
        if muon:
            matrices = torch.optim.Muon(muon, lr=lr, momentum=momentum, adjust_lr_fn=adjust_lr)
            for weight in _weights(matrices):
                matrices.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            self._methods["muon"] = matrices
        if adamw:
            others = torch.optim.AdamW(adamw, lr=lr, betas=betas, eps=eps, fused=True)
            allocate_moments(others)
            self._methods["adamw"] = others
        groups = [
            {**group, "method": name}
            for name, method in self._methods.items()
            for group in method.param_groups
        ]
        super().__init__(groups, defaults={})
        for method in self._methods.values():
            self.state.update(method.state)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, method in self._methods.items():
            method.param_groups = [group for group in self.param_groups if group["method"] == name]
            method.state = self.state
            method.step()
        return loss


def _weights(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]
