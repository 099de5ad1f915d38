"""The ``length`` metrics by hand, and in a run."""

import pytest
import torch

from dpotrain import load_recipe, train
from dpotrain.core.reporter import SilentReporter
from dpotrain.core.scores import PairScores
from dpotrain.engine.training.metrics import means_of
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain_plugins.metrics.length import Length
from tests.run.recipes import Recording, project, records, run

METRICS = '\n[[metrics]]\nuse = "length"\n'


def test_by_hand():
    """Log-ratios (8, 3), (-2, 1), (1, 1), (0, 0) over (4, 1), (1, 2), (2, 2), (3, 1) tokens.

    Margins per token are 2 - 3, -2 - 1/2, 0, 0; the pairs' sums are right, wrong, tied and tied, where the chosen is
    longer, shorter, as long, and longer.
    """
    policy = torch.tensor([[8.0, 3.0], [-2.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    tokens = torch.tensor([[4, 1], [1, 2], [2, 2], [3, 1]])
    zero = torch.zeros(4)
    metric = Length(Length.Options())
    recipe_metrics = RecipeMetrics({metric: metric.measures})
    scores = PairScores(policy[:, 0], policy[:, 1], zero, zero, tokens[:, 0], tokens[:, 1])
    assert means_of(recipe_metrics.by_name(recipe_metrics.sums(scores, torch.ones(4)))) == {
        "margins": (-1 - 2.5) / 4,
        "accuracies": (0 + 0 + 0.5 + 0.5) / 4,
        "accuracies_chosen_longer": (1 + 0.5) / 2,
        "accuracies_chosen_shorter": 0.0,
        "chosen_tokens": 2.5,
        "rejected_tokens": 1.5,
    }


def numbers(run) -> list[dict[str, float]]:
    lines = [*records(run), *records(run, "eval")]
    return [{name: value for name, value in line.items() if name.startswith("length/")} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = project(tmp_path_factory.mktemp("length"))
    recipe.write_text(recipe.read_text().replace("every = 1", "every = 3") + METRICS)
    run(recipe)
    return recipe


def test_records_have_them_in_training_and_evaluation(finished):
    assert len(records(finished.parent / "run")) == 4
    for line in numbers(finished.parent / "run"):
        assert line.keys() >= {f"length/{name}" for name in ("margins", "accuracies", "chosen_tokens")}
    first = records(finished.parent / "run", "eval")[0]
    assert (first["length/margins"], first["length/accuracies"]) == (0.0, 0.5)


@pytest.mark.parametrize("way", ["training.tokens_per_microbatch=60", 'training.packing="off"'])
def test_they_are_the_same_however_steps_are_cut(finished, way, tmp_path):
    recipe = load_recipe(finished, [f"run.output_dir={str(tmp_path / 'run')!r}", way])
    train(recipe, reporter=SilentReporter())
    for mine, theirs in zip(numbers(tmp_path / "run"), numbers(finished.parent / "run"), strict=True):
        # Which way the ties of the untrained policy fall is up to rounding, in `rewards/accuracies` too.
        exact = [name for name in theirs if "accuracies" not in name]
        assert [mine[name] for name in exact] == pytest.approx([theirs[name] for name in exact], abs=1e-5)


def test_a_record_whose_steps_a_stop_parted_is_the_same(finished, tmp_path):
    recipe = load_recipe(finished, [f"run.output_dir={str(tmp_path / 'run')!r}"])
    assert train(recipe, reporter=Recording(stop_at=4)).status == "stopped"
    train(recipe, resume=True, reporter=SilentReporter())
    assert numbers(tmp_path / "run") == numbers(finished.parent / "run")


def test_a_resumed_run_may_have_other_metrics(finished, tmp_path):
    place = f"run.output_dir={str(tmp_path / 'run')!r}"
    assert run(finished, place, "metrics=[]", reporter=Recording(stop_at=4)).status == "stopped"
    run(finished, place, resume=True)
    trained = records(tmp_path / "run")
    assert ["length/margins" in line for line in trained] == [False, True, True, True]
    # Of steps 4 to 6, the metric saw the last two.
    whole = records(finished.parent / "run")
    assert trained[2]["length/margins"] == whole[2]["length/margins"]
    assert [line["loss"] for line in trained] == [line["loss"] for line in whole]
