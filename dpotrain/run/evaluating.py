"""When the evaluation set is scored, and what becomes of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dpotrain.core.errors import RunError
from dpotrain.core.records import BestBy, Record, Run
from dpotrain.core.reporter import Advance, Reporter
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.engine.training.trainer import Interrupted, Trainer
from dpotrain.evaluation.evaluation_set import EvaluationSet
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.publishing import Publisher
from dpotrain.run.state import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Evaluates the policy of a run."""

    recipe: Recipe
    run: Run
    evaluation_set: EvaluationSet | None
    """None where no pairs are held out: nothing is ever evaluated."""
    budget: Callable[[int], int]
    """Turns the tokens of training's micro-batches into those of a pass without gradients."""
    scorer: Scorer
    """The policy's, not wrapped for data parallelism."""
    trainer: Trainer
    state: RunState
    publisher: Publisher
    events: RunEvents
    reporter: Reporter

    def evaluate_if_due(self) -> None:
        """Evaluate where the present step wants an evaluation that it has not had: a stop may have come in between."""
        if self.evaluation_set is None or self.state.progress.last_evaluation.get("step") == self.state.step:
            return
        every, step = self.recipe.evaluation.every, self.state.step
        if step in (0, self.trainer.plan.total_steps) or (every is not None and step % every == 0):
            self._evaluate(self.evaluation_set)

    def flush(self) -> None:
        """Let the reference of the evaluation set write what it computed; called between steps."""
        if self.evaluation_set is not None:
            self.evaluation_set.reference.flush()

    def _evaluate(self, held_out: EvaluationSet) -> None:
        trainer, step = self.trainer, self.state.step
        with self.reporter.phase("evaluating", len(held_out.data)) as advance:
            metrics = held_out.evaluate(
                trainer.parallel,
                self.scorer,
                self.recipe.loss,
                self.budget(trainer.plan.tokens_per_microbatch),
                advance=self._advance_or_stop(advance),
                extra=trainer.extra,
            )
        metrics = {"loss": metrics.pop("loss"), "epoch": trainer.plan.epochs_done(step), **metrics}
        record = Record("eval", step, metrics)
        self.state.progress.evaluated(step, metrics, self._best_by(metrics))
        self.publisher.publish(record)
        self.events.evaluated(self.run, record)

    def _advance_or_stop(self, advance: Advance) -> Callable[[int], None]:
        def moved(count: int) -> None:
            advance(count)
            if self.trainer.interrupted():
                raise Interrupted

        return moved

    def _best_by(self, metrics: Mapping[str, float]) -> BestBy:
        best_by = self.recipe.checkpoints.best_by
        if best_by.metric not in metrics:
            raise RunError(
                f'checkpoints.best = "{best_by.metric}" is not a metric of an evaluation; there are:\n'
                + ", ".join(metrics)
            )
        return best_by
