"""What a step minimizes: the recipe's loss, and what the columns of a pair make of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch

from dpotrain.core.pair_columns import APPLIED
from dpotrain.core.scores import PairScores
from dpotrain.plugin.api import Loss
from dpotrain.plugin.api.loss import columns_read
from dpotrain.plugin.api.returns import WrongReturnError, described
from dpotrain.recipe.recipe import Recipe


def applied_columns(recipe: Recipe) -> frozenset[str]:
    """Return the columns that a recipe has the engine apply; a loss that reads one itself is left to it."""
    return frozenset(APPLIED) & recipe.data.pair_columns - columns_read(recipe.loss)


def pair_losses(loss: Loss, scores: PairScores, columns: Collection[str] = ()) -> torch.Tensor:
    """Return a loss a pair, (pairs,), or raise a WrongReturnError for a loss that gives anything else.

    ``columns`` are those of :data:`dpotrain.core.pair_columns.APPLIED` that the recipe maps: ``margin`` m makes of
    ``beta * h`` in the loss ``beta * h - m`` (Amini et al. 2024, arXiv:2402.10571, eq. 5); of ``label_probability`` p
    come p times the loss and 1 - p times that of the answers the other way round; ``weight`` multiplies the result.
    """
    if "margin" in columns:
        shifted = scores.reference_chosen + scores.columns["margin"] / loss.options.beta
        scores = replace(scores, reference_chosen=shifted)
    losses = _losses(loss, scores)
    if "label_probability" in columns:
        right = scores.columns["label_probability"]
        losses = right * losses + (1 - right) * _losses(loss, exchanged(scores))
    if "weight" in columns:
        losses = scores.columns["weight"] * losses
    return losses


def pair_rewards(loss: Loss, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rewards of chosen and rejected, each (pairs,), without gradients.

    Raises a WrongReturnError where a loss gives no such two.
    """
    with torch.no_grad():
        rewards = loss.rewards(loss.diverged(scores))
    parts = rewards if isinstance(rewards, tuple | list) and rewards else (rewards,)
    if len(parts) != 2 or not all(_one_a_pair(part, scores) for part in parts):
        raise WrongReturnError(
            f"rewards returned {' and '.join(map(described, parts))}; it must return the rewards of chosen and "
            f"rejected, two tensors of shape {tuple(scores.policy_chosen.shape)}",
            loss,
        )
    return parts[0], parts[1]


def loss_parts(loss: Loss, scores: PairScores) -> dict[str, torch.Tensor]:
    """Return the parts of a loss, (pairs,) each without gradients, or raise a WrongReturnError for others."""
    if not loss.part_names:
        return {}
    parts = loss.parts(loss.diverged(scores))  # a part may be another in an evaluation, without gradients
    named = isinstance(parts, Mapping) and parts.keys() == set(loss.part_names)
    if not named or not all(_one_a_pair(part, scores) for part in parts.values()):
        each = (
            ", ".join(f"{name}: {described(part)}" for name, part in parts.items())
            if named
            else described(parts)
        )
        raise WrongReturnError(
            f"parts returned {each}; it must return a mapping with "
            f"{', '.join(map(repr, loss.part_names))}, each a tensor of shape {tuple(scores.policy_chosen.shape)}",
            loss,
        )
    return {name: parts[name].detach() for name in loss.part_names}


def exchanged(scores: PairScores) -> PairScores:
    """Return the scores with chosen and rejected the other way round."""
    tokens = scores.policy_tokens
    if tokens is not None:
        counts = torch.stack([scores.chosen_tokens, scores.rejected_tokens], 1)
        starts = (counts.flatten().cumsum(0) - counts.flatten()).view(-1, 2)
        tokens = tokens[places_of_runs(starts.flip(1).flatten(), counts.flip(1).flatten(), len(tokens))]
    return replace(
        scores,
        policy_chosen=scores.policy_rejected,
        policy_rejected=scores.policy_chosen,
        reference_chosen=scores.reference_rejected,
        reference_rejected=scores.reference_chosen,
        chosen_tokens=scores.rejected_tokens,
        rejected_tokens=scores.chosen_tokens,
        policy_tokens=tokens,
        statistics={name: values.flip(1) for name, values in scores.statistics.items()},
    )


def places_of_runs(starts: torch.Tensor, counts: torch.Tensor, total: int) -> torch.Tensor:
    """Return the places of runs one after the other, (total,) int64, without waiting for the device.

    Run k has ``counts[k]`` places from ``starts[k]`` on; ``total`` is the sum of ``counts``.
    """
    shift = (starts - (counts.cumsum(0) - counts)).repeat_interleave(counts, output_size=total)
    return shift + torch.arange(total, device=shift.device)


def _losses(loss: Loss, scores: PairScores) -> torch.Tensor:
    losses = loss.losses(scores)
    if not _one_a_pair(losses, scores):
        expected = tuple(scores.policy_chosen.shape)
        raise WrongReturnError(
            f"__call__ returned {described(losses)} for {expected[0]} pairs; it must return one number a pair, a "
            f"tensor of shape {expected}, and leave dividing by the pairs to the engine",
            loss,
        )
    return losses


def _one_a_pair(value: object, scores: PairScores) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == scores.policy_chosen.shape
