"""Weighted sums of losses."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from dpotrain.plugin.api import Beside, Loss, LossWithoutBeta, PairScores, Use

if TYPE_CHECKING:
    import torch


class Term(Beside):
    """One loss, and what it counts."""

    loss: Use[Loss] = Field(description="The loss.")
    weight: float = Field(1.0, gt=0, description="What the loss is multiplied by.")


class Mix(LossWithoutBeta):
    """The weighted sum of other losses, each with options of its own; one set of scores serves all of them.

    Iterative RPO is `dpo` and `sft` (Pang et al. 2024, arXiv 2404.19733, eq. 2); MPO is `dpo`, `bco` and `sft` (Wang et
    al. 2024, arXiv 2411.10442, eq. 1). Records have the mean of every term, before its weight, as `loss/NAME`. Rewards
    are those of the first term.
    """

    name = "mix"

    class Options(LossWithoutBeta.Options):
        terms: list[Term] = Field(
            min_length=1,
            description="The losses: `[[loss.terms]]`, each with `use`, keys of its own, and `weight` (1 unless set). "
            'A name alone has the defaults: `terms = ["dpo", "sft"]`.',
        )

    options: Options

    def __init__(self, options: Loss.Options) -> None:
        super().__init__(options)
        losses = [term.loss for term in self.options.terms]
        self.needs_reference = any(loss.needs_reference for loss in losses)
        self.couples_pairs = any(loss.couples_pairs for loss in losses)
        taken = Counter[str]()
        self._terms: dict[str, Term] = {}
        for term in self.options.terms:
            taken[term.loss.name] += 1
            number = taken[term.loss.name]
            self._terms[term.loss.name if number == 1 else f"{term.loss.name}_{number}"] = term
        #: What the last loss was of, and its terms without gradients: as a rule the parts of the same scores are next.
        self._last: tuple[list[weakref.ref[torch.Tensor]], dict[str, torch.Tensor]] = ([], {})

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(self._terms)

    def parts(self, scores: PairScores) -> Mapping[str, torch.Tensor]:
        of, parts = self._last
        same = of and all(before() is now for before, now in zip(of, _sums(scores), strict=True))
        return parts if same else self._losses(scores)

    def __call__(self, scores: PairScores) -> torch.Tensor:
        losses = self._losses(scores)
        self._last = (
            [weakref.ref(each) for each in _sums(scores)],
            {name: each.detach() for name, each in losses.items()},
        )
        first, *rest = (term.weight * losses[name] for name, term in self._terms.items())
        return sum(rest, first)

    def _losses(self, scores: PairScores) -> dict[str, torch.Tensor]:
        return {name: term.loss.losses(scores) for name, term in self._terms.items()}

    def rewards(self, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.options.terms[0].loss
        return first.rewards(first.diverged(scores))

    def first_loss(self) -> float | None:
        """Return the weighted sum of the terms' first losses, None where one has none."""
        found = [(term.weight, term.loss.first_loss()) for term in self.options.terms]
        known = [weight * loss for weight, loss in found if loss is not None]
        unknown = len(known) < len(found) or any(
            term.loss.options.weighting is not None for term in self.options.terms
        )
        return None if unknown else sum(known)


def _sums(scores: PairScores) -> tuple[torch.Tensor, ...]:
    """Return the tensors of which others are made where the engine changes scores."""
    return (
        scores.policy_chosen,
        scores.policy_rejected,
        scores.reference_chosen,
        scores.reference_rejected,
    )
