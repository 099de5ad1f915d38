"""When held-out pairs are evaluated, on which of them, and what is kept of each."""

import json
import signal
from pathlib import Path

import pytest

from dpotrain import load_recipe
from dpotrain.core.errors import RunError
from tests.run.recipes import Recording, project, records, run, weights, write_pairs

EVERY = ["evaluation.every=4", "checkpoints.every=5", "training.steps=10", "data.eval_fraction=0.3"]


def into(folder: Path) -> str:
    return f"run.output_dir={str(folder)!r}"


def pairs_of(run: Path) -> list[dict]:
    return lines(run / "evaluations" / "pairs.jsonl")


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def evaluations(run: Path) -> dict[int, list[dict]]:
    files = sorted((run / "evaluations").glob("step-*.jsonl"))
    return {int(file.stem.removeprefix("step-")): lines(file) for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    recipe = project(tmp_path_factory.mktemp("whole"))
    write_pairs(recipe.parent / "pairs.jsonl", 40)
    run(recipe, *EVERY)
    return recipe


def test_each_pair_s_margin_is_kept_of_every_evaluation_in_the_order_of_the_pairs(whole):
    folder = whole.parent / "run"
    pairs, found = pairs_of(folder), evaluations(folder)
    source = lines(whole.parent / "pairs.jsonl")
    assert [{"row": pair["row"], **source[pair["row"]]} for pair in pairs] == pairs
    assert list(found) == [0, 4, 8, 10]
    for record in records(folder, "eval"):
        margins = [line["margin"] for line in found[record["step"]]]
        assert [line["row"] for line in found[record["step"]]] == [pair["row"] for pair in pairs]
        assert record["pairs"] == len(margins) == len(pairs)
        assert sum(margins) / len(margins) == pytest.approx(record["rewards/margins"], abs=1e-6)
        right = sum((margin > 0) + (margin == 0) / 2 for margin in margins)
        assert right / len(margins) == pytest.approx(record["rewards/accuracies"])
        for line in found[record["step"]]:
            assert line["chosen"] - line["rejected"] == pytest.approx(line["margin"], abs=1e-5)
    assert len(set(margins)) > 1


def test_two_processes_keep_each_pair_once_although_one_of_them_pads(forked, whole, tmp_path):
    """One micro-batch for all pairs: the second process has a filler."""
    ended = forked.ranks(whole, [*EVERY, "training.steps=1", into(tmp_path / "two")])
    assert [each.code for each in ended] == [0, 0], ended
    assert pairs_of(tmp_path / "two") == pairs_of(whole.parent / "run")
    (first, last) = evaluations(tmp_path / "two").values()
    assert [line["margin"] for line in first] == pytest.approx([0.0] * len(first), abs=1e-4)
    run(whole, *EVERY, "training.steps=1", into=tmp_path / "one")
    (_, alone) = evaluations(tmp_path / "one").values()
    assert [line["row"] for line in last] == [line["row"] for line in alone]
    assert [line["margin"] for line in last] == pytest.approx([line["margin"] for line in alone], abs=1e-4)


def test_a_resumed_run_leaves_the_files_of_one_that_nobody_stopped(forked, whole, tmp_path):
    place = into(tmp_path / "run")
    constant = [*EVERY, 'schedule.use="constant"', "schedule.warmup_fraction=0"]
    ended = forked.run(whole, [*constant, place], acts=[["signal_after", 9, "SIGKILL"]])
    assert ended.code == -signal.SIGKILL
    assert list(evaluations(tmp_path / "run")) == [0, 4, 8]
    assert forked.run(whole, [*constant, place, "training.steps=7"]).code == 0
    assert list(evaluations(tmp_path / "run")) == [0, 4, 7]
    run(whole, *constant, "training.steps=7", into=tmp_path / "whole")
    names = [path.name for path in sorted((tmp_path / "whole" / "evaluations").iterdir())]
    for name in names:
        files = [tmp_path / of / "evaluations" / name for of in ("run", "whole")]
        assert files[0].read_text() == files[1].read_text()
    assert names == [path.name for path in sorted((tmp_path / "run" / "evaluations").iterdir())]


def test_a_sample_of_the_pairs_is_the_same_in_every_evaluation_and_process(forked, whole, tmp_path):
    reporter = Recording()
    sample = [*EVERY, "evaluation.pairs=3"]
    run(whole, *sample, into=tmp_path / "run", reporter=reporter)
    everything = [pair["row"] for pair in pairs_of(whole.parent / "run")]
    chosen = [pair["row"] for pair in pairs_of(tmp_path / "run")]
    assert len(chosen) == 3
    assert chosen == [row for row in everything if row in chosen]
    for found in evaluations(tmp_path / "run").values():
        assert [line["row"] for line in found] == chosen
    assert reporter.facts["data"].endswith(f"; evaluated on 3 of {len(everything)} held out")
    assert {line["pairs"] for line in records(tmp_path / "run", "eval")} == {3}
    assert weights(tmp_path / "run" / "final") == weights(whole.parent / "run" / "final")
    ended = forked.ranks(whole, [*sample, "training.steps=1", into(tmp_path / "two")])
    assert [each.code for each in ended] == [0, 0], ended
    assert pairs_of(tmp_path / "two") == pairs_of(tmp_path / "run")
    run(whole, *EVERY, "evaluation.pairs=99", "training.steps=1", into=tmp_path / "all")
    assert [pair["row"] for pair in pairs_of(tmp_path / "all")] == everything


def test_another_seed_takes_other_pairs(whole, tmp_path):
    rows = set()
    for seed in range(3):
        # The split is by the seed as well, so it comes from the data.
        test = write_pairs(tmp_path / "test.jsonl", 30, seed=1)
        more = ["data.eval_fraction=false", "data.eval_split=test", f"seed={seed}"]
        folder = tmp_path / f"{seed}"
        (tmp_path / "both").mkdir(exist_ok=True)
        for name, file in {"train": whole.parent / "pairs.jsonl", "test": test}.items():
            (tmp_path / "both" / f"{name}.jsonl").write_text(file.read_text())
        files = f"data.name={str(tmp_path / 'both')!r}"
        run(whole, files, *more, "evaluation.pairs=5", "training.steps=1", into=folder)
        rows.add(tuple(pair["row"] for pair in pairs_of(folder)))
    assert len(rows) == 3


def test_where_a_resumed_run_evaluates_other_pairs_the_earlier_evaluations_are_kept_apart(whole, tmp_path):
    reporter = Recording()
    run(whole, *EVERY, into=tmp_path / "run", reporter=Recording(stop_at=5))
    run(whole, *EVERY, "evaluation.pairs=3", into=tmp_path / "run", resume=True, reporter=reporter)
    assert list(evaluations(tmp_path / "run")) == [8, 10]
    assert len(pairs_of(tmp_path / "run")) == 3
    before = tmp_path / "run" / "evaluations-until-step-00000004"
    assert sorted(path.name for path in before.iterdir())[0] == "pairs.jsonl"
    assert f"other pairs are evaluated now; earlier evaluations are in {before}" in reporter.notes


def test_of_a_row_with_several_pairs_each_has_its_own_texts(tmp_path):
    recipe = project(tmp_path)
    answers = [*enumerate(("dog", "fox", "salt"))]
    rows = [
        {
            "prompt": f"help {row}",
            "answers": [{"answer": f"{word} {row}", "rank": score} for score, word in answers],
        }
        for row in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(recipe, 'data.format={use="ranked", pairs="all"}', "training.steps=1")
    found = pairs_of(tmp_path / "run")
    assert {(pair["chosen"].split()[0], pair["rejected"].split()[0]) for pair in found} == {
        ("fox", "salt"), ("dog", "salt"), ("dog", "fox"),
    }  # fmt: skip
    assert all(pair["prompt"].split()[-1] == pair["chosen"].split()[-1] == str(pair["row"]) for pair in found)


def test_texts_are_cut_and_conversations_written_with_their_roles(tmp_path):
    recipe = project(tmp_path)
    from tests.support import tiny_tokenizer

    tiny_tokenizer(tmp_path / "model")
    turns = [("system", "salt"), ("user", "bread " * 80)]
    rows = [
        {
            "prompt": [{"role": role, "content": f"{text}{row}"} for role, text in turns],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for row in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(recipe, 'data.format="conversational"', "data.max_length=400", "training.steps=1")
    pair = pairs_of(tmp_path / "run")[0]
    assert pair["prompt"].startswith(f"system: salt{pair['row']}\nuser: bread bread ")
    assert (len(pair["prompt"]), pair["prompt"][-1]) == (300, "…")
    assert (pair["chosen"], pair["rejected"]) == ("yes", "no")


def test_without_a_first_evaluation_the_training_is_the_same(whole, tmp_path):
    run(whole, *EVERY, "evaluation.first=false", into=tmp_path / "run")
    assert [record["step"] for record in records(tmp_path / "run", "eval")] == [4, 8, 10]
    assert weights(tmp_path / "run" / "final") == weights(whole.parent / "run" / "final")


def test_without_one_an_unknown_best_metric_is_still_told_before_the_first_step(whole, tmp_path):
    overrides = [*EVERY, "evaluation.first=false", "checkpoints.best=accuracy"]
    with pytest.raises(
        RunError, match=r'"accuracy" is not a metric of an evaluation; there are:\nloss, epoch'
    ):
        run(whole, *overrides, into=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    last = records(whole.parent / "run", "eval")[-1]
    for metric in last.keys() - {"kind", "step"}:
        best = [*overrides, f"checkpoints.best={metric}", "training.steps=1"]
        assert run(whole, *best, into=tmp_path / metric).status == "finished"


def test_a_fraction_of_nothing_holds_nothing_out(whole, tmp_path):
    none = ["data.eval_fraction=false", "training.steps=4"]
    run(whole, *none, into=tmp_path / "run", reporter=Recording(stop_at=2))
    outcome = run(whole, *none, "data.eval_fraction=0", into=tmp_path / "run", resume=True)
    assert (outcome.status, outcome.last_evaluation) == ("finished", {})
    assert not (tmp_path / "run" / "evaluations").exists()
    both = ["data.eval_fraction=0", "data.eval_split=test"]
    assert load_recipe(whole, both).data.eval_split == "test"
