"""Rotary embeddings whose frequencies depend on the longest position of the forward pass.

LongRoPE (arXiv:2402.13753; Phi-3, Phi-4) has one set of frequencies for sequences up to its original length and another
beyond it; dynamic NTK has a set for every length beyond it, and keeps the last one. transformers takes the length from
the largest position of the call, so that another sequence of the micro-batch would change a sequence's log-probs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class LengthRule:
    """Which sequences may share a forward pass: all of at most ``limit`` tokens, and of longer ones some."""

    name: str
    """The type of rotary embedding as transformers names it, or what else depends on the length."""
    limit: int
    per_length: bool
    """Whether longer sequences share one only with those of equal length (dynamic NTK); otherwise with each other."""

    def group(self, length: int) -> int:
        """Return a number that sequences have in common which may share a forward pass."""
        return 0 if length <= self.limit else length if self.per_length else self.limit + 1

    def __str__(self) -> str:
        beyond = f", beyond {self.limit} tokens" if self.limit else ""
        how = "one length at a time" if self.per_length else "apart from shorter ones"
        return (
            f"its log-probs depend on the longest sequence of a forward pass ({self.name}{beyond}), so "
            f"{'longer ' if self.limit else ''}sequences are computed {how}, and every prompt twice"
        )


def length_rules(model: PreTrainedModel, longest: int) -> tuple[LengthRule, ...]:
    """Return the rules of a model's rotary embeddings for data whose longest sequence has so many tokens.

    Empty where its log-probs do not depend on the length. They are read from the modules, on any device.
    """
    found: dict[LengthRule, None] = {}
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)  # by layer type in some models
        for layer_type, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
            if not isinstance(kind, str):
                continue
            if "dynamic" in kind:
                found[LengthRule(kind, int(module.original_max_seq_len), per_length=True)] = None
            elif kind == "longrope":
                parameters = module.config.rope_parameters
                parameters = parameters if layer_type is None else parameters[layer_type]
                limit = int(parameters["original_max_position_embeddings"])
                found[LengthRule(kind, limit, per_length=False)] = None
    return tuple(rule for rule in found if rule.limit < longest)


def rows_by_group(lengths: Sequence[int], rules: Sequence[LengthRule]) -> list[list[int]]:
    """Return the numbers of the sequences of these lengths, parted so that each part may share a forward pass."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(tuple(rule.group(length) for rule in rules), []).append(row)
    return [groups[key] for key in sorted(groups)]
