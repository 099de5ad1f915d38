"""Random scores of pairs, for the suites of losses and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dpotrain.core.scores import PairScores
from dpotrain.plugin.api import Loss, Metric
from dpotrain.plugin.api.nested import nested

if TYPE_CHECKING:
    import torch

#: The log-prob sums in scores.
SUMS = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


def random_scores(part: Any, pairs: int = 64, *, spread: float = 4.0, seed: int = 0) -> PairScores:
    """Return scores whose policy and reference differ by normal numbers of that ``spread``, in nats.

    Log-probs of tokens, statistics and columns are among them where the component, or one in its options, asks for
    them.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (2, pairs), generator=draw)
    reference = -2.0 * lengths * torch.rand(2, pairs, generator=draw)
    policy = reference + spread * torch.randn(2, pairs, generator=draw)
    names = dict.fromkeys(name for each in _asking(part) for name in each.columns)
    columns = {name: torch.rand(pairs, generator=draw) for name in names}
    statistics = {
        name: torch.rand(pairs, 2, generator=draw) * (1 if name == "entropy" else -1)
        for name in dict.fromkeys(name for each in _asking(part) for name in each.needs_statistics)
    }
    return assembled(part, policy, reference, lengths, columns, statistics)


def of_pairs(part: Any, scores: PairScores, chosen: torch.Tensor) -> PairScores:
    """Return the scores of these pairs, by their numbers."""
    import torch

    policy, reference, lengths = (
        torch.stack([first.detach()[chosen], second.detach()[chosen]])
        for first, second in (
            (scores.policy_chosen, scores.policy_rejected),
            (scores.reference_chosen, scores.reference_rejected),
            (scores.chosen_tokens, scores.rejected_tokens),
        )
    )
    columns = {name: values[chosen] for name, values in scores.columns.items()}
    statistics = {name: values[chosen] for name, values in scores.statistics.items()}
    return assembled(part, policy, reference, lengths, columns, statistics)


def assembled(
    part: Any,
    policy: torch.Tensor,
    reference: torch.Tensor,
    lengths: torch.Tensor,
    columns: Mapping[str, torch.Tensor],
    statistics: Mapping[str, torch.Tensor],
) -> PairScores:
    """Return scores from tensors of shape (2, pairs), chosen before rejected, of the first of ten steps.

    The policy's sums are leaves. The tokens of a completion share its sum evenly.
    """
    chosen, rejected = (sums.clone().requires_grad_() for sums in policy)
    tokens = None
    if any(each.needs_token_log_probs for each in _asking(part)):
        import torch

        counts = lengths.T.flatten()
        tokens = (torch.stack([chosen, rejected], dim=1).flatten() / counts).repeat_interleave(counts)
    first, second = reference
    return PairScores(
        chosen,
        rejected,
        first,
        second,
        lengths[0],
        lengths[1],
        policy_tokens=tokens,
        statistics=statistics,
        columns=columns,
        step=1,
        total_steps=10,
    )


def _asking(part: Any) -> list[Loss | Metric]:
    """Return the component and those in its options that scores are made for."""
    return [each for _, each in nested(part) if isinstance(each, Loss | Metric)]
