"""Exporters: what becomes of ``final/`` once a run has finished, and ``exports.json``, which says what is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpotrain.core.atomic import write_json
from dpotrain.core.errors import DpotrainError, RunError
from dpotrain.core.records import Outcome
from dpotrain.core.reporter import Reporter
from dpotrain.plugin.api import Exporter, Finished
from dpotrain.plugin.runtime.failures import failure
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.folder.run_folder import RunFolder


def export(recipe: Recipe, folder: RunFolder, outcome: Outcome, reporter: Reporter) -> None:
    """Run the recipe's exporters one after the other, but for those that have had this result already.

    Raises:
        RunError: naming every exporter that failed; the others have run.
    """
    run = Finished(folder.path, folder.final, recipe, outcome, reporter.note)
    done = _done(folder.exports)
    failures = []
    for exporter, table in zip(recipe.exporters, recipe.document["exporters"], strict=True):
        # A run that was given more epochs has another result.
        this = {"exporter": table, "steps": outcome.steps}
        if any(entry.items() >= this.items() for entry in done):
            continue
        try:
            with reporter.phase(f"exporting ({exporter.name})", None):
                result = exporter.export(run)
        except Exception as error:
            failures.append((_fault(error, exporter, recipe.plugins.label(exporter)), error))
            continue
        reporter.note(f"{exporter.name}: {result}")
        done.append({**this, "result": str(result)})
        write_json(folder.exports, done)
    if failures:
        raise RunError(
            "\n".join(text for text, _ in failures)
            + f"\nThe run itself is finished, and its result in {folder.final} is whole. To run what failed again:\n"
            f"dpotrain run {folder.recipe} --resume"
        ) from failures[0][1]


def _fault(error: Exception, exporter: Exporter, label: str) -> str:
    if isinstance(error, DpotrainError):  # an error meant for people, or a wrong result
        return f"{label}: {error}"
    return failure(label, "export", error, type(exporter).__module__)


def _done(path: Path) -> list[dict[str, Any]]:
    """Return the entries of ``exports.json``; a file that cannot be read holds none."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
