"""Saving the state of a run: collected on every process, written by the main one, announced when it is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.core.random_state import RandomState
from dpotrain.core.records import CheckpointRecord
from dpotrain.engine.memory.planner import MemoryPlan
from dpotrain.plugin.api import Adapter
from dpotrain.plugin.runtime.states import component_states
from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.room import check_room
from dpotrain.run.checkpoint.saver import Saver
from dpotrain.run.checkpoint.snapshot import Checkpoint
from dpotrain.run.checkpoint.versions import package_versions
from dpotrain.run.context import RunContext
from dpotrain.run.microbatches import MicrobatchSize
from dpotrain.run.resume_config import resume_config

if TYPE_CHECKING:
    import torch


class CheckpointSaver:
    """Saves a run's state. Every method is called on every process."""

    def __init__(
        self, context: RunContext, folder: Path, adapter: Adapter, memory: MemoryPlan, clock: str
    ) -> None:
        """Save into ``folder``, ``checkpoints/`` of the run folder.

        ``memory`` is how activations are kept and what a checkpoint takes, ``clock`` what chat templates read.
        """
        self.context, self.folder, self.adapter = context, folder, adapter
        self._fit, self._gathered = memory.fit, memory.gathered
        self._clock = clock
        self._saver = Saver(folder, self.prune)

    @cached_property
    def versions(self) -> dict[str, Any]:
        """What computes the run: looked up once, and kept in every checkpoint."""
        return package_versions(self.context.recipe)

    @cached_property
    def data_identity(self) -> str:
        """A hash over the training pairs in order, and their numbers: a resumed run must have the same."""
        pairs = self.context.trainer.data
        return hashlib.blake2b(pairs.keys.tobytes() + pairs.numbers.tobytes(), digest_size=16).hexdigest()

    def save(self, *, in_background: bool) -> None:
        """Save the present state, in a thread while training goes on, or before this returns.

        Raises:
            RunError: this checkpoint, or the one before it, cannot be written; or it finds no room in memory.
        """
        recipe, trainer, now = self.context.recipe, self.context.trainer, self.context.state
        parallel, tokens = trainer.parallel, trainer.plan.tokens_per_microbatch
        random_states = parallel.gather_objects(RandomState.capture().as_json())
        if parallel.copies_states and parallel.is_main:
            # Two whole states may not fit, and the one being written is kept until then.
            self._saver.wait()
            check_room(self._gathered)
        trained = parallel.trained_state(self.adapter, self.context.run.policy)
        optimizer = parallel.optimizer_state(trainer.optimizer)
        reference = self._reference()
        if parallel.is_main:
            state = {
                "resume_config": resume_config(recipe.document),
                "versions": self.versions,
                "data": self.data_identity,
                "clock": self._clock,
                "total_steps": trainer.plan.total_steps,
                "microbatches": asdict(MicrobatchSize.of(recipe, tokens, self._fit)),
                "window": asdict(now.window),
                "progress": asdict(now.progress) | {"wall_seconds": now.wall_seconds()},
                "best_by": asdict(recipe.checkpoints.best_by),
                "random": random_states,
            }
            components = component_states(recipe, self.context.events.loggers)
            checkpoint = Checkpoint(
                now.step, trained, optimizer, state, components, reference, parallel.copies_states
            )
            if in_background:
                self._saver.save(checkpoint, in_background=True)
            else:
                with self.context.reporter.phase("saving a checkpoint", None):
                    self._saver.save(checkpoint, in_background=False)
        parallel.wait()

    def _reference(self) -> Mapping[str, torch.Tensor]:
        """Return the weights of a reference that moves; nothing of another, which is built anew. Collective."""
        trainer = self.context.trainer
        if (moving := trainer.reference.moving_weights) is None:
            return {}
        with moving.in_policy():
            return trainer.parallel.trained_state(self.adapter, self.context.run.policy)

    def save_unless_saved(self, *, in_background: bool = False) -> None:
        """Save the present state where no checkpoint has it yet.

        Unless it is ``in_background``, return when it is on disk.
        """
        self._saver.wait()
        saved = files.path_of(self.folder, self.context.state.step).exists()
        # The main process knows; on another one the folder may be seen only now, and all must save or none.
        if not self.context.trainer.parallel.broadcast_object(saved):
            self.save(in_background=in_background)
        self.announce()

    def announce(self) -> None:
        """Report the checkpoints that were completed since the last call.

        Raises:
            RunError: the last one cannot be written.
        """
        for path in self._saver.saved():
            record = CheckpointRecord(files.step_of(path), path)
            self.context.reporter.checkpoint(record)
            self.context.events.checkpoint_saved(self.context.run, record)

    def wait(self) -> None:
        """Return when nothing is being written; raises as :meth:`save` does."""
        self._saver.wait()

    def prune(self) -> None:
        """Delete the checkpoints that are neither among the newest nor the best."""
        evaluated = map(files.step_of, files.complete(self.folder))
        best = self.context.state.progress.best_of(evaluated, self.context.recipe.checkpoints.best_by)
        files.prune(self.folder, self.context.recipe.checkpoints.keep, but={best})
