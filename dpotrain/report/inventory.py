"""What is in a run's ``checkpoints/``: each with its size, its age, and whether every file is as it was written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpotrain.core.errors import RunError
from dpotrain.core.records import BestBy
from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.resuming import as_written, read_state
from dpotrain.run.folder.run_folder import RunFolder, no_run_folder
from dpotrain.run.state import Progress


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint."""

    step: int
    path: Path
    bytes: int
    saved: float
    """When it was complete, in seconds since 1970."""
    fault: str
    """What is wrong with it; empty where it is sound."""
    resumes: bool
    """Whether ``--resume`` goes on from this one: it is the newest sound one."""
    best: bool
    """Whether it is the one with the best evaluation of those that are there."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "path": str(self.path)}


def take_inventory(run: Path) -> list[Entry]:
    """Verify every checkpoint of a run folder, oldest first; nothing is changed.

    A run that goes on may prune one meanwhile, which then is left out.

    Raises:
        RecipeError: there is no run in ``run``.
    """
    folder = RunFolder(run).checkpoints
    if not folder.is_dir():
        raise no_run_folder(run, "checkpoints/")
    found = {}
    for path in files.complete(folder):
        fault = files.verify(path) or ""
        try:
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            found[path] = fault, size, path.stat().st_mtime
        except FileNotFoundError:
            continue
    sound = [path for path, (fault, _, _) in found.items() if not fault]
    best = _best(sound) if sound else None
    return [
        Entry(
            step=(step := files.step_of(path)),
            path=path,
            bytes=size,
            saved=saved,
            fault=fault,
            resumes=path in sound[-1:],
            best=step == best,
        )
        for path, (fault, size, saved) in found.items()
    ]


def _best(sound: list[Path]) -> int | None:
    """Return the step with the best evaluation, by what the newest of these checkpoints knows."""
    try:
        with as_written(sound[-1]):
            state = read_state(sound[-1])
            progress = Progress(**state["progress"])
            return progress.best_of(map(files.step_of, sound), BestBy(**state["best_by"]))
    except (RunError, OSError):  # its hashes are right, and it is no run's: nothing is resumed from it either
        return None
