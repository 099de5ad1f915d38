"""Muon for some weights and AdamW for others, as one optimizer with one state. Imports torch at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dpotrain_plugins.optimizers.adamw import allocate_moments
from dpotrain_plugins.optimizers.updating import Updating, weights_of


class MuonWithAdamW(Updating):
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
            for weight in weights_of(matrices):
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

    def update(self) -> None:
        """Update all weights."""
        for name, method in self._methods.items():
            method.param_groups = [group for group in self.param_groups if group["method"] == name]
            method.state = self.state
            method.step()
