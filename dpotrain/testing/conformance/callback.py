"""The suite for callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.runtime.hooks import implementations
from dpotrain.testing.conformance.component import ComponentConformance, Table
from dpotrain.testing.fixtures import RunRecipe
from dpotrain.testing.runs import FinishedRun


class CallbackConformance(ComponentConformance):
    """A callback follows a run without changing what it computes."""

    def recipe(self, table: Mapping[str, Any]) -> str:
        """Return the TOML that selects it, with evaluations during training, which some need."""
        return f"{super().recipe(table)}\n[evaluation]\nevery = 1\n"

    def short_run(self, dpotrain_run: RunRecipe, table: Table, folder: Path) -> FinishedRun:
        """Run two steps, with an evaluation after each."""
        return dpotrain_run(self.recipe(table), overrides=["training.steps=2"])

    def test_it_hears_at_least_one_run_event(self, part: Any) -> None:
        """Or it would never be called."""
        assert set(implementations(part, part.name)) & set(EVENTS)

    def test_it_changes_no_step(self, dpotrain_run: RunRecipe, table: Table, tmp_path: Path) -> None:
        """The same losses as without it, as far as it lets the run go."""
        with_it = self.short_run(dpotrain_run, table, tmp_path).train
        alone = dpotrain_run(
            "", overrides=["training.steps=2", "evaluation.every=1"], folder=tmp_path / "alone"
        ).train
        assert [record["loss"] for record in with_it] == [record["loss"] for record in alone][: len(with_it)]

    def test_its_state_comes_back(self, part: Any) -> None:
        """What a checkpoint holds of it makes an equal one."""
        again = type(part)(part.options)
        again.load_state_dict(part.state_dict())
        assert again.state_dict() == part.state_dict()
