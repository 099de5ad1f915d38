"""When the evaluation set is scored and the policy sampled, and what becomes of the result."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from dpotrain.core.errors import RunError
from dpotrain.core.records import Record, SamplesRecord
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.engine.training.metrics import ROUTER_LOSS, SUMMED, means, speed
from dpotrain.engine.training.unfinished import Interrupted
from dpotrain.evaluation.evaluation_set import EvaluationSet
from dpotrain.evaluation.sampler import Sampler
from dpotrain.run.context import RunContext


def check_best(metric: str, names: Collection[str]) -> None:
    """Raise a RunError where ``checkpoints.best`` is not among the names of an evaluation's metrics."""
    if metric not in names:
        raise RunError(
            f'checkpoints.best = "{metric}" is not a metric of an evaluation; there are:\n' + ", ".join(names)
        )


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates the policy of a run."""

    context: RunContext
    evaluation_set: EvaluationSet | None
    """None where no pairs are held out: nothing is ever evaluated."""
    budget: Callable[[int], int]
    """Turns the tokens of training's micro-batches into those of a pass without gradients."""
    scorer: Scorer
    """The policy's, not wrapped for data parallelism."""
    sampler: Sampler | None
    """None where the recipe has no ``[samples]``."""
    _warned: list[str] = field(default_factory=list)
    """What a warning has said already of prompts that cannot be answered."""

    def evaluate_if_due(self) -> None:
        """Evaluate and sample where the present step wants what it has not had: a stop may have come in between."""
        recipe, step = self.context.recipe, self.context.state.step
        last, every = step == self.context.trainer.plan.total_steps, recipe.evaluation.every
        regular = every is not None and step > 0 and step % every == 0
        if regular or last or (step == 0 and recipe.evaluation.first):
            self._evaluate_once()
        elif step == 0 and self.evaluation_set is not None:
            # The first evaluation, far from here, must not be the end of the run.
            check_best(recipe.checkpoints.best, self._names())
        if recipe.samples is None:
            return
        sampled = every is not None and regular and step // every % recipe.samples.every == 0
        if sampled or last or step == 0:
            self._sample_once()

    def evaluate_now(self) -> bool:
        """Evaluate and sample the present step, unless it has been; return whether there is anything to do it with."""
        self._evaluate_once()
        self._sample_once()
        return self.evaluation_set is not None or self.sampler is not None

    def is_best(self) -> bool:
        """Whether the present step has had the best evaluation of all after the first step."""
        progress, best_by = self.context.state.progress, self.context.recipe.checkpoints.best_by
        return progress.best_step(best_by) == progress.step > 0

    def _evaluate_once(self) -> None:
        state = self.context.state
        if self.evaluation_set is not None and state.progress.last_evaluation.get("step") != state.step:
            self._evaluate(self.evaluation_set)

    def _sample_once(self) -> None:
        state = self.context.state
        if self.sampler is not None and state.progress.sampled != state.step:
            self._sample(self.sampler)

    def _names(self) -> list[str]:
        """Return the names of an evaluation's metrics, as far as they are known before there is one."""
        sums = [0.0] * len(SUMMED)
        own = ["loss", "epoch", "pairs", *means(sums), *speed(sums, 1.0)]
        trainer = self.context.trainer
        balance = [] if trainer.router_loss is None else [ROUTER_LOSS]
        labels = [] if self.evaluation_set is None else self.evaluation_set.labels_of_pairs
        by_source = [f"{label}/{name}" for label in labels for name in (*means(sums), *trainer.extra.names)]
        return list(dict.fromkeys([*own, *balance, *trainer.extra.names, *by_source]))

    def flush(self) -> None:
        """Let the reference of the evaluation set write what it computed; called between steps."""
        if self.evaluation_set is not None:
            self.evaluation_set.reference.flush()

    def _stop_if_asked(self) -> None:
        if self.context.trainer.interrupted():
            raise Interrupted

    def _sample(self, sampler: Sampler) -> None:
        context, step = self.context, self.context.state.step
        with context.reporter.phase("sampling", len(sampler.prompts)) as advance:
            answers = sampler.sample(advance, self._stop_if_asked)
        context.state.progress.sampled = step
        if answers.failure and not self._warned:
            self._warned.append(answers.failure)
            left_out = "their answers are left empty" if answers.samples else "there are no samples"
            context.reporter.warn(f"prompts of [samples] cannot be answered, {left_out}: {answers.failure}")
        if answers.samples:
            context.publish_samples(SamplesRecord(step, answers.samples))

    def _evaluate(self, held_out: EvaluationSet) -> None:
        context, trainer, step = self.context, self.context.trainer, self.context.state.step
        with context.reporter.phase("evaluating", len(held_out.data)) as advance:

            def advance_or_stop(count: int) -> None:
                advance(count)
                self._stop_if_asked()

            evaluation = held_out.evaluate(
                trainer.parallel,
                self.scorer,
                context.recipe.loss,
                self.budget(trainer.plan.tokens_per_microbatch),
                advance=advance_or_stop,
                extra=trainer.extra,
                router_loss=trainer.router_loss,
                step=step,
                total_steps=trainer.plan.total_steps,
            )
        metrics = evaluation.metrics
        metrics = {
            "loss": metrics.pop("loss"),
            "epoch": trainer.plan.epochs_done(step),
            "pairs": len(held_out.data),
            **metrics,
        }
        best_by = context.recipe.checkpoints.best_by
        check_best(best_by.metric, metrics)
        record = Record("eval", step, metrics)
        if trainer.parallel.is_main:
            context.evaluations.write(step, evaluation.rewards)
        context.state.progress.evaluated(step, metrics, best_by)
        of_steps = dict(context.run.logged)
        context.run.logged.clear()
        try:
            context.events.evaluated(context.run, record)
        finally:  # it is there also where a plugin ends the run
            context.publish(record)
            context.run.logged.update(of_steps)
