"""Metrics as sums over pairs, so that no mean of means can arise on the way to a record.

A micro-batch adds its sums; ranks add theirs; steps add theirs; only a record divides, once. Sums come from
:mod:`dpotrain.engine.training.sums`; this module imports no torch, so that past runs are read without it.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: What is summed over pairs, in the order of the tensors below.
SUMMED = (
    "pairs",
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
    "tokens",
)

#: The load-balancing loss of a step's routers, where there is one. It is not part of ``loss``.
ROUTER_LOSS = "router_loss"


def means(sums: Sequence[float]) -> dict[str, float]:
    """Divide sums by their pairs: the metrics of a record, by name."""
    values = dict(zip(SUMMED, sums, strict=True))
    pairs = max(values.pop("pairs"), 1.0)
    values.pop("tokens")
    return {name: value / pairs for name, value in values.items()}


@dataclass
class Window:
    """What was summed since the last train record.

    It is part of a checkpoint, so that a resumed run writes the same records.
    """

    sums: list[float] = field(default_factory=lambda: [0.0] * len(SUMMED))
    extra: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The two sums of each of the recipe's own metrics, by name: a resumed run may have others."""
    seconds: float = 0.0
    grad_norms: float = 0.0
    steps: int = 0

    def add(
        self,
        sums: Sequence[float],
        extra: Mapping[str, tuple[float, float]],
        grad_norm: float,
        seconds: float,
    ) -> None:
        """Add a step: its sums over all ranks, its gradient norm before clipping, its duration."""
        self.sums = [before + now for before, now in zip(self.sums, sums, strict=True)]
        for name, (total, weight) in extra.items():
            before = self.extra.get(name, (0.0, 0.0))
            self.extra[name] = (before[0] + total, before[1] + weight)
        self.grad_norms += grad_norm
        self.seconds += seconds
        self.steps += 1

    def reset(self) -> None:
        """Forget everything: a record was written."""
        self.restore(Window())

    def restore(self, saved: Window) -> None:
        """Take over the sums of a checkpoint's window."""
        self.sums, self.extra = list(saved.sums), dict(saved.extra)
        self.seconds, self.grad_norms, self.steps = saved.seconds, saved.grad_norms, saved.steps

    def metrics(self, learning_rate: float, epoch: float) -> dict[str, float]:
        """Return a train record's metrics, in the order of the metrics file.

        The gradient norm is the mean over the window's steps; learning rate and epoch are the last step's. Where all
        steps were left out there is nothing to average: not a number.
        """
        over_pairs = means(self.sums)
        if not self.steps:
            over_pairs = dict.fromkeys(over_pairs, math.nan)
        return {
            "loss": over_pairs.pop("loss"),
            "grad_norm": self.grad_norms / self.steps if self.steps else math.nan,
            "learning_rate": learning_rate,
            "epoch": epoch,
            **over_pairs,
            **speed(self.sums, self.seconds),
            **means_of(self.extra),
        }


def speed(sums: Sequence[float], seconds: float) -> dict[str, float]:
    """Return pairs and real tokens a second, and the peak memory."""
    values = dict(zip(SUMMED, sums, strict=True))
    return {
        "pairs_per_second": values["pairs"] / max(seconds, 1e-9),
        "tokens_per_second": values["tokens"] / max(seconds, 1e-9),
        "peak_memory_mb": peak_memory_mb(),
    }


def means_of(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Divide once; a number that no pair had a part in is left out."""
    return {name: total / weight for name, (total, weight) in sums.items() if weight > 0}


def peak_memory_mb() -> float:
    """Return the most memory held so far, in MB of 2**20 bytes: of the CUDA device, or resident without one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
