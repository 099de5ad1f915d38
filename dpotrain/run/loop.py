"""What happens around the steps: records, evaluation, checkpoints, plugins, stopping."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from dpotrain.core.errors import RunError
from dpotrain.core.random_state import RandomState
from dpotrain.core.records import CheckpointRecord, Record, Run, Status, StepRecord
from dpotrain.engine.training.metrics import Window
from dpotrain.engine.training.trainer import Interrupted, NotFinite, Trainer, evaluate
from dpotrain.plugin.runtime.states import component_states, restore_component_states
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.checkpoint.progress import Progress
from dpotrain.run.checkpoint.resuming import mathematics
from dpotrain.run.checkpoint.saver import Saver
from dpotrain.run.checkpoint.snapshot import Checkpoint
from dpotrain.run.checkpoint.tensor_files import check_fits
from dpotrain.run.checkpoint.versions import changes, software
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.nonfinite import write_pairs
from dpotrain.run.spikes import SpikeWatch

if TYPE_CHECKING:
    from dpotrain.core.records import BestBy
    from dpotrain.core.reporter import Advance, Reporter
    from dpotrain.data.batches.plan import Costs
    from dpotrain.data.tokens.tokenized import TokenizedPairs
    from dpotrain.engine.reference.reference import Reference
    from dpotrain.engine.scoring.precision import Widened
    from dpotrain.engine.scoring.scorer import Scorer
    from dpotrain.plugin.api import Adapter
    from dpotrain.plugin.runtime.events import RunEvents
    from dpotrain.recipe.recipe import Recipe
    from dpotrain.run.folder.run_folder import RunFolder
    from dpotrain.run.forecast import Forecast
    from dpotrain.run.sizing import Sizing
    from dpotrain.run.stopping import StopRequest


#: Steps in a row that may be left out because their numbers are not finite: beyond that, nothing is being learnt.
MOST_SKIPPED = 10


@dataclass
class HeldOut:
    """The pairs that are evaluated on."""

    data: TokenizedPairs
    reference: Reference
    costs: Costs
    budget: Callable[[int], int]
    """Turns the tokens of training's micro-batches into those of a pass without gradients."""


