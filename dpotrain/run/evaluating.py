"""When the evaluation set is scored, and what becomes of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpotrain.core.errors import RunError
from dpotrain.core.records import Record
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.engine.training.trainer import Interrupted
from dpotrain.evaluation.evaluation_set import EvaluationSet
from dpotrain.run.context import RunContext


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

    def evaluate_if_due(self) -> None:
        """Evaluate where the present step wants an evaluation that it has not had: a stop may have come in between."""
        every, step = self.context.recipe.evaluation.every, self.context.state.step
        if step in (0, self.context.trainer.plan.total_steps) or (every is not None and step % every == 0):
            self.evaluate_now()

    def evaluate_now(self) -> bool:
        """Evaluate the present step, unless it has been, and return whether there are pairs to evaluate."""
        if self.evaluation_set is None:
            return False
        state = self.context.state
        if state.progress.last_evaluation.get("step") != state.step:
            self._evaluate(self.evaluation_set)
        return True

    def flush(self) -> None:
        """Let the reference of the evaluation set write what it computed; called between steps."""
        if self.evaluation_set is not None:
            self.evaluation_set.reference.flush()

    def _evaluate(self, held_out: EvaluationSet) -> None:
        context, trainer, step = self.context, self.context.trainer, self.context.state.step
        with context.reporter.phase("evaluating", len(held_out.data)) as advance:

            def advance_or_stop(count: int) -> None:
                advance(count)
                if trainer.interrupted():
                    raise Interrupted

            metrics = held_out.evaluate(
                trainer.parallel,
                self.scorer,
                context.recipe.loss,
                self.budget(trainer.plan.tokens_per_microbatch),
                advance=advance_or_stop,
                extra=trainer.extra,
                step=step,
                total_steps=trainer.plan.total_steps,
            )
        metrics = {"loss": metrics.pop("loss"), "epoch": trainer.plan.epochs_done(step), **metrics}
        best_by = context.recipe.checkpoints.best_by
        if best_by.metric not in metrics:
            raise RunError(
                f'checkpoints.best = "{best_by.metric}" is not a metric of an evaluation; there are:\n'
                + ", ".join(metrics)
            )
        record = Record("eval", step, metrics)
        context.state.progress.evaluated(step, metrics, best_by)
        context.publish(record)
        context.events.evaluated(context.run, record)
