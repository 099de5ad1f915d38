"""Several sources in one run: the same steps in one process and two and after a resumption; metrics by source."""

import json
import re

import numpy as np
import pytest

from dpotrain.cli.preview import preview
from dpotrain.recipe.load import load_recipe
from tests.data.preparing import RecordingReporter
from tests.run.recipes import Recording, losses, project, records, run, weights, write_pairs
from tests.support import dpotrain

SOURCES = """
[[data.sources]]
use = "hf-datasets"
name = "{folder}/pairs.jsonl"
label = "plain"
weight = 2.0

[[data.sources]]
use = "hf-datasets"
name = "{folder}/more.jsonl"
weight = 1.0

[[data.sources]]
use = "hf-datasets"
name = "{folder}/few.jsonl"
pairs = 7
repeat = true

[[data.sources]]
use = "hf-datasets"
name = "{folder}/others.jsonl"
weight = 0.5
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    path = project(folder)
    write_pairs(folder / "more.jsonl", 17, seed=1)
    write_pairs(folder / "few.jsonl", 6, seed=2)
    write_pairs(folder / "others.jsonl", 30, seed=3)
    text = path.read_text().replace(f'use = "hf-datasets"\nname = "{folder}/pairs.jsonl"\n', "", 1)
    path.write_text(f"{text}\n{SOURCES.format(folder=folder)}")
    return path


def pairs_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "evaluations" / "pairs.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(recipe):
    folder, shown = recipe.parent / "done", Recording()
    run(recipe, "evaluation.every=3", into=folder, reporter=shown)
    return folder, shown


def test_metrics_by_source_add_up_to_the_whole(done):
    folder, _ = done
    report = json.loads((folder / "data_report.json").read_text())
    labels = [each["source"] for each in pairs_of(folder)]
    counts = {label: labels.count(label) for label in dict.fromkeys(labels)}
    assert list(counts) == ["plain", "more", "few", "others"] == list(report["mixture"])
    for each in records(folder, "eval"):
        for name in ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen"):
            parts = sum(each[f"{label}/{name}"] * count for label, count in counts.items())
            assert parts / len(labels) == pytest.approx(each[name], rel=1e-6, abs=1e-9)
    last = [
        json.loads(line) for line in sorted(folder.glob("evaluations/step-*"))[-1].read_text().splitlines()
    ]
    mine = [row["margin"] for row in last if row["source"] == "more"]
    assert np.mean(mine) == pytest.approx(records(folder, "eval")[-1]["more/rewards/margins"], rel=1e-4)


def test_people_see_sources_apart(done):
    folder, _ = done
    shown = dpotrain("show", str(folder)).output
    assert re.search(r"^ few +[\d.]+ +[\d.]+ % ", shown, re.MULTILINE)
    card = (folder / "final" / "README.md").read_text()
    assert "- few: 7 pairs of an epoch, from " in card


def test_a_source_is_inspected_by_its_label(recipe):
    whole = dpotrain("inspect", str(recipe)).output
    assert [f"{name}/train\n" in whole for name in ("plain", "more", "few", "others")] == [True] * 4
    assert re.search(r"^few: 7 of \d training pairs, each 1\.\d times, ", whole, re.MULTILINE)
    assert "row 2 of few/train" in dpotrain("inspect", str(recipe), "--split", "few", "--row", "2").output
    alone = dpotrain("inspect", str(recipe), "--split", "more/train").output
    assert ("17 read" in alone, "few/train" in alone) == (True, False)
    wrong = dpotrain("inspect", str(recipe), "--split", "fw")
    assert wrong.exit_code == 2
    assert 'there is no split "fw"' in wrong.stderr
    assert "The mixture has: plain/train, more/train, few/train, others/train." in wrong.stderr


def test_check_says_what_an_epoch_takes(recipe):
    shown = Recording()
    assert "an epoch:" not in preview(load_recipe(recipe, ["data.sources.2.repeat=false"]), shown)
    assert any(text.startswith('data.sources.2 ("few"): pairs = 7, but it has') for text in shown.warnings)
    assert re.search(
        r"^an epoch:\n  plain: \d+ of \d+ training pairs, ", dpotrain("check", str(recipe)).output, re.M
    )


def test_an_epoch_takes_what_the_report_says(done):
    folder, shown = done
    report = json.loads((folder / "data_report.json").read_text())
    plain, more, few, others = report["mixture"].values()
    assert few["of_an_epoch"] == 7 > few["pairs"]
    weighted = [each["of_an_epoch"] for each in (plain, more, others)]
    assert weighted == [int(plain["pairs"] * share + 0.5) for share in (1, 1 / 2, 1 / 4)]  # plain is used up
    total = sum(weighted) + 7
    assert report["pairs"]["train"] == total
    assert records(folder)[-1]["step"] == 2 * -(-total // 5)
    assert shown.facts["data"].startswith(f"{total} pairs an epoch, {plain['of_an_epoch']} of plain, ")


def test_the_recipe_of_the_run_repeats_it(done, tmp_path):
    folder, _ = done
    again = tmp_path / "again"
    run(folder / "recipe.toml", into=again)
    assert weights(again / "final") == weights(folder / "final")


def test_steps_are_the_same_in_two_processes_and_after_a_resumption(done, recipe, forked, tmp_path):
    folder, _ = done
    two = [f"run.output_dir={str(tmp_path / 'two')!r}", "evaluation.every=3", "checkpoints.every=4"]
    stopped = forked.ranks(recipe, two, acts=[[0, "signal_after", 6, "SIGTERM"]])
    assert [each.code for each in stopped] == [75, 75]
    assert [each.code for each in forked.ranks(recipe, two)] == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(folder), abs=1e-5)
    for name in ("loss", "few/loss", "plain/rewards/margins", "others/loss"):
        ours, theirs = ([each[name] for each in records(each, "eval")] for each in (folder, tmp_path / "two"))
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_resumed_run_ends_with_the_same_bits(done, recipe, forked, tmp_path):
    folder, _ = done
    one = [f"run.output_dir={str(tmp_path / 'one')!r}", "evaluation.every=3", "checkpoints.every=4"]
    (stopped,) = forked.ranks(recipe, one, ranks=1, acts=[[0, "signal_after", 7, "SIGTERM"]])
    assert stopped.code == 75
    (resumed,) = forked.ranks(recipe, one, ranks=1)
    assert resumed.code == 0, resumed.output
    assert weights(tmp_path / "one" / "final") == weights(folder / "final")


def test_the_best_can_be_that_of_one_source(recipe, tmp_path):
    best = 'checkpoints.best="more/rewards/margins"'
    outcome = run(recipe, "training.steps=2", best, into=tmp_path / "best")
    assert outcome.best_by == "more/rewards/margins"


def test_only_pairs_that_are_used_are_scored_before_training(recipe, tmp_path):
    keys = [
        f"run.output_dir={str(tmp_path / 'few')!r}",
        "data.sources.0.weight=false",
        "data.sources.0.pairs=3",
    ]
    keys += [
        "data.sources.1.weight=false",
        "data.sources.1.pairs=2",
        "data.sources.3.weight=false",
        "data.sources.3.pairs=1",
        "run.cache_dir=false",
        "training.epochs=1",
    ]
    keys += ["reference.when=precomputed", "data.eval_fraction=0.0", "data.sources.2.pairs=1"]
    shown = RecordingReporter()
    run(recipe, *keys, into=tmp_path / "few", reporter=shown)
    total = next(total for name, total, _ in shown.phases if name == "reference")
    assert 7 <= total <= 8  # seven pairs, and perhaps the shortest, which fills micro-batches


def test_a_source_without_held_out_pairs_has_no_metrics(recipe, tmp_path):
    keys = ["training.steps=1", "data.eval_fraction=false"]
    few = load_recipe(recipe).data.sources[2].source.options.name
    keys.append(f'data.sources.2.name={{ train = "{few}", test = "{few}" }}')
    keys += ["data.sources.2.eval_split=test", "data.sources.2.label=few"]
    shown = Recording()
    run(recipe, *keys, into=tmp_path / "own", reporter=shown)
    (before, after) = records(tmp_path / "own", "eval")
    assert "few/loss" in before
    assert "more/loss" not in after
    assert any(
        "prompts of the evaluation split few/test are also trained on" in text for text in shown.warnings
    )
