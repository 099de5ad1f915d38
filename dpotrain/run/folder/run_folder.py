"""The run folder: what is where, and whether a run may begin there."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpotrain.core.atomic import remove_partial, write_json, write_text
from dpotrain.core.errors import RecipeError, RunError
from dpotrain.core.masking import mask_data
from dpotrain.core.summary import from_json
from dpotrain.core.write_errors import writing
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.folder.requests import forget_requests
from dpotrain.run.folder.restrict_umask import refuse_links
from dpotrain.run.resume_config import check_same, free_options, resume_config


def no_run_folder(path: Path, lacks: str) -> RecipeError:
    """Return the error for a path that was to be a run folder, and lacks what every one has."""
    what = f"has no {lacks}" if path.is_dir() else "is no folder"
    return RecipeError(
        f"{path} {what}, so it is no run folder.\nName the folder that run.output_dir of a recipe names."
    )


class RunFolder:
    """Paths and small files of one run; whatever writes one raises a RunError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.environment = path / "environment.json"
        self.data_report = path / "data_report.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.texts = path / "texts.jsonl"
        self.evaluations = path / "evaluations"
        self.status = path / "status.json"
        self.log = path / "run.log"
        self.nonfinite_pairs = path / "nonfinite_pairs.jsonl"
        self.checkpoints = path / "checkpoints"
        self.reference = path / "reference"
        self.final = path / "final"
        self.summary = path / "summary.json"
        self.exports = path / "exports.json"

    def make(self) -> None:
        """Make the folder, if it is not there."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder {self.path}: {error.strerror or error}") from error

    def holds_run(self) -> bool:
        """Whether there is a run in the folder; one that failed before its first record or checkpoint is none."""
        return self.metrics.exists() or any(self.checkpoints.glob("step-*"))

    def begin(self, *, resume: bool) -> None:
        """Make the folder ready, or make sure that going on in it was asked for.

        Raises:
            RunError: there is a run already and ``resume`` is False, the folder cannot be written, or one of the
                files that are appended to is a link.
        """
        if not resume and self.holds_run():
            raise RunError(
                f"{self.path} already holds a run.\n"
                "Continue it with --resume (in Python: resume=True), or choose another folder: --set run.output_dir=…"
            )
        try:
            refuse_links((self.metrics, self.samples, self.evaluations, self.log, self.nonfinite_pairs))
            if not resume:
                self.samples.unlink(missing_ok=True)
                shutil.rmtree(self.evaluations, ignore_errors=True)
            self.checkpoints.mkdir(exist_ok=True)
            # Until this run ends by itself, nothing may say that it has.
            self.summary.unlink(missing_ok=True)
            for folder in (self.path, self.checkpoints):
                remove_partial(folder)
            forget_requests(self.path)
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror or error}") from error

    def summary_of_finished(self) -> dict[str, Any] | None:
        """Return the summary of a run that finished here, whatever its recipe was; None without one."""
        try:
            summary: dict[str, Any] = json.loads(self.summary.read_text(encoding="utf-8"))
            # One that no run wrote says nothing.
            return summary if from_json(summary, self.path).status == "finished" else None
        except (OSError, ValueError, RecursionError):
            return None

    def finished(self, recipe: Recipe) -> dict[str, Any] | None:
        """Return the summary of the run of this recipe, where it finished here, or None.

        One that asks for other epochs or steps than were taken, or for another policy in ``final/``, has not finished.

        Raises:
            RunError: the run that finished here was of a recipe that takes other steps.
        """
        summary = self.summary_of_finished()
        if summary is None:
            return None
        try:
            before = tomllib.loads(self.recipe.read_text(encoding="utf-8"))
            known = resume_config(before)
        except (OSError, ValueError, RecursionError):
            return None
        check_same(known, resume_config(recipe.document), free_options(recipe, recipe.plugins.kinds))
        then, now = before.get("training"), recipe.document["training"]
        if not isinstance(then, dict):
            return None
        if any(then.get(key) != now.get(key) for key in ("epochs", "steps")):
            return None
        # Another policy for final/: it is written anew from the checkpoints.
        exported = before.get("evaluation")
        best = isinstance(exported, dict) and exported.get("best", False)
        return summary if best == recipe.document.get("evaluation", {}).get("best", False) else None

    def write(self, path: Path, content: str | Mapping[str, Any]) -> None:
        """Write one of the files: a text, or data as JSON without secrets."""
        with writing(path):
            if isinstance(content, str):
                write_text(path, content)
            else:
                write_json(path, mask_data(content))
