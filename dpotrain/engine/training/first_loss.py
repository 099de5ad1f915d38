"""The loss of the first step, which is known where policy and reference are one model, but for rounding.

How far rounding takes it follows from the loss itself. Two ways of computing one model (micro-batches of other shapes,
other kernels) differ in the log-prob of a token by a random error of standard deviation ``s``, and in the sum over a
completion of ``n`` tokens by one of ``d = s * sqrt(n)``. To second order, the mean over P pairs of a loss
``f(c, r)`` of both log-ratios then changes by

- a random part of standard deviation ``sqrt(sum over pairs of (f_c * d_c)**2 + (f_r * d_r)**2) / P``, by the slopes
  ``f_c`` and ``f_r`` at log-ratios of zero: in sigmoid DPO ``beta / 2 * s * sqrt(2 n) / sqrt(P)``;
- a shift of the mean of ``sum over pairs of (f_cc * d_c**2 + f_rr * d_r**2) / (2 P)``, by the curvatures: in sigmoid
  DPO ``beta**2 / 8 * s**2 * 2 n``, which no number of pairs makes smaller.

Both are measured rather than derived, which takes no derivatives of a loss and holds for one that couples pairs, has
kinks, or depends on its tokens: let D be d with a random sign of its own for every log-ratio, then
``(L(D) - L(-D)) / 2`` of the step's loss L is one draw of the random part, and ``(L(D) + L(-D)) / 2 - L(0)`` is the
shift, since the products of different signs are zero on average.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch

from dpotrain.core.errors import RunError
from dpotrain.core.random_state import RandomState
from dpotrain.core.scores import PairScores
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.scoring.objective import pair_losses
from dpotrain.plugin.api import Component, Loss
from dpotrain.plugin.api.nested import nested

#: Standard deviation of a token's log-prob between two ways of computing it, in nats; twice what is usual.
ROUNDING = {"fp32": 1e-5, "bf16": 0.04}
#: Share of it where the reference is computed of the policy's own micro-batch, by the same kernels, but for those of an
#: adapter that adds zeros.
SAME_MICROBATCH = 0.25
#: Standard deviations that the random part may be, and as many times the shift, which is random where pairs are few.
DEVIATIONS = 3.0
#: What the loss may be off by in any case, as a share of it where it is above one: the loss's own rounding.
OWN_ROUNDING = {"fp32": 1e-4, "bf16": 2e-3}
#: Draws of signs.
_DRAWS = 8


@dataclass
class FirstLoss:
    """What the first step's loss must be."""

    expected: float
    """What :meth:`dpotrain.plugin.api.Loss.first_loss` says."""
    precision: str
    """"fp32" or "bf16": what the models are computed in."""
    alike: bool
    """Whether the reference is computed of the policy's own micro-batches and by the same kernels."""
    _found: list[torch.Tensor] = field(default_factory=list)

    @property
    def rounding(self) -> float:
        """Standard deviation of a token's log-prob between policy and reference, in nats."""
        return ROUNDING[self.precision] * (SAME_MICROBATCH if self.alike else 1.0)

    def forget(self) -> None:
        """Begin anew, before the step's gradients are computed, perhaps once more."""
        self._found.clear()

    def look(self, loss: Loss, scores: PairScores, weights: torch.Tensor, columns: Collection[str]) -> None:
        """Measure what rounding changes of the loss of some of the step's pairs.

        ``weights`` (pairs,) are what each counts in the step's loss; ``columns`` are those of :func:`.pair_losses`.
        Random states, and the loss's own state, are left as they were.
        """
        random_before = RandomState.capture()
        if any(type(part).state_dict is not Component.state_dict for _, part in nested(loss)):
            loss = copy.deepcopy(loss)
        tokens = torch.stack([scores.chosen_tokens, scores.rejected_tokens]).float()
        deviation = self.rounding * tokens.sqrt()
        policy = torch.stack([scores.policy_chosen, scores.policy_rejected]).detach()
        draw = torch.Generator().manual_seed(0)

        def total(shift: torch.Tensor) -> torch.Tensor:
            chosen, rejected = policy + shift
            moved = replace(scores, reference_chosen=chosen, reference_rejected=rejected)
            return (weights * pair_losses(loss, moved, columns)).sum().double()

        with torch.no_grad():
            start = total(torch.zeros_like(deviation))
            random, mean = start.new_zeros(2)
            for _ in range(_DRAWS):
                signs = torch.randint(0, 2, deviation.shape, generator=draw).to(deviation) * 2 - 1
                above, below = total(signs * deviation), total(-signs * deviation)
                random += ((above - below) / 2) ** 2 / _DRAWS
                mean += ((above + below) / 2 - start) / _DRAWS
        self._found.append(torch.stack([random, mean]))
        random_before.restore()

    def tolerance(self, parallel: Parallel, *, coupled: bool) -> float:
        """Return how far the step's loss may be from what is expected. Collective.

        ``coupled`` says that every rank has looked at all pairs of the step.
        """
        own = torch.stack(self._found).sum(0) if self._found else torch.zeros(2, dtype=torch.float64)
        random, mean = parallel.sum(own).tolist()
        if coupled:
            random, mean = random / parallel.data_size, mean / parallel.data_size
        noise = DEVIATIONS * (math.sqrt(random) + abs(mean))
        # A loss that is not finite near the start says nothing about rounding.
        return OWN_ROUNDING[self.precision] * max(1.0, abs(self.expected)) + (
            noise if math.isfinite(noise) else 0.0
        )

    def check(self, loss: float, tolerance: float, label: str) -> None:
        """Compare the first step's loss with what it must be, which the loss called ``label`` says.

        Raises:
            RunError: it is another; nothing was updated yet.
        """
        if abs(loss - self.expected) > tolerance:
            raise RunError(
                f"the first loss is {loss:.6f}, but before the first update policy and reference are one model, "
                f"so it must be {self.expected:.6f}, and rounding explains {tolerance:.2g} at most; nothing was "
                "updated.\n"
                "Likely causes: a model whose forward is not deterministic, stored reference log-probs of other "
                "weights\n(remove the folder of reference.store or run.cache_dir), a plugin that changed the policy "
                f"as the run started,\nor a wrong first_loss of {label}."
            )
