"""From when steps ended to what is compared.

The clock starts at the end of the first step, which warms up, and ends with the last: what lies between steps counts.
"""

import statistics
from collections.abc import Sequence
from typing import Any


def speeds(result: dict[str, Any], facts: dict[str, Any], pairs_per_step: int) -> dict[str, float]:
    """Return one round's figures.

    Args:
        result: a side's, with ``step_ends`` in seconds of one clock.
        facts: with tokens and operations of each pair of an epoch, in file order.
        pairs_per_step: pairs of a step; an epoch's last step may have fewer.

    Raises ValueError where the side took other steps than these pairs make.
    """
    plan, ends = steps_of(facts["pairs"], pairs_per_step), result["step_ends"]
    if not ends or len(ends) % len(plan):
        raise ValueError(
            f"took {len(ends)} steps where an epoch has {len(plan)}; it kept or dropped other pairs, or other settings "
            "decided the steps"
        )
    epochs = len(ends) // len(plan)
    taken = (plan * epochs)[1:]
    seconds = ends[-1] - ends[0]
    work = ("policy_flops", "reference_flops") if result["live_reference"] else ("policy_flops",)
    flops = sum(step[part] for step in taken for part in work) / seconds
    figures = {
        "pairs_per_second": sum(step["pairs"] for step in taken) / seconds,
        "tokens_per_second": sum(step["tokens"] for step in taken) / seconds,
        "model_flops_per_second": flops,
        "share_of_matrix_product_rate": flops / facts["matrix_product_flops_per_second"],
        "reference_seconds": result["reference_seconds"],
        "first_epoch_pairs_per_second": _first_epoch(plan, ends, result["reference_seconds"]),
        **{f"peak_{kind}_mb": peak for kind, peak in result["peak_memory_mb"].items()},
    }
    if epochs > 1:
        pairs = sum(step["pairs"] for step in plan) * (epochs - 1)
        figures["later_epochs_pairs_per_second"] = pairs / (ends[-1] - ends[len(plan) - 1])
    return figures


def steps_of(pairs: Sequence[dict[str, int]], pairs_per_step: int) -> list[dict[str, int]]:
    """Add up the pairs of each step."""
    steps = []
    for start in range(0, len(pairs), pairs_per_step):
        inside = pairs[start : start + pairs_per_step]
        steps.append(
            {"pairs": len(inside), **{name: sum(pair[name] for pair in inside) for name in inside[0]}}
        )
    return steps


def _first_epoch(plan: Sequence[dict[str, int]], ends: Sequence[float], reference: float) -> float:
    """Pairs a second of the first epoch and the reference pass before it; the warm-up step counts as the others do."""
    pairs = sum(step["pairs"] for step in plan)
    if len(plan) == 1:  # only the warm-up step; the steps of later epochs stand for it
        steady = (ends[-1] - ends[0]) / (len(ends) - 1)
    else:
        steady = (ends[len(plan) - 1] - ends[0]) * pairs / sum(step["pairs"] for step in plan[1:])
    return pairs / (reference + steady)


def over_rounds(rounds: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return median, least and most of each figure."""
    return {
        name: {
            "median": statistics.median(each[name] for each in rounds),
            "min": min(each[name] for each in rounds),
            "max": max(each[name] for each in rounds),
        }
        for name in rounds[0]
    }


def phases(result: dict[str, Any]) -> dict[str, float]:
    """Return seconds a step by phase from an instrumented run, what lies between steps included.

    The last step was profiled, which slows it, so it counts only where there is no other.
    """
    ends = result["step_ends"]
    ends = ends[:-1] if len(ends) > 2 else ends
    inside = dict(result["phases"])
    total = (ends[-1] - ends[0]) / (len(ends) - 1)
    return {**inside, "between steps": total - sum(inside.values()), "step in all": total}
