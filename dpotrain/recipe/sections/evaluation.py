"""The table ``[evaluation]``."""

from __future__ import annotations

from pydantic import Field

from dpotrain.recipe.sections.base import Section


class EvaluationSection(Section):
    """When the held-out pairs are evaluated, besides after training, and on how many of them."""

    every: int | None = Field(None, ge=1, description="Number of steps between evaluations.")
    first: bool = Field(True, description="Evaluate before training, too.")
    pairs: int | None = Field(
        None,
        ge=1,
        description="Evaluate on this many of the held-out pairs: a sample by the recipe's `seed`, the same in every "
        "evaluation. All of them unless set.",
    )
    best: bool = Field(
        False,
        description="`final/` holds the policy of the best evaluation (by `checkpoints.best`) instead of the last "
        "step's. A checkpoint is saved after every evaluation that is the best so far, and kept until a better one is "
        "complete. The evaluation before training does not count; the evaluation that the summary calls the last "
        "remains that of the last step.",
    )
