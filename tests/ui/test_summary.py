import io

import pytest
from rich.console import Console

from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL
from dpotrain.ui.summary import summary, summary_text
from tests.ui.records import FIRST, LAST, evaluation, outcome


def _words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_finished_run_says_where_the_result_is_and_how_to_load_it(tmp_path):
    lines = summary_text(outcome(tmp_path)).splitlines()
    assert "finished after 470 steps in 12m32s" in lines
    assert f"  result       {tmp_path / 'final'}" in lines
    at = lines.index("load it:")
    assert lines[at + 1 : at + 3] == ["model = load()", "model = adapt(model)"], "it can be copied and run"
    assert f"  talk to it   dpotrain chat {tmp_path}" in lines
    assert f"  look at it   dpotrain show {tmp_path}" in lines
    assert f"  share it     dpotrain report {tmp_path}" in lines
    assert "  speed        12.3 pairs/s, 2,346 tokens/s, peak memory 3.1 GB" in lines


def test_the_evaluation_is_shown_before_after_and_change(tmp_path):
    words = _words(summary_text(outcome(tmp_path)))
    assert ["evaluation", "before", "after", "change"] in words
    assert ["loss", "0.6931", "0.5431", "-0.1500"] in words
    assert ["accuracy", "50.0", "%", "65.0", "%", "+15.0", "points"] in words
    assert ["margin", "0.0000", "0.5500", "+0.5500"] in words
    assert "  best         loss 0.5000 at step 150" in summary_text(outcome(tmp_path))


def test_the_last_evaluation_being_the_best_is_not_worth_a_line(tmp_path):
    text = summary_text(outcome(tmp_path, best_evaluation={"step": 470, **LAST.metrics}))
    assert not [line for line in text.splitlines() if line.startswith("  best ")]


def test_an_accuracy_says_of_how_many_pairs_and_within_what(tmp_path):
    last = {**LAST.metrics, "rewards/accuracies": 3 / 7, "pairs": 7}
    text = summary_text(outcome(tmp_path, last_evaluation=last))
    assert "  accuracy     42.9 % (3 of 7 pairs, 95 %: 15.8 to 75.0 %)\n" in text
    tied = {**last, "rewards/accuracies": 0.5}
    assert "50.0 % (7 pairs, 95 %: 20.2 to 79.8 %)" in summary_text(outcome(tmp_path, last_evaluation=tied))


def test_a_single_evaluation_is_not_compared_with_itself(tmp_path):
    only = {"step": 0, **FIRST.metrics}
    of_it = {"first_evaluation": only, "last_evaluation": only, "best_evaluation": only}
    stopped = outcome(tmp_path, status="stopped", final=None, steps=1, **of_it)
    words = _words(summary_text(stopped))
    assert ["evaluation", "before"] in words
    assert ["loss", "0.6931"] in words
    assert "change" not in summary_text(stopped)


def test_evaluations_are_named_by_what_they_are(tmp_path):
    """Without one before training the first is not called before, nor the last one after where a run was stopped."""
    first, last = {"step": 50, **FIRST.metrics}, {"step": 400, **LAST.metrics}
    stopped = outcome(tmp_path, status="stopped", final=None, first_evaluation=first, last_evaluation=last)
    assert ["evaluation", "step", "50", "step", "400", "change"] in _words(summary_text(stopped))


def test_the_rounding_of_a_tie_is_no_figure(tmp_path):
    first = {**FIRST.metrics, "rewards/margins": -4.77e-08}
    assert "e-08" not in summary_text(outcome(tmp_path, first_evaluation=first))


def test_a_run_without_held_out_pairs_has_no_table(tmp_path):
    text = summary_text(outcome(tmp_path, first_evaluation={}, last_evaluation={}, best_evaluation={}))
    assert "before" not in text
    assert "change" not in text


def test_falling_chosen_rewards_are_called_normal_in_the_summary(tmp_path):
    assert CHOSEN_REWARDS_FALL in summary_text(outcome(tmp_path))
    without = outcome(tmp_path, first_evaluation={}, last_evaluation={}, best_evaluation={})
    assert CHOSEN_REWARDS_FALL in summary_text(without), "the last train record shows it as well"


def test_other_pictures_are_not_called_normal(tmp_path):
    for last in (evaluation(9, 0.5, 0.8, 0.5, 0.1), evaluation(9, 0.8, 0.4, -0.2, -0.5)):
        assert CHOSEN_REWARDS_FALL not in summary_text(outcome(tmp_path, last_evaluation=last.metrics))


