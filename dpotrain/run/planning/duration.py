"""How long a run takes, by part: measured by earlier runs, or estimated from a matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dpotrain.data.batches.plan import BatchPlan
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.budget import Fit
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.measurements import Learned
from dpotrain.run.planning.description import Description
from dpotrain.run.speed import Workload, sustained_rate


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of a run; checkpoints, which are written while training goes on, and exporters are not in it."""

    loading: float | None
    """Until the first evaluation, without tokenizing; None where no run has measured it."""
    reference: float
    """The reference's pass before training."""
    evaluations: int
    evaluation: float
    """Each of them; the first one computes the reference's log-probs, too."""
    first_evaluation: float
    training: float
    tokens_per_second: float

    @property
    def total(self) -> float:
        """All of it that is known."""
        more = max(0, self.evaluations - 1) * self.evaluation
        return self.before_training + self.training + more

    @property
    def before_training(self) -> float:
        """What is known of the time until the first step."""
        return (self.loading or 0.0) + self.reference + self.first_evaluation


def duration_of(
    recipe: Recipe,
    data: PreparedData,
    described: Description,
    batches: BatchPlan,
    fit: Fit,
    device: str,
    learned: Learned | None,
) -> Duration:
    """Return how long a run takes on this machine's ``device``."""
    work, reference, padded = described.work, ReferencePlan.of(recipe), batches.costs.padded
    load = Workload.of(data.train, padded)
    rate = sustained_rate(torch.device(device), described.precision) if learned is None else learned.rate
    recomputed = fit.checkpointed / max(1, fit.layers)
    passes = reference.passes_per_step
    epoch = work.training(load, reference_passes=passes, recomputed=recomputed) / rate
    evaluation, count = 0.0, 0
    if data.evaluation is not None:
        evaluation = work.forward(Workload.of(data.evaluation, padded)) / rate
        count = len(evaluated_steps(batches.total_steps, recipe.evaluation.every))
    return Duration(
        loading=None if learned is None else learned.loading,
        reference=work.forward(load) / rate if reference.pass_before_training else 0.0,
        evaluations=count,
        evaluation=evaluation,
        first_evaluation=2 * evaluation if recipe.loss.needs_reference else evaluation,
        training=batches.epochs_done(batches.total_steps) * epoch,
        tokens_per_second=float(data.train.lengths.sum()) / epoch,
    )


def evaluated_steps(steps: int, every: int | None) -> set[int]:
    """Return the steps after which the evaluation set is scored."""
    return {0, steps, *(range(every, steps, every) if every is not None else ())}
