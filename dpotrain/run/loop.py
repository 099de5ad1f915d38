"""The loop of a run: steps, and around them records, evaluation, checkpoints, plugins and stopping."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpotrain.core.errors import RunError
from dpotrain.core.records import Record, Status, StepRecord
from dpotrain.engine.training.unfinished import Interrupted, NotFinite
from dpotrain.run.checkpoint.saving import CheckpointSaver
from dpotrain.run.context import RunContext
from dpotrain.run.evaluating import Evaluator
from dpotrain.run.spikes import SpikeWatch
from dpotrain.run.stopping import StopRequest


@dataclass(slots=True)
class RunLoop:
    """Takes a run from its present step to its end, or to where it is asked to stop."""

    context: RunContext
    evaluator: Evaluator
    checkpoints: CheckpointSaver
    stop: StopRequest
    spikes: SpikeWatch = field(default_factory=SpikeWatch)

    def run_to_end(self) -> Status:
        """Evaluate, train to the end or until asked to stop, evaluate again."""
        context = self.context
        self.stop.defer()
        with context.reporter.phase("starting loggers and plugins", None):
            context.events.loggers.start(context.run)
            context.events.run_started(context.run)
        try:
            self.evaluator.evaluate_if_due()
            end = self._serve_requests()
            if end is None:
                for record in context.trainer.steps(after=context.state.step):
                    self._after_step(record)
                    if (end := self._serve_requests()) is not None:
                        break
            if end is not None:
                return end
        except Interrupted:
            return self._stopped()
        except NotFinite:
            self.checkpoints.save_unless_saved()
            raise
        except KeyboardInterrupt:  # the second: it waits for nothing
            raise
        except BaseException as error:
            try:
                self.checkpoints.wait()
            except RunError as second:
                error.add_note(str(second))
            raise
        return "finished"

    def _after_step(self, record: StepRecord) -> None:
        context, progress = self.context, self.context.state.progress
        progress.count(record.step, record.pairs, record.tokens, record.seconds)
        progress.learning_rate = record.metrics["learning_rate"]
        context.reporter.step(record)
        if spike := self.spikes.warning(record.step, record.metrics["loss"]):
            context.reporter.warn(spike)
        last = record.step == record.total_steps
        context.events.step_ended(context.run, record)
        if last or record.step % context.recipe.logging.every == 0:
            self._publish_window()
        self.evaluator.evaluate_if_due()
        # References write what they computed now: the device has just been waited for anyway.
        context.trainer.reference.flush()
        self.evaluator.flush()
        # The last step's is there in case the result cannot be written.
        every = context.recipe.checkpoints.every
        due = every is not None and (last or record.step % every == 0)
        if due or (context.recipe.evaluation.best and self.evaluator.is_best()):
            self.checkpoints.save(in_background=not last)
        self.checkpoints.announce()

    def _serve_requests(self) -> Status | None:
        """Evaluate and save where somebody asks for it; return the status where the run is to end here. Collective."""
        context, progress = self.context, self.context.state.progress
        save, evaluate = self.stop.controls.take()
        # The ranks must agree, or one would wait for the others in the next step.
        stop, finish, save, evaluate = context.trainer.parallel.any(
            bool(self.stop), bool(progress.finish_reason), save, evaluate
        )
        if evaluate and not (stop or finish) and not self.evaluator.evaluate_now():
            context.reporter.note("there are no held-out pairs to evaluate")
        if stop:
            return self._stopped()
        if finish and progress.step < context.trainer.plan.total_steps:
            return self._finished_early()
        if save:
            self.checkpoints.save_unless_saved(in_background=True)
        return None

    def _finished_early(self) -> Status:
        """End the run here as if it had no more steps: its last records, evaluation and checkpoint."""
        context, step = self.context, self.context.state.step
        reason = context.state.progress.finish_reason
        if reason:
            context.reporter.note(f"the run ends after step {step:,}: {reason}")
            context.run.report("ended early", {"after step": step, "reason": reason})
        if context.state.window.steps:
            self._publish_window()
        self.evaluator.evaluate_now()
        self.checkpoints.save_unless_saved()
        return "finished"

    def _publish_window(self) -> None:
        """Write the train record of the steps since the last one."""
        context, progress, window = self.context, self.context.state.progress, self.context.state.window
        epoch = context.trainer.plan.epochs_done(progress.step)
        progress.last_train = window.metrics(progress.learning_rate, epoch)
        window.reset()
        context.publish(Record("train", progress.step, progress.last_train))

    def _stopped(self) -> Status:
        who = self.stop.name or "another process was asked to stop"
        self.context.reporter.note(f"{who}: saving the state of step {self.context.state.step}")
        self.checkpoints.save_unless_saved()
        return "stopped"