def test_a_stopped_run_says_how_to_go_on(tmp_path):
    folder = tmp_path / "my run"
    text = summary_text(outcome(folder, status="stopped", final=None))
    assert "stopped after 470 steps" in text
    assert f"dpotrain run '{folder}/recipe.toml' --resume" in text
    assert "load it" not in text
    folder.mkdir()
    (folder / "status.json").write_text('{"launch": ["--processes", "all", "a; b"]}')
    text = summary_text(outcome(folder, status="stopped", final=None))
    assert f"dpotrain run '{folder}/recipe.toml' --processes all 'a; b' --resume" in text


def test_a_failed_run_says_the_error_and_where_the_log_is(tmp_path):
    failed = outcome(tmp_path, status="failed", final=None, error="the loss is nan\nlower the learning rate")
    lines = summary_text(failed).splitlines()
    at = lines.index("  error        the loss is nan")
    assert lines[at + 1] == "               lower the learning rate"
    assert f"  log          {tmp_path / 'run.log'}" in lines
    assert "--resume" not in "\n".join(lines)


def test_a_failed_run_with_a_checkpoint_says_how_to_go_on(tmp_path):
    ended = outcome(tmp_path, status="failed", final=None, error="out of memory", checkpoint_step=200)
    assert "--resume" in summary_text(ended)


def test_an_interrupted_run_says_where_it_resumes_and_what_is_lost(tmp_path):
    ended = outcome(tmp_path, status="interrupted", final=None, steps=428, checkpoint_step=405)
    text = summary_text(ended)
    assert "interrupted after 428 steps in 12m32s; resumes at step 405, 23 steps lost\n" in text
    assert "--resume" in text
    assert "error" not in text


def test_what_plugins_report_is_shown_as_lines_and_a_table(tmp_path):
    sections = {
        "demo": {
            "preferred_before": 0.515,
            "preferred_after": 0.96,
            "replies": 200,
            "exact": True,
            "style": "courteous",
            "table": {
                "columns": ["prompt", "before"],
                "rows": [
                    ["Hi [bold]", "word " * 30],
                    ["two\x1b[2J", 0.25],
                    ["short"],
                    ["a", "b", "c too many"],
                ],
            },
            "deeper": {"left": ["out"]},
        }
    }
    text = summary_text(outcome(tmp_path, sections=sections))
    assert "  preferred    0.515 before, 0.96 after\n" in text
    assert "  replies      200\n" in text
    assert "  exact        yes\n" in text
    assert "  style        courteous\n" in text
    assert "Hi [bold]" in text, "markup in data is text"
    assert "two\ufffd[2J" in text
    assert "left" not in text
    assert max(len(line) for line in text.splitlines() if "word" in line) < 80


def test_a_broken_table_of_a_plugin_does_not_break_the_summary(tmp_path):
    for table in (
        None,
        "text",
        {"columns": 3},
        {"columns": [], "rows": []},
        {"columns": ["a"], "rows": ["xy", 7]},
    ):
        assert "finished" in summary_text(outcome(tmp_path, sections={"x": {"table": table}}))


def test_on_a_narrow_terminal_paths_and_code_stay_whole(tmp_path):
    stream = io.StringIO()
    console = Console(file=stream, width=40, force_terminal=True, color_system=None, legacy_windows=False)
    folder = tmp_path / ("deep" * 20)
    console.print(summary(outcome(folder, first_evaluation=FIRST.metrics)), crop=False)
    assert str(folder / "final") in stream.getvalue()


def plan_of(predicted: float, measured: float) -> dict[str, float]:
    return {
        "peak_memory_mb_predicted": predicted,
        "peak_memory_mb_measured": measured,
        "tokens_per_second_measured": 20.0,
    }


@pytest.mark.parametrize("measured", [1900.0, 1000.0])
def test_memory_far_from_the_prediction_is_a_line(measured, tmp_path):
    lines = summary_text(outcome(tmp_path, plan=plan_of(1500.0, measured))).splitlines()
    (line,) = (line for line in lines if line.startswith("  plan "))
    shown = "1.9 GB" if measured > 1500 else "1000 MB" if measured < 1000 else "1.0 GB"
    assert f"memory predicted 1.5 GB, measured {shown}" in line


@pytest.mark.parametrize("plan", [{}, plan_of(1500.0, 1800.0), plan_of(1500.0, 1200.0)], ids=str)
def test_memory_that_was_about_right_is_none(plan, tmp_path):
    assert not [
        line for line in summary_text(outcome(tmp_path, plan=plan)).splitlines() if line.startswith("  plan ")
    ]