@dataclass
class RunLoop:
    """Drives a trainer through a run."""

    recipe: Recipe
    folder: RunFolder
    run: Run
    trainer: Trainer
    scorer: Scorer
    """The scorer itself, without the wrapper for data parallelism."""
    adapter: Adapter
    held_out: HeldOut | None
    events: RunEvents
    reporter: Reporter
    stop: StopRequest
    sizing: Sizing
    forecast: Forecast
    widened: Widened | None = None
    """Weights that are saved in fewer bits than they are trained in."""
    progress: Progress = field(default_factory=Progress)
    wall_before: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    _last_skipped: int = 0
    _skipped_in_a_row: int = 0
    """Steps up to that one that were left out, one after the other."""

    def __post_init__(self) -> None:
        self.metrics = MetricsFile(self.folder.metrics)
        self.saver = Saver(self.folder.checkpoints, self._prune)
        self.spikes = SpikeWatch()
        self.trainer.interrupted = lambda: bool(self.stop) and self.trainer.accelerator.num_processes == 1
        self.trainer.on_nonfinite = self._not_finite

    def go(self) -> Status:
        """Evaluate, train to the end or until asked to stop, evaluate again."""
        self.stop.defer()
        self.events.loggers.start(self.run)
        self.events.run_started(self.run)
        try:
            if self._evaluation_owed():
                self._evaluate()
            if self._asked_to_stop():
                return self._stopped()
            for record in self.trainer.steps(after=self.progress.step):
                self._after_step(record)
                if self._asked_to_stop():
                    return self._stopped()
        except Interrupted:
            return self._stopped()
        except NotFinite:
            self._save_unless_saved()
            raise
        except KeyboardInterrupt:  # the second: it waits for nothing
            raise
        except BaseException as error:
            self._let_saving_end(error)
            raise
        return "finished"

    def _let_saving_end(self, error: BaseException) -> None:
        """Wait for the checkpoint that is being written while ``error`` ends the run."""
        try:
            self.saver.wait()
        except RunError as second:
            error.add_note(str(second))

    def _not_finite(self, problem: NotFinite) -> None:
        """Write the step's pairs out; leave the step out if the recipe says so, or let the problem end the run."""
        where = ""
        if self.run.is_main_process:
            file = self.folder.nonfinite_pairs
            where = write_pairs(file, problem.step, self.trainer.data, problem.pairs, self.run.tokenizer)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if problem.step == self._last_skipped + 1 else 1
        self._last_skipped = problem.step
        too_often = self._skipped_in_a_row >= MOST_SKIPPED
        if self.recipe.training.on_nonfinite == "skip" and not too_often:
            self.reporter.warn(f"{problem}\n{where}The step is left out.")
            return
        often = f"{MOST_SKIPPED} steps in a row were like that.\n" if too_often else ""
        raise NotFinite(
            f"{problem}\n{where}{often}The state of step {self.progress.step} is saved. Lower optimizer.lr, warm "
            'up for longer, or try training.precision = "fp32" in a new run;\n'
            "or --resume with --set training.on_nonfinite=skip, which leaves such steps out.",
            problem.step,
            problem.pairs,
        )

    def resume(self) -> None:
        """Go back to the newest sound checkpoint; without one, begin at the beginning."""
        path, damaged = checkpoints.newest(self.folder.checkpoints)
        accelerator = self.trainer.accelerator
        found = everyone(accelerator, None if path is None else path.name)
        if len(set(found)) > 1:
            raise RunError(
                f"the processes see different checkpoints in {self.folder.checkpoints}: {found}.\n"
                "The run folder must be on a disk that all of them share."
            )
        for other, fault in damaged.items():
            self.reporter.warn(f"checkpoint {other} is damaged ({fault}) and was passed over")
            if self.run.is_main_process:
                checkpoints.set_aside(other)
        if path is None:
            if self.run.is_main_process:
                self.metrics.rewind(-1)
            self.reporter.note("there is no checkpoint to go on from; beginning at step 1")
            return
        optimizer = self.trainer.optimizer
        check_fits(path, self.adapter.state(self.scorer.policy), optimizer.param_groups)
        checkpoint = checkpoints.load(path)
        state = checkpoint.state
        if state["data"] != self.data_identity:
            raise RunError(
                "the data is not what the run was begun with: the training pairs, or their order, have changed.\n"
                "Put the data back, or begin a new run: --set run.output_dir=…"
            )
        total = self.trainer.plan.total_steps
        schedule, before = self.recipe.schedule, state["total_steps"]
        taken = range(1, checkpoint.step + 1)
        if any(schedule.factor(step, before) != schedule.factor(step, total) for step in taken):
            self.reporter.warn(
                f"the run now has {total} steps instead of {before}: the {schedule.name} schedule goes on as if it "
                "always had, and the steps so far had other learning rates"
            )
        self.adapter.load_state(self.scorer.policy, checkpoint.trained)
        optimizer.load_state_dict(dict(checkpoint.optimizer))
        self.trainer.window = Window(**state["window"])
        self.progress = Progress(**state["progress"])
        self.wall_before = self.progress.wall_seconds
        self.run.resumed_from = checkpoint.step
        for owner in restore_component_states(self.recipe, self.events.loggers, checkpoint.components):
            self.reporter.note(f"the checkpoint holds a state of {owner}, which this recipe does not use")
        states = state["random"]
        rank = accelerator.process_index
        if rank < len(states):
            RandomState.from_json(states[rank]).restore()
        if self.run.is_main_process:
            self.metrics.rewind(checkpoint.step)
            # A kill may have come between a checkpoint and the removal of the one that it replaces.
            self._prune()
        for line in changes(state["software"], self.software):
            self.reporter.note(line)
        self.reporter.note(f"resumed from the checkpoint of step {checkpoint.step}")

    @cached_property
    def data_identity(self) -> str:
        """A hash over the training pairs in order: what a resumed run must find again."""
        return hashlib.blake2b(self.trainer.data.keys.tobytes(), digest_size=16).hexdigest()

    @cached_property
    def software(self) -> dict[str, Any]:
        """What computes the run: looked up once, and kept in every checkpoint."""
        return software(self.recipe)

    @property
    def wall_seconds(self) -> float:
        """Time of the run so far, over all attempts."""
        return self.wall_before + time.perf_counter() - self.began

    def _after_step(self, record: StepRecord) -> None:
        self.progress.count(record.step, record.pairs, record.tokens, record.seconds)
        self.reporter.step(record)
        if spike := self.spikes.told(record.step, record.metrics["loss"]):
            self.reporter.warn(spike)
        last = record.step == record.total_steps
        if last or record.step % self.recipe.logging.every == 0:
            self._log(record)
        self.events.step_ended(self.run, record)
        if self._evaluation_owed():
            self._evaluate()
        self._settle()
        # The last step's is there in case the result cannot be written.
        every = self.recipe.checkpoints.every
        if every is not None and (last or record.step % every == 0):
            self._save(in_background=not last)
        self._tell_of_saved()

    def _settle(self) -> None:
        """Let references write down what they computed: the device has just been waited for anyway."""
        self.trainer.reference.settle()
        if self.held_out is not None:
            self.held_out.reference.settle()

    def _evaluation_owed(self) -> bool:
        """Whether the present step wants an evaluation that it has not had: a stop may have come in between."""
        if self.held_out is None or self.progress.last_evaluation.get("step") == self.progress.step:
            return False
        every, step = self.recipe.evaluation.every, self.progress.step
        ends = step in (0, self.trainer.plan.total_steps)
        return ends or (every is not None and step % every == 0)

    def _log(self, record: StepRecord) -> None:
        window = self.trainer.window
        metrics = window.metrics(record.metrics["learning_rate"], record.epoch)
        self.trainer.window = Window()
        self.progress.last_train = metrics
        self._publish(Record("train", record.step, metrics))

    def _evaluate(self) -> None:
        held_out = self.held_out
        assert held_out is not None
        plan = self.trainer.plan
        budget = held_out.budget(plan.tokens_per_microbatch)
        with self.reporter.phase("evaluating", len(held_out.data)) as advance:
            metrics = evaluate(
                self.trainer.accelerator,
                self.scorer,
                self.recipe.loss,
                held_out.data,
                held_out.reference,
                replace(plan, costs=held_out.costs, tokens_per_microbatch=budget),
                self._advance_or_stop(advance),
                self.trainer.extra,
            )
        metrics = {"loss": metrics.pop("loss"), "epoch": self._epoch(), **metrics}
        record = Record("eval", self.progress.step, metrics)
        self.progress.evaluated(record.step, metrics, self._best_by(metrics))
        self._publish(record)
        self.events.evaluated(self.run, record)

    def _advance_or_stop(self, advance: Advance) -> Callable[[int], None]:
        def moved(count: int) -> None:
            advance(count)
            if self.trainer.interrupted():
                raise Interrupted

        return moved

    def _publish(self, record: Record) -> None:
        if self.run.is_main_process:
            self.metrics.write(record)
        self.reporter.logged(record)
        self.events.loggers.log(record)

    def _save(self, *, in_background: bool) -> None:
        accelerator = self.trainer.accelerator
        random_states = everyone(accelerator, RandomState.capture().as_json())
        if self.run.is_main_process:
            self.progress.wall_seconds = self.wall_seconds
            state: Mapping[str, Any] = {
                "mathematics": mathematics(self.recipe.document),
                "software": self.software,
                "data": self.data_identity,
                "total_steps": self.trainer.plan.total_steps,
                "cut": self.sizing.chosen(self.recipe, self.trainer.plan.tokens_per_microbatch).as_json(),
                "window": asdict(self.trainer.window),
                "progress": self.progress.as_json(),
                "best_by": asdict(self.recipe.checkpoints.best_by),
                "random": random_states,
            }
            checkpoint = Checkpoint(
                step=self.progress.step,
                trained=self.adapter.state(self.scorer.policy),
                optimizer=self.trainer.optimizer.state_dict(),
                state=state,
                components=component_states(self.recipe, self.recipe.plugins, self.events.loggers),
            )
            self.saver.save(checkpoint, in_background=in_background)
        accelerator.wait_for_everyone()

    def _tell_of_saved(self) -> None:
        """Tell of checkpoints that are complete by now."""
        for path in self.saver.saved():
            record = CheckpointRecord(checkpoints.step_of(path), path)
            self.reporter.checkpoint(record)
            self.events.checkpoint_saved(self.run, record)

    def _prune(self) -> None:
        folder = self.folder.checkpoints
        evaluated = map(checkpoints.step_of, checkpoints.complete(folder))
        best = self.progress.best_of(evaluated, self.recipe.checkpoints.best_by)
        checkpoints.prune(folder, self.recipe.checkpoints.keep, but={best})

    def _best_by(self, metrics: Mapping[str, float]) -> BestBy:
        best_by = self.recipe.checkpoints.best_by
        if best_by.metric not in metrics:
            raise RunError(
                f'checkpoints.best = "{best_by.metric}" is no metric of an evaluation; there are:\n'
                + ", ".join(metrics)
            )
        return best_by

    def _stopped(self) -> Status:
        self.reporter.note(
            f"{self.stop.name or 'another process was asked to stop'}: saving the state of step {self.progress.step}"
        )
        self._save_unless_saved()
        return "stopped"

    def _save_unless_saved(self) -> None:
        self.saver.wait()
        saved = checkpoints.path_of(self.folder.checkpoints, self.progress.step).exists()
        # The main process knows; on another one the folder may be seen only now, and all must save or none.
        if not everyone(self.trainer.accelerator, saved)[0]:
            self._save(in_background=False)
        self._tell_of_saved()

    def _asked_to_stop(self) -> bool:
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return bool(self.stop)
        # The ranks must agree, or one would wait for the others in the next step.
        flag = torch.tensor([int(bool(self.stop))], device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum").item())

    def _epoch(self) -> float:
        return self.trainer.plan.epochs_done(self.progress.step)


def everyone(accelerator: Any, item: Any) -> list[Any]:
    """Gather one object of every process, by rank."""
    if accelerator.num_processes == 1:
        return [item]
    from accelerate.utils import gather_object

    gathered: list[Any] = gather_object([item])
    return gathered
