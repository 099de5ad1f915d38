"""Whether a loss does what the engine relies on: gradients in every step, and in the first one the loss itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.core.random_state import RandomState
from dpotrain.core.scores import PairScores
from dpotrain.engine.scoring.objective import pair_rewards
from dpotrain.plugin.api import Component, Loss
from dpotrain.plugin.api.nested import nested
from dpotrain.plugin.api.returns import WrongReturnError

#: Pairs that are looked at alone and together.
_PAIRS = 4
#: How far a pair's loss may differ between the two, absolute and as a share of it: float32 rounds sums differently.
_TOLERANCE = 1e-4


def check_trained(scores: PairScores, scorer: nn.Module) -> None:
    """Check that the policy's log-probs depend on something that is trained; raise a RunError otherwise."""
    if not scores.policy_chosen.requires_grad:
        trained = [name for name, weight in scorer.named_parameters() if weight.requires_grad]
        more = f" and {len(trained) - 3} more" if len(trained) > 3 else ""
        raise RunError(
            "the policy's log-probs do not depend on what is trained, so nothing would be learned: "
            f"{', '.join(trained[:3])}{more}.\n"
            "Adapters that work through a forward of their own (prompt tuning, prefix tuning) cannot be trained."
        )


def check_gradients(loss: Loss, losses: torch.Tensor) -> None:
    """Check that gradients lead from the losses to the scores; raise a WrongReturnError otherwise.

    Neither check waits for the device.
    """
    if not losses.requires_grad:
        raise WrongReturnError(
            "__call__ returned losses without gradients; compute them from scores.policy_chosen and "
            "scores.policy_rejected, and detach neither of the two",
            loss,
        )


def loss_fault(scores: PairScores, losses: torch.Tensor) -> str:
    """Return where the losses (pairs,) of a micro-batch are not finite although the scores are; "" if nowhere."""
    policy = torch.stack([scores.policy_chosen, scores.policy_rejected])
    reference = torch.stack([scores.reference_chosen, scores.reference_rejected])
    wrong = ~losses.isfinite() & (policy + reference).isfinite().all(dim=0)
    if not wrong.any():
        return ""
    pair = int(wrong.nonzero()[0])
    return (
        f"__call__ returned {losses[pair].item()} for a pair with finite log-probs: "
        f"policy {policy[0, pair].item():.4f} chosen, {policy[1, pair].item():.4f} rejected; "
        f"reference {reference[0, pair].item():.4f} and {reference[1, pair].item():.4f}."
    )


def check_rewards(loss: Loss, scores: PairScores) -> None:
    """Check that the rewards of a micro-batch are finite where its scores are.

    Raises:
        WrongReturnError: they are not.
    """
    rewards = torch.stack(pair_rewards(loss, scores))
    policy = torch.stack([scores.policy_chosen, scores.policy_rejected])
    reference = torch.stack([scores.reference_chosen, scores.reference_rejected])
    wrong = ~rewards.isfinite() & (policy + reference).isfinite().all(dim=0)
    if wrong.any():
        raise WrongReturnError(
            f"rewards returned {rewards[wrong][0].item()} for a pair with finite log-probs; it must return finite "
            "numbers",
            loss,
        )


def check_apart(loss: Loss, scores: PairScores) -> None:
    """Check that a pair's loss does not depend on the pairs beside it; random states are left as they were.

    Raises:
        WrongReturnError: it does.
    """
    if any(type(part).state_dict is not Component.state_dict for _, part in nested(loss)):
        return  # asking one with a state would change it
    random_before = RandomState.capture()
    _compare(loss, scores)
    random_before.restore()


def _compare(loss: Loss, scores: PairScores) -> None:
    pairs = list(range(min(_PAIRS, len(scores.policy_chosen)))) if len(scores.policy_chosen) > 1 else [0, 0]
    with torch.no_grad():
        # While policy and reference are one model all margins are zero, and nothing could be told from them.
        shifts = torch.linspace(-1, 1, len(pairs)).to(scores.policy_chosen)
        some = select(scores, pairs)
        some = replace(
            some, policy_chosen=some.policy_chosen + shifts, policy_rejected=some.policy_rejected - shifts / 2
        )
        together = loss(some)
        for number in range(len(pairs)):
            alone = loss(select(some, [number]))[0]
            if (alone - together[number]).abs() > _TOLERANCE * (1 + alone.abs()):
                raise WrongReturnError(
                    f"__call__ returned {alone.item():.6f} for a pair alone and {together[number].item():.6f} for the "
                    f"same pair beside {len(pairs) - 1} others; a pair's loss may depend on its own scores only, since "
                    "which pairs share a micro-batch is the engine's business",
                    loss,
                )


def select(scores: PairScores, pairs: list[int]) -> PairScores:
    """Return the scores of these pairs, without gradients."""
    index = torch.tensor(pairs, device=scores.policy_chosen.device)
    tokens = scores.policy_tokens
    if tokens is not None:
        lengths = torch.stack([scores.chosen_tokens, scores.rejected_tokens], dim=1).sum(dim=1).tolist()
        of_pairs = torch.split(tokens.detach(), lengths)
        tokens = torch.cat([of_pairs[pair] for pair in pairs])
    return replace(
        scores,
        policy_chosen=scores.policy_chosen.detach()[index],
        policy_rejected=scores.policy_rejected.detach()[index],
        reference_chosen=scores.reference_chosen[index],
        reference_rejected=scores.reference_rejected[index],
        chosen_tokens=scores.chosen_tokens[index],
        rejected_tokens=scores.rejected_tokens[index],
        policy_tokens=tokens,
        statistics={name: values[index] for name, values in scores.statistics.items()},
        columns={name: values[index] for name, values in scores.columns.items()},
    )
