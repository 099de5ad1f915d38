"""The loop of a run: steps, and around them records, evaluation, checkpoints, plugins and stopping."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpotrain.core.errors import RunError
from dpotrain.core.records import Record, Run, Status, StepRecord
from dpotrain.core.reporter import Reporter
from dpotrain.engine.training.trainer import Interrupted, NotFinite, Trainer
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.checkpoint.saving import CheckpointSaver
from dpotrain.run.evaluating import Evaluator
from dpotrain.run.publishing import Publisher
from dpotrain.run.spikes import SpikeWatch
from dpotrain.run.state import RunState
from dpotrain.run.stopping import StopRequest


@dataclass(kw_only=True)
class RunLoop:
    """Takes a run from its present step to its end, or to where it is asked to stop."""

    recipe: Recipe
    run: Run
    trainer: Trainer
    state: RunState
    evaluator: Evaluator
    checkpoints: CheckpointSaver
    publisher: Publisher
    events: RunEvents
    reporter: Reporter
    stop: StopRequest
    spikes: SpikeWatch = field(default_factory=SpikeWatch)

    def run_to_end(self) -> Status:
        """Evaluate, train to the end or until asked to stop, evaluate again."""
        self.stop.defer()
        self.events.loggers.start(self.run)
        self.events.run_started(self.run)
        try:
            self.evaluator.evaluate_if_due()
            if self._asked_to_stop():
                return self._stopped()
            for record in self.trainer.steps(after=self.state.step):
                self._after_step(record)
                if self._asked_to_stop():
                    return self._stopped()
        except Interrupted:
            return self._stopped()
        except NotFinite:
            self.checkpoints.save_unless_saved()
            raise
        except KeyboardInterrupt:  # the second: it waits for nothing
            raise
        except BaseException as error:
            self._finish_writing(error)
            raise
        return "finished"

    def _after_step(self, record: StepRecord) -> None:
        self.state.progress.count(record.step, record.pairs, record.tokens, record.seconds)
        self.reporter.step(record)
        if spike := self.spikes.warning(record.step, record.metrics["loss"]):
            self.reporter.warn(spike)
        last = record.step == record.total_steps
        if last or record.step % self.recipe.logging.every == 0:
            self._log(record)
        self.events.step_ended(self.run, record)
        self.evaluator.evaluate_if_due()
        # References write down what they computed now: the device has just been waited for anyway.
        self.trainer.reference.flush()
        self.evaluator.flush()
        # The last step's is there in case the result cannot be written.
        every = self.recipe.checkpoints.every
        if every is not None and (last or record.step % every == 0):
            self.checkpoints.save(in_background=not last)
        self.checkpoints.announce()

    def _log(self, record: StepRecord) -> None:
        metrics = self.state.window.metrics(record.metrics["learning_rate"], record.epoch)
        self.state.window.reset()
        self.state.progress.last_train = metrics
        self.publisher.publish(Record("train", record.step, metrics))

    def _asked_to_stop(self) -> bool:
        # The ranks must agree, or one would wait for the others in the next step.
        return self.trainer.parallel.any(bool(self.stop))

    def _stopped(self) -> Status:
        self.reporter.note(
            f"{self.stop.name or 'another process was asked to stop'}: saving the state of step {self.state.step}"
        )
        self.checkpoints.save_unless_saved()
        return "stopped"

    def _finish_writing(self, error: BaseException) -> None:
        """Wait for the checkpoint that is being written while ``error`` ends the run."""
        try:
            self.checkpoints.wait()
        except RunError as second:
            error.add_note(str(second))
