"""Losses over all pairs of a step: AOT on sorted log-ratios, and beta-DPO, whose beta follows the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Loss, PairScores
from dpotrain_plugins.losses.dpo import Dpo
from dpotrain_plugins.losses.running import RunningLoss

if TYPE_CHECKING:
    import torch

#: beta-DPO's beta is at least this, as in the code of its authors.
SMALLEST_BETA = 1e-3
#: Nats; margins that differ by less, as before the first update, are rounding, and no reason to leave a pair out.
SMALLEST_SPREAD = 1e-2


class Aot(Dpo):
    """AOT (Melnyk et al. 2024, arXiv 2406.05882), for pairs: first-order stochastic dominance of the policy's margins.

    With ``u`` the policy's ``log pi(w) - log pi(l)`` and ``v`` the reference's, both sorted over the step's pairs:
    ``loss = -(1 - e) log sigmoid(beta (u_k - v_k)) - e log sigmoid(-beta (u_k - v_k))``, where ``e`` is the label
    smoothing. TRL's ``aot`` sorts over a micro-batch.
    """

    name = "aot"
    of_difference = False
    couples_pairs = True

    def __call__(self, scores: PairScores) -> torch.Tensor:
        return self._between(
            scores.policy_chosen - scores.policy_rejected, scores.reference_chosen - scores.reference_rejected
        )

    def _between(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the loss of the k-th smallest of both, (pairs,), at the pair with the k-th smallest of the first."""
        from torch import empty_like

        ordered, places = first.float().sort(stable=True)
        losses = self._of_margin(self.options.beta * (ordered - second.float().sort().values))
        return empty_like(losses).scatter(0, places, losses)


class AotUnpaired(Aot):
    """AOT (Melnyk et al. 2024, arXiv 2406.05882) with chosen and rejected answers as two sets: no pair matters.

    As ``aot``, of the log-ratios of the chosen answers and those of the rejected ones, each sorted over the step.
    """

    name = "aot-unpaired"

    def __call__(self, scores: PairScores) -> torch.Tensor:
        return self._between(scores.chosen_logratio, scores.rejected_logratio)


class BetaDpo(RunningLoss):
    """Beta-DPO (Wu et al. 2024, arXiv 2407.08639): a beta for every step, and outliers left out of it.

    With ``M`` and ``S`` moving averages of the mean and the standard deviation of ``h`` over a step's pairs, the step
    among them: a share of the pairs is drawn with probabilities like ``exp(-((h - M) / S)^2 / 2)``, and
    ``beta_step = beta (1 + alpha (mean of h over these - M))``. The loss is DPO's with that beta, over the drawn pairs.
    Without gradients, as in an evaluation, all pairs count and ``beta`` is the recipe's, as it is in the rewards.

    The averages begin with the first step's; a step's draw is seeded by its number.
    """

    name = "beta-dpo"
    couples_pairs = True

    class Options(Loss.Options):
        alpha: float = Field(
            0.6, ge=0, description="How far beta follows the step's margins; 0 leaves it as it is."
        )
        keep: float = Field(
            0.8, gt=0, le=1, description="Share of a step's pairs that are drawn, the paper's rho."
        )
        momentum: float = Field(
            0.9, ge=0, lt=1, description="What the averages keep of themselves in a step."
        )

    options: Options

    def __call__(self, scores: PairScores) -> torch.Tensor:
        from torch.nn.functional import softplus

        margins = (scores.chosen_logratio - scores.rejected_logratio).float()
        if not margins.requires_grad:
            return softplus(-self.options.beta * margins)
        found = margins.detach().double()
        mean, spread = self._with(found.mean(), found.std(correction=0))
        self.keep(mean, spread)
        drawn = self._drawn(found, mean, spread, scores.step)
        beta = self.options.beta * (1 + self.options.alpha * (found[drawn].mean() - mean))
        losses = softplus(-beta.clamp(min=SMALLEST_BETA) * margins)
        # The engine divides by all pairs of the step.
        share = losses.new_zeros(len(losses)).index_fill(0, drawn, len(losses) / len(drawn))
        return losses * share

    def _with(self, mean: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the averages with a step's mean and standard deviation among them, () float64 each."""
        if self.running is None:
            return mean, spread
        kept = self.options.momentum
        before_mean, before_spread = (number.to(mean.device) for number in self.running)
        return kept * before_mean + (1 - kept) * mean, kept * before_spread + (1 - kept) * spread

    def _drawn(
        self, margins: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, step: int
    ) -> torch.Tensor:
        """Return the indices of the pairs that count, on the device of ``margins`` (pairs,) float64."""
        import torch

        count = max(1, int(len(margins) * self.options.keep))
        if count == len(margins):
            return torch.arange(count, device=margins.device)
        apart = (margins - mean) / spread.clamp(min=SMALLEST_SPREAD)
        weights = (-0.5 * apart.square()).exp().clamp(min=1e-12)  # of an outlier it would be 0
        # What torch.multinomial draws of weights on the host, without waiting for them: the largest quotients by
        # exponential numbers. These come from the host, where they are the same beside every device.
        generator = torch.Generator().manual_seed(step)
        noise = torch.empty(len(margins), dtype=torch.float64).exponential_(generator=generator)
        noise = noise.pin_memory() if margins.is_cuda else noise
        quotients = weights / noise.to(margins.device, non_blocking=True)
        return quotients.topk(count).indices.sort().values

    def first_loss(self) -> float:
        """Return ln 2: all margins are 0."""
        return math.log(2)
