"""What comparisons say in words, on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpotrain.core.formats import count, printable
from dpotrain.report.comparison import PairedRuns


def paired_text(pair: PairedRuns, names: Sequence[str]) -> str:
    """Return what the pairs that two runs scored say, in a few sentences."""
    counts, first, second = pair.counts, names[pair.first], names[pair.second]
    unequal = counts.only_first + counts.only_second
    test = f"exact McNemar test: p = {p_value(counts.p_value)}" if unequal else "the runs agree on every pair"
    return (
        f"Of {count(counts.count)} pairs that both scored, {count(counts.both_right)} are right in both and "
        f"{count(counts.both_wrong)} wrong in both. {count(counts.only_second)} are right in {second} only, "
        f"{count(counts.only_first)} in {first} only ({test})."
    )


def p_value(value: float) -> str:
    """Return a p-value as papers write it."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def value_text(value: Any) -> str:
    """Return a value of a recipe nearly as TOML writes it; a missing one is a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return printable(str(value))
