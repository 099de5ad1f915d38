"""The suite for schedules."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dpotrain.testing.conformance.component import ComponentConformance, Table
from dpotrain.testing.fixtures import RunRecipe

#: Lengths of runs.
TOTALS = (1, 2, 7, 100)


class ScheduleConformance(ComponentConformance):
    """A schedule is a function of the step and of the steps in all."""

    @pytest.mark.parametrize("total", TOTALS)
    def test_every_step_has_a_rate(self, part: Any, total: int) -> None:
        """Finite and not negative, and not zero throughout."""
        factors = [part.factor(step, total) for step in range(1, total + 1)]
        assert all(math.isfinite(factor) and factor >= 0 for factor in factors)
        assert any(factors)

    @pytest.mark.parametrize("total", TOTALS)
    def test_a_resumed_run_finds_the_same_rates(self, part: Any, total: int) -> None:
        """Whatever was asked before, and in whatever order, of another object with the same options."""
        other = type(part)(part.options)
        forwards = [part.factor(step, total) for step in range(1, total + 1)]
        backwards = [other.factor(step, total) for step in range(total, 0, -1)]
        assert forwards == backwards[::-1]

    def test_a_run_s_rates_are_the_peak_times_the_factor(
        self, dpotrain_run: RunRecipe, part: Any, table: Table, tmp_path: Path
    ) -> None:
        """As the records have them."""
        run = self.short_run(dpotrain_run, table, tmp_path)
        recipe = tomllib.loads((run.outcome.folder / "recipe.toml").read_text(encoding="utf-8"))
        peak = recipe["optimizer"]["lr"]
        rates = [record["learning_rate"] for record in run.train]
        assert rates == pytest.approx([peak * part.factor(step, 2) for step in (1, 2)])
