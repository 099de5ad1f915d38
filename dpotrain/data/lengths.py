"""Lengths in tokens: quantiles, a histogram, and how they differ between chosen and rejected answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}

Lengths = dict[str, dict[str, float]]
#: The largest length of each bin to the number of lengths in it.
Histogram = dict[str, int]


@dataclass(slots=True)
class LengthBias:
    """How often, and by how much, the chosen answer is the longer one."""

    chosen_longer: int = 0
    rejected_longer: int = 0
    mean_difference: float = 0.0
    """Mean tokens of the chosen answer minus those of the rejected one."""


def quantiles(
    prompt: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], rejected: npt.NDArray[np.int64]
) -> Lengths:
    """Return quantiles and mean of tokens by part; each array is (pairs,). Empty without pairs.

    ``sequence`` is the prompt with its longer answer, which max_length limits; ``total`` is the prompt once
    and both answers, which the policy computes.
    """
    if not len(prompt):
        return {}
    parts = {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "sequence": prompt + np.maximum(chosen, rejected),
        "total": prompt + chosen + rejected,
    }
    return {
        part: {name: float(np.quantile(lengths, q)) for name, q in _QUANTILES.items()}
        | {"mean": round(float(lengths.mean()), 1)}
        for part, lengths in parts.items()
    }


def histogram(lengths: npt.NDArray[np.int64]) -> Histogram:
    """Count (pairs,) lengths in bins that end at 16, 24, 32, 48, 64, 96 and so on, from the first that is not empty."""
    if not len(lengths):
        return {}
    edges = [16]
    while edges[-1] < lengths.max():
        edges.append(edges[-1] * 3 // 2 if edges[-1] & (edges[-1] - 1) == 0 else edges[-1] // 3 * 4)
    counts = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges)).tolist()
    first = next(place for place, count in enumerate(counts) if count)
    return {str(edge): count for edge, count in zip(edges[first:], counts[first:], strict=True)}


def length_bias(chosen: npt.NDArray[np.int64], rejected: npt.NDArray[np.int64]) -> LengthBias:
    """Compare the (pairs,) lengths of the two answers."""
    if not len(chosen):
        return LengthBias()
    difference = chosen - rejected
    return LengthBias(
        chosen_longer=int((difference > 0).sum()),
        rejected_longer=int((difference < 0).sum()),
        mean_difference=round(float(difference.mean()), 1),
    )
