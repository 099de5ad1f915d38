"""Which checkpoints stay: the newest, and the best by the metric that the recipe names."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain import load_recipe, train
from dpotrain.core.errors import RunError
from dpotrain.core.records import BestBy
from dpotrain.core.reporter import SilentReporter
from dpotrain.recipe.sections.run import CheckpointsSection
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.state import Progress
from tests.run.recipes import project, records, run

VALUES = st.floats(-5, 5) | st.just(math.nan)


@pytest.mark.parametrize(
    ("best", "best_is", "lowest"),
    [
        ("loss", "auto", True),
        ("rewards/margins", "auto", False),
        ("loss", "highest", False),
        ("logps/rejected", "lowest", True),
    ],
)
def test_a_loss_is_best_where_it_is_low_and_all_else_where_it_is_high(best, best_is, lowest):
    assert CheckpointsSection(best=best, best_is=best_is).best_by == BestBy(best, lowest)


@given(st.lists(VALUES, min_size=1, max_size=8), st.booleans(), st.sets(st.integers(1, 10)))
def test_the_best_is_the_best_of_those_that_are_there(values, lowest, there):
    progress, best_by = Progress(), BestBy("m", lowest)
    for step, value in enumerate(values, 1):
        progress.evaluated(step, {"m": value}, best_by)
    numbers = [
        (value, step) for step, value in enumerate(values, 1) if step in there and not math.isnan(value)
    ]
    found = progress.best_of(sorted(there), best_by)
    if numbers:
        best = min(numbers) if lowest else max(numbers, key=lambda each: (each[0], -each[1]))
        assert found == best[1]
    else:
        assert found is None or math.isnan(values[found - 1])
    if not all(math.isnan(value) for value in values):
        assert not math.isnan(progress.best_evaluation["m"])


@pytest.mark.parametrize("best", ["loss", "rewards/margins", "logps/rejected"])
def test_a_run_keeps_the_newest_and_the_best_evaluated_one(tmp_path, best):
    """TRAPS: retention that deletes the best one."""
    recipe = project(tmp_path)
    overrides = [
        "training.steps=8", "checkpoints.every=2", "checkpoints.keep=1", f"checkpoints.best={best!r}",
        "evaluation.every=1",
        # Down and up again, so that the best is neither the first nor the last.
        "optimizer.lr=0.02", "loss.beta=1.0",
    ]  # fmt: skip
    outcome = run(recipe, *overrides)
    evaluated = {line["step"]: line[best] for line in records(tmp_path / "run", "eval")}
    pick = min if best == "loss" else max
    saved = pick([2, 4, 6, 8], key=evaluated.__getitem__)
    kept = {checkpoints.step_of(path) for path in checkpoints.complete(tmp_path / "run" / "checkpoints")}
    assert kept == {saved, 8}
    assert (outcome.best_by, outcome.best_evaluation[best]) == (best, pick(evaluated.values()))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["best_by"] == best


def test_a_metric_that_no_evaluation_has_is_told_before_the_first_step(tmp_path):
    recipe = load_recipe(project(tmp_path), ["checkpoints.best=accuracy"])
    with pytest.raises(RunError) as caught:
        train(recipe, reporter=SilentReporter())
    assert 'checkpoints.best = "accuracy" is not a metric of an evaluation' in str(caught.value)
    assert "rewards/accuracies" in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
