"""A record as one line of ``key=value``, for plain output and the log."""

from __future__ import annotations

from collections.abc import Callable

from dpotrain.core.formats import learning_rate, magnitude, number, rate
from dpotrain.core.records import Record

#: What a line shows, in this order: the metric, its key, how it is written. An evaluation has the first ones alone.
_FIELDS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("loss", "loss", number),
    ("rewards/accuracies", "accuracy", number),
    ("rewards/margins", "margin", number),
    ("rewards/chosen", "chosen", number),
    ("rewards/rejected", "rejected", number),
    ("grad_norm", "grad_norm", magnitude),
    ("learning_rate", "lr", learning_rate),
    ("pairs_per_second", "pairs/s", lambda value: rate(value).replace(",", "")),
    ("tokens_per_second", "tokens/s", lambda value: rate(value).replace(",", "")),
    ("peak_memory_mb", "memory_mb", lambda value: f"{value:.0f}"),
)
_EVALUATION_FIELDS = 5


def record_line(record: Record, total_steps: int | None = None) -> str:
    """Return ``step 10/470 loss=0.5312 …`` or ``eval step=200 loss=0.5431 …``, with the numbers that there are."""
    have, evaluates = record.metrics, record.kind == "eval"
    of = "" if total_steps is None else f"/{total_steps}"
    start = f"eval step={record.step}" if evaluates else f"step {record.step}{of}"
    fields = _FIELDS[:_EVALUATION_FIELDS] if evaluates else _FIELDS
    return start + "".join(f" {key}={write(have[metric])}" for metric, key, write in fields if metric in have)
