"""Losses and metrics are handed numbers of the data's columns; a pair without one is dropped, and counted."""

import json
import math
from dataclasses import replace

import pytest
import torch
from pydantic import Field

from dpotrain import hookimpl
from dpotrain.core.errors import DataError, PluginError, RecipeError
from dpotrain.core.scores import PairScores
from dpotrain.plugin.api import Callback, HeldOutPair, Loss, Use
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import Offers
from tests.run.recipes import losses, project, run


class ByGap(Loss):
    """DPO whose pairs count by how far apart the answers' scores are."""

    name = "by-gap"
    columns = ("score_gap",)

    def __call__(self, scores):
        apart = scores.chosen_logratio - scores.rejected_logratio
        return -scores.columns["score_gap"] * torch.nn.functional.logsigmoid(self.options.beta * apart)


class Weighted(Loss):
    """DPO whose pairs count by a column of the data."""

    name = "weighted"
    columns = ("weight",)

    def __call__(self, scores):
        apart = scores.chosen_logratio - scores.rejected_logratio
        return -scores.columns["weight"] * torch.nn.functional.logsigmoid(self.options.beta * apart)


class Halved(Loss):
    """Half of another loss."""

    name = "halved"

    class Options(Loss.Options):
        inner: Use[Loss] = Field(description="The loss that is halved.")

    def __call__(self, scores):
        return self.options.inner(scores) / 2


class Heaviest(Callback):
    """Tells which held-out pair weighs most."""

    name = "heaviest"
    columns = ("weight",)

    @hookimpl
    def dpotrain_run_finished(self, run):
        pairs = run.held_out()
        run.report("heaviest", {"weights": [pair.columns["weight"] for pair in pairs]})


