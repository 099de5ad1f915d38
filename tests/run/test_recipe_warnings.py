"""What is allowed in a recipe and hardly ever meant gets a warning, from ``check`` and as the run starts."""

import pytest

from dpotrain import load_recipe
from dpotrain.run.recipe_warnings import recipe_warnings
from tests.run.recipes import Recording, project, run
from tests.support import dpotrain


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return project(tmp_path_factory.mktemp("project"))


def warned(recipe, *overrides: str, pairs: int = 21, **how) -> list[str]:
    return recipe_warnings(load_recipe(recipe, overrides), pairs, **how)


def test_a_usual_recipe_gives_none(recipe):
    assert warned(recipe) == []
    assert warned(recipe, "evaluation.every=10", "training.steps=10") == []
    moving = ["reference.update={every=9, share=1}", "evaluation.every=5"]
    assert warned(recipe, *moving) == []
    assert warned(recipe, *moving, "evaluation.best=true", 'checkpoints.best="logps/chosen"') == []


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["optimizer.lr=5e6"],
            "optimizer.lr = 5e+06 is far above what is usual for adamw where all weights are trained: 1e-08 to 0.0001",
        ),
        (["optimizer.lr=5e-12"], "is far below"),
        (["optimizer.lr=0.5", 'adapter.use="lora"'], "where lora is trained: 1e-06 to 0.001"),
        (
            ["training.pairs_per_step=64", "training.epochs=3"],
            "more than the 21 training pairs: each step takes all of them, and the run has 3 steps",
        ),
        (["training.pairs_per_step=21", "training.epochs=1"], "the run has one step: raise training.epochs"),
        (
            ["training.steps=50"],
            "training.steps = 50 is more than 2 epochs of the data: the run ends after 10 steps; raise training.epochs",
        ),
        (
            ["reference.update={every=10, share=1}"],
            "reference.update.every = 10, and the run has 10 steps: no step is trained with a reference that has moved",
        ),
        (
            ["reference.update={every=5, share=1}", "evaluation.every=5", "evaluation.best=true"],
            "evaluation.best compares evaluations by loss, and each has it by the reference of its own step",
        ),
        (["evaluation.every=11"], "evaluation.every = 11 is more than the run's 10 steps"),
        (
            ["schedule.warmup_fraction=0", "schedule.warmup_steps=100"],
            "the linear schedule reaches its highest learning rate in the last of the run's 10 steps",
        ),
    ],
)
def test_what_is_hardly_meant_is_named_with_the_usual(recipe, overrides, text):
    (warning,) = warned(recipe, *overrides)
    assert text in warning


def test_an_optimizer_that_knows_no_usual_rate_gives_none(recipe, monkeypatch):
    monkeypatch.setattr("dpotrain_plugins.optimizers.AdamW.usual_lr", lambda self, adapter: None)
    assert warned(recipe, "optimizer.lr=5e6") == []


def test_the_run_says_it_too(recipe, tmp_path):
    seen = Recording()
    run(recipe, "evaluation.every=11", "training.steps=2", into=tmp_path / "run", reporter=seen)
    assert any("evaluation.every = 11 is more than the run's 2 steps" in text for text in seen.warnings)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["parallel.shard=all"], 'parallel.shard = "all": 1 process shards nothing'),
        (["parallel.group=2"], "parallel.group = 2: 1 process shards nothing"),
        (
            ["parallel.shard=all", "parallel.offload=cpu"],
            'shard = "all", parallel.offload = "cpu": 1 process',
        ),
    ],
)
def test_one_process_that_is_to_shard_says_how_several_are_started(recipe, overrides, text, tmp_path):
    (warning,) = warned(recipe, *overrides, alone=True)
    assert text in warning
    assert "--processes N" in warning
    assert warned(recipe, *overrides) == []
    assert warned(recipe, alone=True) == []
    seen = Recording()
    run(recipe, *overrides, "training.steps=1", into=tmp_path / "run", reporter=seen)
    assert any(text in each for each in seen.warnings)


def test_check_says_it_with_the_number_of_all_rows_and_names_a_folder_that_holds_a_run(recipe, monkeypatch):
    place = load_recipe(recipe).run.output_dir
    monkeypatch.setattr("dpotrain.cli.preview.ROWS", 10)
    before = dpotrain("check", str(recipe), "--set", "training.pairs_per_step=64")
    assert (
        "more than the ~21 training pairs" in before.output
    )  # 9 of 10 rows are trained on, and there are 23
    assert "already holds a run" not in before.output
    place.mkdir()
    (place / "metrics.jsonl").write_text("{}\n")
    assert f"{place} already holds a run: dpotrain run goes on with it under --resume" in (
        dpotrain("check", str(recipe)).output
    )
