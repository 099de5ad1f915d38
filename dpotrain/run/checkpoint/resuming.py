"""Whether a recipe may resume from a checkpoint: what changes the steps must be as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import RunError
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.versions import check_same_distributions, package_versions
from dpotrain.run.resume_config import check_same, free_options, resume_config

if TYPE_CHECKING:
    from dpotrain.engine.parallel.protocol import Parallel


@dataclass(frozen=True, slots=True)
class Found:
    """What ``--resume`` finds in ``checkpoints/``."""

    path: Path | None
    """The newest valid checkpoint; None without one."""
    damaged: Mapping[Path, str]
    """What is wrong with each newer one."""
    microbatches: Mapping[str, Any] | None
    """The size of the checkpoint's micro-batches (see :class:`dpotrain.run.microbatches.MicrobatchSize`)."""
    clock: str | None = None
    """The time that the run's chat template reads, in ISO 8601."""


def find_resumable(folder: Path, recipe: Recipe, parallel: Parallel) -> Found:
    """Find and verify the newest checkpoint, and compare the recipe with it, before anything heavy is loaded.

    Collective: the main process reads and hashes the files, and all take the checkpoint that it finds. No file is
    changed.

    Raises:
        RunError: they differ in what changes the steps, or the checkpoint holds what no run writes.
    """
    path, damaged = parallel.broadcast_object(files.newest(folder) if parallel.is_main else (None, {}))
    if path is None:
        return Found(None, damaged, None)
    state = read_state(path)
    check_same(
        state["resume_config"], resume_config(recipe.document), free_options(recipe, recipe.plugins.kinds)
    )
    check_same_distributions(state["versions"], package_versions(recipe))
    return Found(path, damaged, state.get("microbatches"), state.get("clock"))


def read_state(path: Path) -> dict[str, Any]:
    """Return the state that a sound checkpoint holds, its parts being what a run writes.

    A hash says that a file is as it was written, not who wrote it.

    Raises:
        RunError: it is no such state.
    """
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    from dpotrain.core.records import BestBy
    from dpotrain.engine.training.metrics import Window
    from dpotrain.run.microbatches import MicrobatchSize
    from dpotrain.run.state import Progress

    class Versions(BaseModel):
        model_config = ConfigDict(strict=True)

        components: dict[str, tuple[str | None, str | None]]
        packages: dict[str, str | None]

    class State(BaseModel):
        model_config = ConfigDict(strict=True)

        step: int = Field(ge=0)
        resume_config: dict[str, Any]
        data: str
        clock: str | None = None
        total_steps: int = Field(ge=1)
        microbatches: MicrobatchSize | None = None
        window: Window
        progress: Progress
        best_by: BestBy
        versions: Versions
        random: list[dict[str, Any]] = Field(min_length=1)

    with as_written(path):
        text = (path / "state.json").read_text(encoding="utf-8")
        try:
            state = State.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        if not state.step == state.progress.step == files.step_of(path):
            raise ValueError("it is of another step than its folder's name says")
        if len(state.window.sums) != len(Window().sums):
            raise ValueError("window.sums is of another length")
        if state.clock is not None:
            datetime.fromisoformat(state.clock)
        chosen = state.microbatches
        if chosen is not None and (chosen.tokens < 1 or min(chosen.checkpointed, chosen.tile) < 0):
            raise ValueError("microbatches is not a size of micro-batches")
        read: dict[str, Any] = json.loads(text)
    return read


@contextmanager
def as_written(place: Path) -> Iterator[None]:
    """Turn what a checkpoint brings about that is no run's work, whatever its hashes say, into a RunError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not have been imported
            raise
        what = str(error).strip().partition("\n")[0][:200]
        raise RunError(
            f"{place} holds what no run of this version writes ({type(error).__name__}: {what}).\n"
            "Remove the checkpoint to go on from the one before it, or begin a new run: --set run.output_dir=…"
        ) from error
