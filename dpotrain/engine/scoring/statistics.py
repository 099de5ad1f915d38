"""Statistics of the policy's distributions over the vocabulary, beside the log-prob of the token that came.

They cost a few passes over the logits that are there anyway, have no gradients, and are computed where something asks
for them. Nats; p is the distribution that a scored token was drawn from:

- ``log_largest``: ``log max p``, the log-prob of the likeliest token;
- ``log_squares``: ``log sum p^2``, the mean probability of a token drawn from p itself;
- ``entropy``: ``-sum p log p``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

STATISTICS = ("log_largest", "log_squares", "entropy")


def of_logits(logits: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Return statistics of whole rows of logits (S, vocabulary) float32: (S, len(names))."""
    running = RunningStatistics(names)
    with torch.no_grad():
        largest = logits.amax(1, keepdim=True)
        powers = (logits - largest).exp_()
        running.add(powers, powers.new_zeros(len(powers), 1), None)
        return running.result(powers.sum(1, keepdim=True))


class RunningStatistics:
    """Sums over the vocabulary that statistics are made of, updated tile by tile as the normalizer's are."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._squares: torch.Tensor | None = None
        self._weighted: torch.Tensor | None = None

    def add(self, powers: torch.Tensor, drop: torch.Tensor, total: torch.Tensor | None) -> None:
        """Add a tile's ``powers`` (S, words): exponentials relative to the largest logit so far.

        ``drop`` (S, 1) is the largest logit before less the one now, ``total`` (S, 1) the sum of the exponentials so
        far, relative to the one before; None for the first tile.
        """
        if "log_squares" in self.names:
            squares = powers.square().sum(1, keepdim=True)
            before = self._squares
            self._squares = squares if before is None else before * (2 * drop).exp() + squares
        if "entropy" in self.names:  # sum of p times its logit, relative to the largest
            weighted = torch.xlogy(powers, powers).sum(1, keepdim=True)
            if self._weighted is not None and total is not None:
                # A row whose logits so far were all minus infinity has summed nothing.
                moved = torch.where(total > 0, self._weighted + total * drop, 0.0)
                weighted = weighted + drop.exp() * moved
            self._weighted = weighted

    def result(self, total: torch.Tensor) -> torch.Tensor:
        """Return (S, len(names)) float32; ``total`` (S, 1) is the sum of all exponentials."""
        found = {"log_largest": -total.log()}
        if self._squares is not None:
            found["log_squares"] = self._squares.log() - 2 * total.log()
        if self._weighted is not None:
            found["entropy"] = total.log() - self._weighted / total
        return torch.cat([found[name] for name in self.names], 1)
