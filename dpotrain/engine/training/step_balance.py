"""The load-balancing loss of one step, added up from its micro-batches."""

from __future__ import annotations

import torch

from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.scoring.router_loss import RouterLoss
from dpotrain.engine.scoring.router_sums import RouterSums


class StepBalance:
    """What the micro-batches of this rank contribute; nothing where there is no router loss."""

    def __init__(self, loss: RouterLoss | None, whole: RouterSums | None, parallel: Parallel) -> None:
        """Take what the routers compute in the whole step.

        ``whole`` is None in a step of one micro-batch on one rank, whose rows are known before its backward pass.
        """
        self._loss, self._whole, self._parallel = loss, whole, parallel
        self._sum = torch.zeros((), dtype=torch.float64, device=parallel.device)

    def part(self, rows: RouterSums | None) -> torch.Tensor | float:
        """Return a scalar (float32) whose gradient is that of the weighted loss, as far as it is a micro-batch's.

        ``rows`` are those of the micro-batch. The parts are added, over ranks as well.
        """
        if self._loss is None or rows is None:
            return 0.0
        if self._whole is None:
            self._whole = rows
        part = self._whole.loss(rows.probabilities)
        self._sum += part.detach()
        return part.float() * self._loss.routing.weight

    def sums(self, pairs: int) -> torch.Tensor:
        """Return (2,) float64: the loss of a step of so many pairs times these, and these; (0,) without a router loss.

        Over all ranks that makes the loss once, and the pairs once.
        """
        if self._loss is None:
            return self._sum.new_zeros(0)
        return torch.stack([self._sum * pairs, self._sum.new_tensor(pairs / self._parallel.data_size)])
