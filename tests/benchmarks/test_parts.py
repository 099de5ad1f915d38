"""The instruments behind the benchmarks: speeds, phases, hot parts, scaling, the machine's rates."""

import json
from types import SimpleNamespace

import pytest
import torch

from tests.benchmarks import hot_parts, machine, scaling
from tests.benchmarks import phases as phases_module
from tests.benchmarks.agreement import largest_difference
from tests.benchmarks.phases import PARTS, Phases
from tests.benchmarks.speeds import phases, speeds

PAIRS = [{"tokens": tokens, "policy_flops": 10, "reference_flops": 1} for tokens in (5, 7, 9, 11, 13)]
FACTS = {"pairs": PAIRS, "matrix_product_flops_per_second": 100.0}


def result(ends, reference=0.0):
    return {
        "step_ends": ends,
        "reference_seconds": reference,
        "live_reference": not reference,
        "peak_memory_mb": {"resident": 1.0},
    }


def test_speeds_of_two_epochs_whose_last_step_is_smaller():
    # Steps of 2, 2 and 1 pairs; the first ends at 1.0.
    found = speeds(result([1.0, 2.0, 3.0, 5.0, 7.0, 9.0], reference=5.0), FACTS, 2)
    assert found["pairs_per_second"] == pytest.approx(8 / 8)
    assert found["tokens_per_second"] == pytest.approx((2 * 45 - 12) / 8)
    assert found["model_flops_per_second"] == pytest.approx(80 / 8)
    assert found["later_epochs_pairs_per_second"] == pytest.approx(5 / 6)
    # Three pairs took 2 seconds, so five take 10/3, and the reference 5.
    assert found["first_epoch_pairs_per_second"] == pytest.approx(5 / (5 + 10 / 3))


def test_a_live_reference_is_work():
    assert speeds(result([0.0, 1.0, 2.0]), FACTS, 2)["model_flops_per_second"] == pytest.approx(33 / 2)


def test_one_epoch_has_no_later_ones():
    assert "later_epochs_pairs_per_second" not in speeds(result([0.0, 1.0, 2.0]), FACTS, 2)


def test_losses_of_other_steps_are_not_compared():
    assert largest_difference([0.5, 0.7], [0.5, 0.6]) == pytest.approx(0.1)
    assert largest_difference([0.5], [0.5, 0.6]) is None


def test_a_part_inside_another_counts_as_the_outer_one(monkeypatch):
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(phases_module, "time", SimpleNamespace(perf_counter=lambda: now))
    phases = Phases()
    scorer = phases.timed("forward", lambda: work(0.01))
    reference = phases.timed("reference", scorer)
    for _ in range(2):
        reference()
        for part in PARTS:
            phases.timed(part, lambda: work(0.001))()
        phases.step_ended(0.1)
    mean = phases.mean()
    assert (mean["reference"], mean["forward"]) == (pytest.approx(0.011), pytest.approx(0.001))
    assert sum(mean.values()) == pytest.approx(0.1)


def test_first_and_last_step_are_left_out():
    phases_of_run = Phases()
    for seconds in (9.0, 1.0, 3.0, 50.0):
        for part in PARTS:
            phases_of_run._now[part] = seconds / 10
            phases_of_run._calls[part] = round(seconds)
        phases_of_run.step_ended(seconds)
    assert phases_of_run.mean() == pytest.approx({**dict.fromkeys(PARTS, 0.2), "rest": 1.0})
    assert phases_of_run.calls_per_step() == dict.fromkeys(PARTS, 2)
    found = phases({"step_ends": [9.0, 11.0, 13.0, 90.0], "phases": {"forward": 1.5}})
    assert found == {"forward": 1.5, "between steps": 0.5, "step in all": 2.0}


def test_the_machine_s_rates_are_numbers():
    assert machine.matrix_product_rate(torch.float32, seconds=0, size=16) > 0
    assert machine.memory_rate(seconds=0, size=1024) > 0


def test_a_part_that_was_never_called_is_an_error():
    phases = Phases()
    phases.timed("forward", lambda: None)()
    phases.step_ended(0.1)
    with pytest.raises(
        RuntimeError, match="never called what is timed as data, reference, backward, optimizer"
    ):
        phases.mean()


@pytest.mark.parametrize("part", ["attention", "log-probs"])
def test_the_plain_way_computes_the_same(part):
    torch.manual_seed(0)
    cases = [case for case in hot_parts.cases(part, "cpu") if "float32" in case.what]
    assert {case.what.rpartition(", ")[2] for case in cases} == {"forward", "both passes"}
    for case in cases[:8]:
        torch.testing.assert_close(case.ours(), case.plain(), atol=1e-4, rtol=1e-4)


def test_hot_parts_are_shown_and_written(tmp_path, capsys):
    out = tmp_path / "hot.json"
    assert hot_parts.main(["--only", "packing", "--only", "planning", "--out", str(out)]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert all(case["ours_ms"] > 0 for case in written["cases"])
    assert {case["part"] for case in written["cases"]} == {"packing", "planning"}
    assert "10000 pairs in one pass" in capsys.readouterr().out


def test_scaling_has_a_cell_for_every_length_and_step_size(tmp_path, capsys, monkeypatch):
    asked = []

    def prepare(workload, synthetic):
        tokens = round(sum(synthetic[:3]))
        pair = {"tokens": tokens, "policy_flops": 1, "reference_flops": 1}
        return {**FACTS, "pairs": [pair] * workload.pairs, "machine": {}}

    def run(workload, overrides):
        asked.append((workload.pairs, workload.pairs_per_step, overrides))
        assert workload.max_length > 64
        return result([float(step) for step in range(workload.steps)])

    monkeypatch.setattr(scaling, "prepare", prepare)
    monkeypatch.setattr(scaling, "run_dpotrain", run)
    out = tmp_path / "scaling.json"
    given = ["--lengths", "64,128", "--pairs-per-step", "1,4", "--steps", "3", "--set", "a.b=1"]
    assert scaling.main([*given, "--out", str(out)]) == 0
    cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    assert asked == [(3, 1, ["a.b=1"]), (12, 4, ["a.b=1"])] * 2
    # A step a second.
    assert [(cell["length"], cell["pairs_per_step"], cell["tokens_per_second"]) for cell in cells] == [
        (64, 1, 64.0),
        (64, 4, 256.0),
        (128, 1, 128.0),
        (128, 4, 512.0),
    ]
    shown = capsys.readouterr().out
    assert "4 pairs a step" in shown
    assert "peak resident memory" in shown
