"""``evaluation.best``: the policy of the best evaluation in ``final/``, however the run got there."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dpotrain import load_recipe
from dpotrain.core.errors import RecipeError
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.ui.summary import summary_text
from tests.run.recipes import Recording, project, records, run

METRIC = "rewards/margins"
#: Up and down again, with an adapter: the best of the evaluations is neither the first nor the last.
OVERSHOOTS = [
    "training.steps=8",
    "evaluation.every=1",
    "evaluation.best=true",
    "checkpoints.keep=1",
    f"checkpoints.best={METRIC}",
    "optimizer.lr=0.1",
    "loss.beta=1.0",
]


def into(folder: Path) -> str:
    return f"run.output_dir={str(folder)!r}"


def best_of(run: Path, metric: str = METRIC) -> int:
    values = {line["step"]: line[metric] for line in records(run, "eval") if line["step"]}
    return max(values, key=values.__getitem__)


def same_as_checkpoint(run: Path, step: int, adapter: bool) -> bool:
    """Whether the result has the weights of the checkpoint of a step."""
    (file,) = (run / "final").glob("*.safetensors")
    final = load_file(file)
    trained = load_file(checkpoints.path_of(run / "checkpoints", step) / "trained.safetensors")
    if adapter:
        trained = {name.replace(".default", ""): weight for name, weight in trained.items()}
    return final.keys() <= trained.keys() and all(trained[name].equal(final[name]) for name in final)


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("every", [3, "false"])
def test_the_result_is_the_best_evaluation_s_and_the_summary_says_so(tmp_path, adapter, every):
    recipe = project(tmp_path, adapter=adapter)
    reporter = Recording()
    rate = [] if adapter else ["optimizer.lr=0.02"]
    outcome = run(recipe, *OVERSHOOTS, *rate, f"checkpoints.every={every}", reporter=reporter)
    best = best_of(tmp_path / "run")
    assert best not in (1, 8)
    assert (outcome.steps, outcome.final_step, outcome.final_evaluation["step"]) == (8, best, best)
    assert outcome.last_evaluation["step"] == 8
    assert same_as_checkpoint(tmp_path / "run", best, adapter)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["final_step"], summary["last_evaluation"]["step"]) == (best, 8)
    assert (
        f"final/ holds the policy of step {best}, whose evaluation is the best by {METRIC}" in reporter.notes
    )
    assert f"the policy of step {best}, the best evaluation" in summary_text(outcome)
    there = [checkpoints.step_of(path) for path in checkpoints.complete(tmp_path / "run" / "checkpoints")]
    assert there == ([best, 8] if every == 3 else [best])


def test_the_steps_are_those_of_a_run_that_exports_the_last(tmp_path):
    recipe = project(tmp_path, adapter=True)
    run(recipe, *OVERSHOOTS)
    run(recipe, *OVERSHOOTS, "evaluation.best=false", into=tmp_path / "last")
    metrics = [
        [
            (line["kind"], line["step"], line["loss"])
            for line in map(json.loads, (folder / "metrics.jsonl").open())
        ]
        for folder in (tmp_path / "run", tmp_path / "last")
    ]
    assert metrics[0] == metrics[1]
    assert same_as_checkpoint(tmp_path / "last", 8, adapter=True)


@pytest.mark.soak
def test_stopped_and_resumed_past_the_best_it_is_still_exported(forked, tmp_path):
    recipe = project(tmp_path, adapter=True)
    run(recipe, *OVERSHOOTS, into=tmp_path / "whole")
    best = best_of(tmp_path / "whole")
    for stop in (best, best + 1, 8):
        place = into(tmp_path / str(stop))
        ended = forked.run(recipe, [*OVERSHOOTS, place], acts=[["signal_after", stop, "SIGTERM"]])
        assert ended.code == 75
        assert forked.run(recipe, [*OVERSHOOTS, place]).code == 0
        assert same_as_checkpoint(tmp_path / str(stop), best, adapter=True)
        files = [tmp_path / name / "final" / "adapter_model.safetensors" for name in ("whole", str(stop))]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_two_processes_export_it(forked, tmp_path):
    recipe = project(tmp_path)
    ended = forked.ranks(recipe, [*OVERSHOOTS, "optimizer.lr=0.02"])
    assert [each.code for each in ended] == [0, 0], ended
    assert same_as_checkpoint(tmp_path / "run", best_of(tmp_path / "run"), adapter=False)


def test_more_epochs_go_on_from_the_last_step_not_from_the_best(tmp_path):
    recipe = project(tmp_path, adapter=True)
    constant = ['schedule.use="constant"', "schedule.warmup_fraction=0"]
    run(recipe, *OVERSHOOTS, *constant)
    run(recipe, *OVERSHOOTS, *constant, "training.steps=10", resume=True)
    run(recipe, *OVERSHOOTS, *constant, "training.steps=10", into=tmp_path / "whole")
    evaluated = [
        [(line["step"], line["loss"]) for line in records(folder, "eval")]
        for folder in (tmp_path / "run", tmp_path / "whole")
    ]
    assert evaluated[0] == evaluated[1]


def test_a_damaged_best_checkpoint_is_skipped_with_a_warning(tmp_path):
    recipe = project(tmp_path, adapter=True)
    overrides = [*OVERSHOOTS, "checkpoints.every=1", "checkpoints.keep=9"]
    run(recipe, *overrides)
    best = best_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    (tmp_path / "run" / "summary.json").unlink()
    spoiled = checkpoints.path_of(tmp_path / "run" / "checkpoints", best) / "trained.safetensors"
    spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"?")
    reporter = Recording()
    outcome = run(recipe, *overrides, resume=True, reporter=reporter)
    values = {line["step"]: line[METRIC] for line in records(tmp_path / "run", "eval") if line["step"]}
    second = max(values.keys() - {best}, key=values.__getitem__)
    assert outcome.final_step == second
    assert same_as_checkpoint(tmp_path / "run", second, adapter=True)
    assert any(f"step-{best:08d} is damaged" in text for text in reporter.warnings)
    assert any(f"was at step {best}, of which no checkpoint is left" in text for text in reporter.warnings)


def test_another_metric_of_a_resumed_run_judges_the_evaluations_there_are(tmp_path):
    recipe = project(tmp_path, adapter=True)
    overrides = [*OVERSHOOTS, "checkpoints.every=1", "checkpoints.keep=9"]
    run(recipe, *overrides, reporter=Recording(stop_at=7))
    metric = "logps/rejected"
    outcome = run(recipe, *overrides, f"checkpoints.best={metric}", resume=True)
    best = best_of(tmp_path / "run", metric)
    assert best != best_of(tmp_path / "run")
    assert (outcome.final_step, outcome.best_by) == (best, metric)
    assert outcome.first_evaluation["step"] == 0


def test_where_nothing_beats_the_policy_before_training_a_warning_says_so(tmp_path):
    recipe = project(tmp_path, adapter=True)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    # What is held out asks for the opposite of what is learned.
    turned = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    (tmp_path / "both").mkdir()
    for name, rows in {"train": pairs, "test": turned}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "both" / f"{name}.jsonl").write_text(text)
    data = [f"data.name={str(tmp_path / 'both')!r}", "data.eval_fraction=false", "data.eval_split=test"]
    reporter = Recording()
    outcome = run(recipe, *OVERSHOOTS, *data, "training.steps=3", reporter=reporter)
    assert outcome.final_step == best_of(tmp_path / "run") > 0
    assert any(f"as good by {METRIC} as the one before training" in text for text in reporter.warnings)


def test_without_evaluations_on_the_way_it_is_refused(tmp_path):
    recipe = project(tmp_path)
    with pytest.raises(RecipeError, match=r"\[evaluation\] best: without evaluations during training"):
        load_recipe(recipe, ["evaluation.best=true"])
    with pytest.raises(RecipeError, match=r"\[evaluation\] best: there are no held-out pairs"):
        load_recipe(recipe, ["evaluation.best=true", "data.eval_fraction=0"])


def test_a_finished_run_is_given_the_best_policy_afterwards(tmp_path):
    recipe = project(tmp_path, adapter=True)
    overrides = [each for each in OVERSHOOTS if each != "evaluation.best=true"]
    run(recipe, *overrides, "checkpoints.every=1", "checkpoints.keep=9")
    again = run(recipe, *overrides, "checkpoints.every=1", "evaluation.best=true", resume=True)
    assert (again.status, again.steps) == ("finished", 8)
    assert again.final_step == best_of(tmp_path / "run") != 8
    assert same_as_checkpoint(tmp_path / "run", again.final_step, adapter=True)
