"""``dpotrain show``: a run on a terminal, from its folder."""

import json

import pytest

from dpotrain.report.past_run import read_run
from dpotrain.report.run_json import run_as_json
from dpotrain.ui.run_view import print_run
from tests.report.past_runs import HOSTILE, past_run
from tests.ui.terminal_text import on_terminal


def shown(folder, width):
    text = on_terminal(lambda console: print_run(read_run(folder), console), width)
    return text.replace(str(folder), "/runs/made-up")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return past_run(tmp_path_factory.mktemp("runs") / "made-up")


@pytest.mark.parametrize("width", [120, 80, 60, None])
def test_it_is_what_a_person_reads(folder, width, snapshot):
    snapshot(f"show_{width or 'file'}.txt", shown(folder, width))


@pytest.mark.parametrize("width", [80, 60])
def test_only_charts_code_and_paths_decide_nothing_of_the_width(folder, width):
    """Commands and code stay whole, so that they can be copied; all else fits."""
    whole = ("model = ", "  talk to it", "  as a page")
    lines = [line for line in shown(folder, width).splitlines() if not line.startswith(whole)]
    assert max(map(len, lines)) <= width


def test_control_characters_of_data_reach_no_terminal(folder):
    text = shown(folder, 100)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert HOSTILE[1] in text, "markup is text"


def test_a_killed_run_says_how_to_go_on(tmp_path):
    text = shown(past_run(tmp_path / "run", summary=False), 100)
    assert text.startswith("run  killed after 200 steps\n")
    assert "dpotrain run /runs/made-up/recipe.toml --resume" in text
    assert "load it" not in text
    several = past_run(tmp_path / "several", summary=False)
    (several / "status.json").write_text(json.dumps({"state": "running", "launch": ["--processes", "2"]}))
    assert "dpotrain run /runs/made-up/recipe.toml --processes 2 --resume" in shown(several, 100)


def test_a_run_that_has_just_begun_is_shown(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "step": 0}))
    text = shown(tmp_path, 80)
    assert "killed after 0 steps" in text
    assert "no evaluation" in text


def test_what_cannot_be_read_is_said(tmp_path):
    folder = past_run(tmp_path / "run")
    (folder / "summary.json").write_text("[")
    assert "summary.json is damaged: skipped" in shown(folder, 100)


def test_texts_of_callbacks_are_counted_with_their_file(tmp_path):
    folder = past_run(tmp_path / "run")
    assert "texts" not in shown(folder, 100)
    lines = [{"name": name, "step": 0, "rows": [{"answer": "a"}]} for name in ("judged", "seen", "judged")]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "texts.jsonl").write_text(text + "{}\n" + '{"name": "ju')
    assert "  texts      judged (2 tables), seen (1 table), in texts.jsonl\n" in shown(folder, 100)
    assert run_as_json(read_run(folder))["texts"] == {"judged": 2, "seen": 1}
    assert "texts.jsonl: damaged line skipped: 4" in read_run(folder).problems
