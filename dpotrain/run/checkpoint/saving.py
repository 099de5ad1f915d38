"""Saving the state of a run: collected on every process, written by the main one, announced when it is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dpotrain.core.random_state import RandomState
from dpotrain.core.records import CheckpointRecord, Run
from dpotrain.core.reporter import Reporter
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.training.trainer import Trainer
from dpotrain.plugin.api import Adapter
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.plugin.runtime.states import component_states
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.saver import Saver
from dpotrain.run.checkpoint.snapshot import Checkpoint
from dpotrain.run.checkpoint.versions import package_versions
from dpotrain.run.microbatches import MicrobatchSize
from dpotrain.run.resume_config import resume_config
from dpotrain.run.state import RunState


@dataclass(kw_only=True)
class CheckpointSaver:
    """Saves a run's state. Every method is called on every process."""

    folder: Path
    """``checkpoints/`` of the run folder."""
    recipe: Recipe
    run: Run
    adapter: Adapter
    trainer: Trainer
    state: RunState
    checkpointed_layers: int
    events: RunEvents
    reporter: Reporter
    _saver: Saver = field(init=False)

    def __post_init__(self) -> None:
        self._saver = Saver(self.folder, self.prune)

    @cached_property
    def versions(self) -> dict[str, Any]:
        """What computes the run: looked up once, and kept in every checkpoint."""
        return package_versions(self.recipe)

    def save(self, *, in_background: bool) -> None:
        """Save the present state, in a thread while training goes on, or before this returns.

        Raises:
            RunError: this checkpoint, or the one before it, cannot be written.
        """
        trainer, parallel = self.trainer, self.trainer.parallel
        random_states = parallel.gather_objects(RandomState.capture().as_json())
        trained = parallel.trained_state(self.adapter, self.run.policy)
        optimizer = parallel.optimizer_state(trainer.optimizer)
        if parallel.is_main:
            state: Mapping[str, Any] = {
                "resume_config": resume_config(self.recipe.document),
                "versions": self.versions,
                "data": data_identity(trainer.data),
                "total_steps": trainer.plan.total_steps,
                "microbatches": asdict(
                    MicrobatchSize.of(
                        self.recipe, trainer.plan.tokens_per_microbatch, self.checkpointed_layers
                    )
                ),
                "window": asdict(self.state.window),
                "progress": self.state.progress.as_json() | {"wall_seconds": self.state.wall_seconds()},
                "best_by": asdict(self.recipe.checkpoints.best_by),
                "random": random_states,
            }
            checkpoint = Checkpoint(
                step=self.state.step,
                trained=trained,
                optimizer=optimizer,
                state=state,
                components=component_states(self.recipe, self.recipe.plugins, self.events.loggers),
            )
            self._saver.save(checkpoint, in_background=in_background)
        parallel.wait()

    def save_unless_saved(self) -> None:
        """Save the present state where no checkpoint has it yet, and return when it is on disk."""
        self._saver.wait()
        saved = files.path_of(self.folder, self.state.step).exists()
        # The main process knows; on another one the folder may be seen only now, and all must save or none.
        if not self.trainer.parallel.broadcast_object(saved):
            self.save(in_background=False)
        self.announce()

    def announce(self) -> None:
        """Report the checkpoints that were completed since the last call.

        Raises:
            RunError: the last one cannot be written.
        """
        for path in self._saver.saved():
            record = CheckpointRecord(files.step_of(path), path)
            self.reporter.checkpoint(record)
            self.events.checkpoint_saved(self.run, record)

    def wait(self) -> None:
        """Return when nothing is being written; raises as :meth:`save` does."""
        self._saver.wait()

    def prune(self) -> None:
        """Delete the checkpoints that are neither among the newest nor the best."""
        evaluated = map(files.step_of, files.complete(self.folder))
        best = self.state.progress.best_of(evaluated, self.recipe.checkpoints.best_by)
        files.prune(self.folder, self.recipe.checkpoints.keep, but={best})


def data_identity(pairs: TokenizedPairs) -> str:
    """Return a hash over the training pairs in order, and their numbers: a resumed run must have the same."""
    return hashlib.blake2b(pairs.keys.tobytes() + pairs.numbers.tobytes(), digest_size=16).hexdigest()
