"""What the load-balancing loss of a mixture of experts is made of: sums over rows, a row being a token at a router."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from dpotrain.engine.parallel.context import ContextGroup
from dpotrain.engine.parallel.protocol import Parallel


@dataclass(slots=True)
class RouterSums:
    """Sums over the rows of some micro-batches; rows of all layers are taken together."""

    chosen: int
    """k: the experts that compute a token."""
    counts: torch.Tensor
    """(E,) float64: the rows among whose k likeliest experts each is. They have no gradient."""
    probabilities: torch.Tensor
    """(E,) float64: of each expert, a softmax over the router's logits."""

    @classmethod
    def of_no_row(cls, experts: int, chosen: int, device: torch.device) -> RouterSums:
        """Return zeros for so many experts."""
        zeros = torch.zeros(experts, dtype=torch.float64, device=device)
        return cls(chosen, zeros, zeros)

    def add(
        self, logits: Iterable[torch.Tensor], weights: torch.Tensor, context: ContextGroup | None = None
    ) -> None:
        """Add the rows of a forward pass, without waiting for the device.

        ``logits`` has those of each router, (…, E) with T rows; ``weights`` (T,) is 0 for a token that does not count,
        1 for others. With ``context`` the tokens are divided over its ranks, and those of all of them are added; the
        probabilities have gradients for the tokens of this one.
        """
        weights = weights.float()
        counts, probabilities = torch.zeros_like(self.counts), torch.zeros_like(self.counts)
        for each in logits:
            likely = torch.softmax(each.flatten(0, -2), -1, dtype=torch.float32)
            likeliest = likely.detach().topk(self.chosen, -1).indices
            shares = weights.double()[:, None].expand_as(likeliest)
            counts = counts.index_add(0, likeliest.flatten(), shares.flatten())
            probabilities = probabilities + (likely * weights[:, None]).sum(0).double()
        if context is not None:
            counts, probabilities = context.total(torch.stack([counts, probabilities]))
        self.counts = self.counts + counts.detach()
        self.probabilities = self.probabilities + probabilities

    @classmethod
    def over_ranks(cls, parts: Sequence[RouterSums], parallel: Parallel) -> RouterSums:
        """Return the sum over one or more parts of every data rank, without gradients. Collective."""
        own = torch.stack([torch.stack([part.counts, part.probabilities.detach()]) for part in parts])
        counts, probabilities = parallel.sum(own.sum(0))
        return cls(parts[0].chosen, counts, probabilities)

    def loss(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the loss (a scalar, float64) of ``probabilities`` (E,), summed over all or some of these rows.

        It is linear in them: what the parts of a step give adds up to the loss of the step.
        """
        rows = self.counts.sum() / self.chosen
        return len(self.counts) * (self.counts * probabilities).sum() / rows**2
