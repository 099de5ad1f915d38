"""Whether a recipe may go on from a checkpoint: what changes the mathematics must be as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import RunError
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.checkpoint.versions import check_same_distributions, software

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe

#: Tables and keys that a resumed run may change: they move files, speed or the end of the run. (Where a schedule
#: falls over the whole run its end matters to the steps as well; the run warns of that.)
FREE = frozenset(
    {
        "run",
        "requires",
        "block",
        "evaluation",
        "checkpoints",
        "logging",
        "metrics",
        "loggers",
        "exporters",
        "reference.when",
        "reference.store",
        "training.epochs",
        "training.steps",
        "training.tokens_per_microbatch",
        "training.packing",
        "training.on_nonfinite",
        "training.activation_checkpointing",
        "training.compile",
    }
)


def mathematics(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's keys that the sequence of losses depends on, flat: ``{"loss.beta": 0.1, …}``."""
    return {
        key: value
        for key, value in _flat(document, "")
        if not any(key == free or key.startswith(f"{free}.") for free in FREE)
    }


def check_resumable(folder: Path, recipe: Recipe) -> Mapping[str, Any] | None:
    """Compare a recipe with the newest sound checkpoint, before anything heavy is loaded or any file touched.

    Returns:
        How that checkpoint's steps were cut (see :class:`dpotrain.run.sizing.Chosen`); None without one.

    Raises:
        RunError: they differ in what changes the steps, or the checkpoint holds what no run writes.
    """
    path, _ = checkpoints.newest(folder)
    if path is None:
        return None
    state = read_state(path)
    check_same(state["mathematics"], mathematics(recipe.document))
    check_same_distributions(state["software"], software(recipe))
    cut: Mapping[str, Any] | None = state.get("cut")
    return cut


def read_state(path: Path) -> dict[str, Any]:
    """Return the state that a sound checkpoint holds, its parts being what a run writes.

    A hash says that a file is as it was written, not who wrote it.

    Raises:
        RunError: it is no such state.
    """
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    from dpotrain.core.records import BestBy
    from dpotrain.engine.training.metrics import Window
    from dpotrain.run.checkpoint.progress import Progress
    from dpotrain.run.sizing import Chosen

    class Software(BaseModel):
        model_config = ConfigDict(strict=True)

        components: dict[str, tuple[str | None, str | None]]
        packages: dict[str, str | None]

    class State(BaseModel):
        model_config = ConfigDict(strict=True)

        step: int = Field(ge=0)
        mathematics: dict[str, Any]
        data: str
        total_steps: int = Field(ge=1)
        cut: Chosen | None = None
        window: Window
        progress: Progress
        best_by: BestBy
        software: Software
        random: list[dict[str, Any]] = Field(min_length=1)

    with as_written(path):
        text = (path / "state.json").read_text(encoding="utf-8")
        try:
            state = State.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        if not state.step == state.progress.step == checkpoints.step_of(path):
            raise ValueError("it is of another step than its folder's name says")
        if len(state.window.sums) != len(Window().sums):
            raise ValueError("window.sums is of another length")
        if state.cut is not None and (state.cut.tokens < 1 or state.cut.checkpointed < 0):
            raise ValueError("cut is none that a run can be cut by")
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


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare two results of :func:`mathematics`.

    Raises:
        RunError: they differ, with the keys and both values.
    """
    missing = object()
    changed = [
        (key, before.get(key, missing), now.get(key, missing))
        for key in sorted(before.keys() | now.keys())
        if before.get(key, missing) != now.get(key, missing)
    ]
    if not changed:
        return

    def shown(value: Any) -> str:
        return "nothing" if value is missing else repr(value)

    lines = [f"  {key}: {shown(old)} then, {shown(new)} now" for key, old, new in changed]
    raise RunError(
        "the recipe is not the one that this run was begun with, and the difference would change its steps:\n"
        + "\n".join(lines)
        + "\nPut these back, or begin a new run: --set run.output_dir=…"
    )


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
