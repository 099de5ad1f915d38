"""How long a run takes, by part: measured by earlier runs, or estimated from a matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dpotrain.data.batches.plan import BatchPlan
from dpotrain.data.prepare import PreparedData
from dpotrain.engine.memory.budget import Fit
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.recipe.prompts import read_prompts
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sections.evaluation import EvaluationSection
from dpotrain.recipe.sections.samples import HELD_OUT_PROMPTS, SamplesSection
from dpotrain.run.planning.description import Description
from dpotrain.run.speed import Workload, first_passes

#: Bytes a second that weights are read at, once for each token of an answer: usual for a machine's main memory, and for
#: a data-center GPU.
_BANDWIDTH = {"cpu": 2e10, "cuda": 2e12}


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of a run; checkpoints, which are written while training goes on, and exporters are not in it."""

    loading: float | None
    """Until the first evaluation, without tokenizing; None where no run has measured it."""
    reference: float
    """The reference's pass before training."""
    evaluations: int
    evaluation: float
    """Each of them; the first one computes the reference's log-probs, too, and with a live reference each does."""
    first_evaluation: float
    evaluates_first: bool
    """Whether the first one is before training."""
    samples: int
    """How often the prompts of ``[samples]`` are answered, once before training."""
    sample: float
    """Each time, if no answer ends before ``samples.max_tokens``."""
    training: float
    tokens_per_second: float

    @property
    def total(self) -> float:
        """All of it that is known."""
        evaluations = self.first_evaluation + max(0, self.evaluations - 1) * self.evaluation
        answers = self.samples * self.sample
        return (self.loading or 0.0) + self.reference + self.training + evaluations + answers

    @property
    def before_training(self) -> float:
        """What is known of the time until the first step."""
        first = self.first_evaluation if self.evaluates_first else 0.0
        return (self.loading or 0.0) + self.reference + first + (self.sample if self.samples else 0.0)


def duration_of(
    recipe: Recipe,
    data: PreparedData,
    described: Description,
    batches: BatchPlan,
    fit: Fit,
    device: str,
    rate: float,
    loading: float | None,
) -> Duration:
    """Return how long a run takes on a "cpu" or "cuda" device, or several.

    ``rate`` is the floating-point operations a second of all of them, ``loading`` the measured seconds of loading.
    """
    work, reference, padded = described.work, ReferencePlan.of(recipe), batches.costs.padded
    used = data.train.select(np.flatnonzero(batches.used()))
    first_epoch = batches.mixture.order(recipe.seed, 0, recipe.data.shuffle)
    load = Workload.of(data.train.select(first_epoch), padded)
    epoch = epoch_operations(recipe, described, batches, fit, load) / rate
    evaluation, first, count, steps = 0.0, 0.0, 0, batches.total_steps
    if data.evaluation is not None:
        pairs = len(data.evaluation)
        share = min(pairs, recipe.evaluation.pairs or pairs) / pairs
        forward = share * work.forward(Workload.of(data.evaluation, padded)) / rate
        evaluation = forward * (2 if reference.computed == "every step" else 1)
        first = forward * (2 if recipe.loss.needs_reference else 1)
        count = len(evaluated_steps(steps, recipe.evaluation))
    samples, sample = 0, 0.0
    if recipe.samples is not None:
        prompts = _prompts(recipe.samples)
        token = described.size.bytes / _BANDWIDTH[device] + prompts * work.forward(Workload(1, 1, 0.0)) / rate
        samples, sample = len(sampled_steps(steps, recipe)), recipe.samples.max_tokens * token
    return Duration(
        loading=loading,
        reference=work.forward(Workload.of(used, padded)) / rate if reference.pass_before_training else 0.0,
        evaluations=count,
        evaluation=evaluation,
        first_evaluation=first,
        evaluates_first=recipe.evaluation.first,
        samples=samples,
        sample=sample,
        training=batches.epochs_done(batches.total_steps) * epoch,
        tokens_per_second=float(data.train.lengths[first_epoch].sum()) / epoch,
    )


def epoch_operations(
    recipe: Recipe, described: Description, batches: BatchPlan, fit: Fit, load: Workload
) -> float:
    """Return the floating-point operations of training on ``load``, the pairs of an epoch."""
    passes = passes_without_gradients(recipe, described, batches)
    recomputed = fit.checkpointed / max(1, fit.layers)
    return described.work.training(load, reference_passes=passes, recomputed=recomputed)


def passes_without_gradients(recipe: Recipe, described: Description, batches: BatchPlan) -> float:
    """Return how often the pairs of a step are scored without gradients."""
    return ReferencePlan.of(recipe).passes_per_step + first_passes(recipe, described.policy, batches)


def evaluated_steps(steps: int, settings: EvaluationSection) -> set[int]:
    """Return the steps after which the evaluation set is scored."""
    every = settings.every
    between = range(every, steps, every) if every is not None else ()
    return {*((0,) if settings.first else ()), *between, steps}


def sampled_steps(steps: int, recipe: Recipe) -> set[int]:
    """Return the steps after which the prompts of ``[samples]`` are answered."""
    every, samples = recipe.evaluation.every, recipe.samples
    if samples is None:
        return set()
    between = range(every * samples.every, steps, every * samples.every) if every is not None else ()
    return {0, *between, steps}


def _prompts(settings: SamplesSection) -> int:
    if settings.prompts == "held-out":
        return settings.count or HELD_OUT_PROMPTS
    return len(read_prompts(settings.prompts)[: settings.count])
