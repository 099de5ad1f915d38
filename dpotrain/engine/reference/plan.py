"""How a recipe reaches its reference: which model computes it, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dpotrain.core.pair_columns import REFERENCE
from dpotrain.recipe.sections.reference import INITIAL_POLICY

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """What ``[reference]``, ``[adapter]``, ``[loss]`` and ``training.epochs`` decide together."""

    model: Literal["none", "data", "policy", "second copy", "separate model"]
    """What computes the reference's log-probs: nothing (the loss needs none, or columns of the data hold them), the
    policy itself (its adapter off, or before training), the policy with a second copy of its trained weights, or the
    model that ``reference.of`` names."""
    computed: Literal["never", "before training", "every step", "every step unless stored"]

    @classmethod
    def of(cls, recipe: Recipe) -> ReferencePlan:
        """Decide for a recipe."""
        when, in_place = recipe.reference.when, recipe.trains_in_place
        if not recipe.loss.needs_reference:
            return cls("none", "never")
        if recipe.data.pair_columns.issuperset(REFERENCE):
            return cls("data", "never")
        if recipe.reference.of != INITIAL_POLICY:
            return cls("separate model", "every step" if when == "live" else "before training")
        if recipe.reference.update is not None or (when == "live" and in_place):
            return cls("second copy", "every step")
        if when == "live":
            return cls("policy", "every step")
        if when == "auto" and not in_place and recipe.training.epochs == 1:
            # Each training pair is scored once, so a pass before training would cost what it saves.
            return cls("policy", "every step unless stored")
        return cls("policy", "before training")

    @property
    def loaded_before_policy(self) -> bool:
        """Whether the model comes first, so that it is gone before the policy is loaded where it is not kept."""
        return self.model == "separate model"

    @property
    def model_beside_policy(self) -> bool:
        """Whether weights of its own stay in memory during training."""
        return self.model in ("second copy", "separate model") and self.computed == "every step"

    @property
    def passes_per_step(self) -> int:
        """Forward passes of the reference in a step whose log-probs are not stored yet."""
        return int(self.computed in ("every step", "every step unless stored"))

    @property
    def pass_before_training(self) -> bool:
        """Whether all pairs are scored before the first step, but for those that are stored already."""
        return self.computed == "before training"
