"""What torch optimizers of our own have in common. Imports torch at the top."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import overload

import torch


class Updating(torch.optim.Optimizer):
    """An optimizer whose step is one update, whatever closure it is given."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all weights, after the closure has computed their gradients, if there is one; return its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    @abstractmethod
    def update(self) -> None:
        """Update all weights that have a gradient; no gradients are recorded."""


def weights_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Return the weights that an optimizer updates, in its order."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]
