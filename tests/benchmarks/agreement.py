"""Did two trainers do the same work? By the losses and log-probs of every step.

Losses alone do not tell: at a small learning rate they stay near ln 2, whatever is scored. Log-probs differ as soon as
other tokens, other pairs or another order are scored.
"""

import math
from collections.abc import Sequence
from typing import Any

#: By precision, the largest difference of a step's loss, and of its mean log-prob sums relative to them. LoRA is
#: initialized at random, and the trainers round at other places.
BARS = {"fp32": (1e-3, 1e-4), "bf16": (5e-2, 1e-2)}
#: Tokens of a pair, and pairs of a step, at which the bar of bf16 losses holds. Each token's log-prob is rounded by
#: itself, so that a pair's noise grows with the root of its tokens; a step's is that of the mean of its pairs.
AT = (250, 4)


def agreement(
    ours: dict[str, Any], theirs: dict[str, Any], precision: str, tokens: float, pairs_per_step: int
) -> dict[str, Any]:
    """Compare two sides' results: the largest differences, None where they took other steps, and the verdict.

    ``tokens`` are those of a pair, on average.
    """
    losses = largest_difference(ours["losses"], theirs["losses"])
    log_probs = None
    if len(ours["log_probs"]) == len(theirs["log_probs"]):
        log_probs = max(
            abs(one - other) / max(1.0, abs(one))
            for mine, its in zip(ours["log_probs"], theirs["log_probs"], strict=True)
            for one, other in zip(mine, its, strict=True)
        )
    bar = loss_bar(precision, tokens, pairs_per_step)
    same = losses is not None and losses <= bar and log_probs is not None and log_probs <= BARS[precision][1]
    return {"losses": losses, "log_probs": log_probs, "same_work": same}


def loss_bar(precision: str, tokens: float, pairs_per_step: int) -> float:
    """Return the largest difference of two losses of a step of so many pairs, of so many tokens on average."""
    bar = BARS[precision][0]
    if precision == "bf16":
        bar *= max(1.0, math.sqrt(tokens / AT[0] * AT[1] / pairs_per_step))
    return bar


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the largest difference between two runs' losses, None where they took other steps."""
    if len(one) != len(other):
        return None
    return max(abs(mine - theirs) for mine, theirs in zip(one, other, strict=True))
