"""The suite for exporters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import Finished
from dpotrain.testing.conformance.component import ComponentConformance, Table
from dpotrain.testing.fixtures import RunRecipe

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe


class ExporterConformance(ComponentConformance):
    """An exporter makes something of ``final/``, says where it is, and takes nothing away."""

    def test_the_run_says_where_the_result_is(
        self, dpotrain_run: RunRecipe, table: Table, tmp_path: Path
    ) -> None:
        """In ``exports.json``, and to the person."""
        run = self.short_run(dpotrain_run, table, tmp_path)
        (entry,) = json.loads((run.outcome.folder / "exports.json").read_text(encoding="utf-8"))
        assert entry["exporter"]["use"] == self.component.name
        assert entry["result"].strip()
        assert f"{self.component.name}: " in run.output

    def test_it_leaves_the_result_as_it_is_and_can_be_run_again(
        self, dpotrain_run: RunRecipe, read: Callable[[str], Recipe], part: Any, table: Table, tmp_path: Path
    ) -> None:
        """``final/`` is the same byte for byte after a second time."""
        run = self.short_run(dpotrain_run, table, tmp_path)
        final = run.outcome.final
        assert final is not None
        before = _files(final)
        result = part.export(Finished(run.outcome.folder, final, read(self.recipe(table)), run.outcome))
        assert str(result).strip()
        assert _files(final) == before


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