class Forgetful(Loss):
    """Reads a column, or a statistic, that it does not ask for."""

    name = "forgetful"

    class Options(Loss.Options):
        reads: str = Field("columns", description="Which of the two.")

    def __call__(self, scores):
        return getattr(scores, self.options.reads)["entropy"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A project whose rows have the column ``votes``: 0, 1, 2, …, but for two that have no number there."""
    folder = tmp_path_factory.mktemp("columns")
    path = project(folder)
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"votes": float(number)} for number, line in enumerate(lines)]
    rows[3]["votes"], rows[5]["votes"] = None, math.inf
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PLUGINS = PluginManager.from_entry_points(
    extra=[Offers("columns", Weighted, ByGap, Halved, Heaviest, Forgetful)]
)


def weighted(
    recipe, out, *overrides: str, columns: str = 'data.columns.weight="votes"', resume: bool = False
):
    return run(recipe, columns, 'loss.use="weighted"', *overrides, into=out, plugins=PLUGINS, resume=resume)


def test_the_numbers_reach_the_loss_however_steps_are_cut_and_from_the_cache(recipe, tmp_path):
    cache = f"run.cache_dir={str(tmp_path / 'cache')!r}"
    file_order = ["data.shuffle=false", "data.eval_fraction=false", cache]
    weighted(recipe, tmp_path / "a", *file_order)
    weighted(recipe, tmp_path / "b", *file_order, "training.tokens_per_microbatch=60")
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-5)  # weights up to 22
    # The first step holds rows 0, 1, 2, 4 and 6: before any update each pair's loss is its weight times ln 2.
    assert losses(tmp_path / "a")[0] == pytest.approx((0 + 1 + 2 + 4 + 6) / 5 * math.log(2), rel=1e-5)
    report = json.loads((tmp_path / "a" / "data_report.json").read_text())
    dropped = json.dumps(report)
    assert "weight is missing" in dropped
    assert "weight is not a finite number" in dropped
    assert report["pairs"]["train"] == 21


def test_a_loss_in_the_options_of_another_has_its_columns(recipe, tmp_path):
    file_order = ["data.shuffle=false", "data.eval_fraction=false", "training.steps=1"]
    weighted(recipe, tmp_path / "a", 'loss.use="halved"', 'loss.inner="weighted"', *file_order)
    assert losses(tmp_path / "a")[0] == pytest.approx((0 + 1 + 2 + 4 + 6) / 5 * math.log(2) / 2, rel=1e-5)


def test_a_callback_has_the_columns_of_held_out_pairs(recipe, tmp_path):
    extra = ['loss.use="dpo"', 'callbacks=[{use="heaviest"}]', "training.steps=1", "data.eval_fraction=0.2"]
    weighted(recipe, tmp_path / "a", *extra)
    weights = json.loads((tmp_path / "a" / "summary.json").read_text())["heaviest"]["weights"]
    held_out = map(json.loads, (tmp_path / "a" / "evaluations" / "pairs.jsonl").read_text().splitlines())
    assert weights == [float(pair["row"]) for pair in held_out]


def test_a_column_that_is_not_there_is_named(recipe, tmp_path):
    with pytest.raises(
        DataError, match=r'loss "weighted" needs the column "weight", which the data does not have'
    ):
        weighted(recipe, tmp_path / "a", columns="data.limit=9")


@pytest.mark.parametrize(("reads", "asked"), [("columns", "columns"), ("statistics", "needs_statistics")])
def test_what_a_loss_does_not_ask_for_is_explained(recipe, tmp_path, reads, asked):
    overrides = ['loss.use="forgetful"', f'loss.reads="{reads}"', "training.steps=1"]
    with pytest.raises(PluginError) as caught:
        weighted(recipe, tmp_path / "a", *overrides, columns="data.limit=9")
    said = str(caught.value)
    assert 'loss "forgetful"' in said
    assert (
        f'scores.{reads} has no "entropy", which the component asks for by {asked} = ("entropy",) in its class '
        "(what is asked for in this recipe: nothing)"
    ) in said


def test_what_is_there_is_named_beside_what_is_not():
    scores = PairScores(*[torch.zeros(1)] * 6, columns={"weight": torch.ones(1)})
    for made in (scores, replace(scores, step=3)):
        assert made.columns["weight"] == 1
        assert "entropy" not in made.columns
        assert made.columns.get("entropy") is None
        with pytest.raises(KeyError, match=r'no "entropy".* \(what is asked for in this recipe: "weight"\)'):
            made.columns["entropy"]
    pair = HeldOutPair(0, "", "", "", [], [], [], {"weight": 1.0})
    with pytest.raises(KeyError, match=r'pair.columns has no "votes"'):
        pair.columns["votes"]


def test_a_mapped_column_that_nothing_reads_is_refused(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"quality"):
        weighted(recipe, tmp_path / "a", 'loss.use="dpo"', columns='data.columns.quality="votes"')


def test_other_numbers_are_other_data_for_a_resumed_weighted(recipe, tmp_path):
    weighted(recipe, tmp_path / "a", "training.steps=2", 'schedule.use="constant"')
    pairs = recipe.parent / "pairs.jsonl"
    before = pairs.read_text()
    pairs.write_text(before.replace('"votes": 1.0', '"votes": 9.0'))
    try:
        with pytest.raises(Exception, match="data is not the run's"):
            weighted(recipe, tmp_path / "a", "training.steps=4", 'schedule.use="constant"', resume=True)
    finally:
        pairs.write_text(before)


def test_the_numbers_that_a_formatter_gives_its_pairs_reach_the_loss(recipe, tmp_path):
    rows = [
        {
            "prompt": f"question {number}",
            "answers": [{"answer": text, "score": score} for text, score in answers],
        }
        for number, answers in enumerate([[("a", 1), ("b", 3), ("c", 4)], [("a", 9), ("b", 2)]])
    ]
    file = tmp_path / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [f'data.name="{file}"', 'data.format={use="ranked", pairs="all"}', "data.eval_fraction=false"]
    run(recipe, 'loss.use="by-gap"', *overrides, "training.steps=1", into=tmp_path / "run", plugins=PLUGINS)
    # Four pairs of two rows: three of the first, one of the second.
    assert losses(tmp_path / "run") == [pytest.approx((2 + 3 + 1 + 7) / 4 * math.log(2), rel=1e-5)]


def test_the_columns_of_dpotrain_s_own_change_the_loss_where_they_are_mapped(recipe, tmp_path):
    """The first step holds rows 0, 1, 2, 4 and 6, all with the loss ln 2; row 3 and 5 have no number."""
    once = ['loss.use="dpo"', "data.shuffle=false", "data.eval_fraction=false", "training.steps=1"]
    weighted(recipe, tmp_path / "a", *once)
    assert losses(tmp_path / "a")[0] == pytest.approx((0 + 1 + 2 + 4 + 6) / 5 * math.log(2), rel=1e-5)
    # A probability is at most 1: of the rows with 0 and 1, each counts whole for one way round.
    weighted(recipe, tmp_path / "b", *once, columns='data.columns.label_probability="votes"')
    assert losses(tmp_path / "b")[0] == pytest.approx(math.log(2), rel=1e-5)
    report = json.loads((tmp_path / "b" / "data_report.json").read_text())
    assert report["pairs"]["train"] == 2
    assert "label_probability is not at least 0 and at most 1" in json.dumps(report)
    weighted(recipe, tmp_path / "c", *once, "loss.beta=0.5", columns='data.columns.margin="votes"')
    expected = sum(math.log1p(math.exp(margin)) for margin in (0, 1, 2, 4, 6)) / 5
    assert losses(tmp_path / "c")[0] == pytest.approx(expected, rel=1e-4)


def test_reference_log_probs_from_the_data_are_those_that_a_model_gives(recipe, tmp_path):
    """Stored as columns they give the steps of the reference that computed them; of a run without a reference."""
    lines = (recipe.parent / "pairs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    file = tmp_path / "scored.jsonl"
    data = [f'data.name="{file}"', "data.shuffle=false", "data.eval_fraction=false", 'loss.use="dpo"']
    for number, row in enumerate(rows):
        row |= {"ours": -30.0 - number, "theirs": -31.0}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapped = 'data.columns={reference_chosen="ours", reference_rejected="theirs"}'
    weighted(recipe, tmp_path / "a", *data, "training.steps=1", columns=mapped)
    first = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    # rewards/margins is beta times (policy - reference); the sums of the first five rows are known.
    margin = 0.1 * (first["logps/chosen"] - first["logps/rejected"] - (-30 - (0 + 1 + 2 + 3 + 4) / 5 + 31))
    assert first["rewards/margins"] == pytest.approx(margin, abs=1e-4)
    assert not list((tmp_path / "a").glob("reference/*"))
