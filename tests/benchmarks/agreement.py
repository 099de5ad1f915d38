"""Did two trainers do the same work? By the losses and log-probs of every step.

Losses alone do not tell: at a small learning rate they stay near ln 2, whatever is scored. Log-probs differ as soon as
other tokens, other pairs or another order are scored.
"""

from collections.abc import Sequence
from typing import Any

#: By precision, the largest difference of a step's loss, and of its mean log-prob sums relative to them. LoRA is
#: initialized at random, and the trainers round at other places.
BARS = {"fp32": (1e-3, 1e-4), "bf16": (5e-2, 1e-2)}


def agreement(ours: dict[str, Any], theirs: dict[str, Any], precision: str) -> dict[str, Any]:
    """Compare two sides' results: the largest differences, None where they took other steps, and the verdict."""
    losses = largest_difference(ours["losses"], theirs["losses"])
    log_probs = None
    if len(ours["log_probs"]) == len(theirs["log_probs"]):
        log_probs = max(
            abs(one - other) / max(1.0, abs(one))
            for mine, its in zip(ours["log_probs"], theirs["log_probs"], strict=True)
            for one, other in zip(mine, its, strict=True)
        )
    loss_bar, log_prob_bar = BARS[precision]
    same = losses is not None and losses <= loss_bar and log_probs is not None and log_probs <= log_prob_bar
    return {"losses": losses, "log_probs": log_probs, "same_work": same}


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the largest difference between two runs' losses, None where they took other steps."""
    if len(one) != len(other):
        return None
    return max(abs(mine - theirs) for mine, theirs in zip(one, other, strict=True))
