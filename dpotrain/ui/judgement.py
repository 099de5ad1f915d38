"""Explanations of numbers that are often misread."""

from __future__ import annotations

from collections.abc import Mapping

CHOSEN_REWARDS_FALL = "A chosen reward below zero is normal in DPO: the margin counts, and it grew."


def chosen_rewards_fall(first: Mapping[str, float], last: Mapping[str, float]) -> bool:
    """Whether ``last`` shows what is often taken for a bug: chosen rewards below zero, margins up.

    Both are metrics of evaluations, or of train records; an empty ``first`` counts as zero margin, which an
    untrained policy has.
    """
    margin = last.get("rewards/margins", 0.0)
    return last.get("rewards/chosen", 0.0) < 0 and margin > max(first.get("rewards/margins", 0.0), 0.0)
