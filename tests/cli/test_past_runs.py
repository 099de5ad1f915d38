"""``dpotrain show``, ``list``, ``compare`` and ``report`` on the command line."""

import json
import os
import time

import pytest

from tests.cli.test_main import HEAVY, imported_by
from tests.report.past_runs import past_run
from tests.run.recipes import project, run
from tests.support import dpotrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("past") / "runs"
    past_run(folder / "one")
    past_run(folder / "two", seed=3, skill=0.3, recipe={"loss": {"beta": 0.3}})
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The folder of a run that really ran."""
    recipe = project(tmp_path_factory.mktemp("real"), adapter=True)
    run(recipe, "training.steps=4", "evaluation.every=2", "checkpoints.every=2")
    return recipe.parent / "run"


def given(*words: str, code: int = 0) -> str:
    result = dpotrain(*words)
    assert result.exit_code == code, result.output
    return result.output


def test_a_real_run_is_shown_listed_compared_and_reported(real, tmp_path):
    assert "finished after 4 steps" in given("show", str(real))
    assert " run " in given("list", str(real.parent))
    shown = json.loads(given("show", str(real), "--json"))
    assert [record["step"] for record in shown["evaluations"]] == [0, 2, 4]
    assert len(shown["train"]) == 4
    assert shown["problems"] == []
    assert shown["checkpoints"] == [2, 4]
    assert "none: the recipes are the same" in given("compare", str(real), str(real))
    page = tmp_path / "page.html"
    assert given("report", str(real), "--output", str(page)).strip() == str(page)
    assert page.read_text().startswith("<!doctype html>")


def test_nothing_of_a_run_folder_is_changed(folder):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}

    before = state()
    for words in (
        ("show", str(folder / "one")),
        ("list", str(folder)),
        ("compare", str(folder / "one"), str(folder / "two")),
    ):
        given(*words)
    assert state() == before


def test_a_report_of_one_run_is_in_its_folder_and_one_of_several_where_one_is(tmp_path, monkeypatch):
    one, two = past_run(tmp_path / "one"), past_run(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    assert given("report", str(one)).strip() == str(one / "report.html")
    assert given("report", str(one), str(two)).strip() == "report.html"
    assert "2 runs compared" in (tmp_path / "report.html").read_text()


def test_json_is_json_with_its_numbers_finite(folder):
    def refuse(text):
        raise AssertionError(text)

    one, two = str(folder / "one"), str(folder / "two")
    for words in (("show", one), ("list", str(folder)), ("compare", one, two)):
        json.loads(given(*words, "--json"), parse_constant=refuse)


def test_the_wrong_thing_is_refused_with_what_to_name(folder, tmp_path):
    assert "it is no run folder" in given("show", str(tmp_path), code=2)
    assert "it is no run folder" in given("report", str(tmp_path), code=2)
    assert "is not a folder" in given("list", str(tmp_path / "absent"), code=2)
    assert "name two run folders or more" in given("compare", str(folder / "one"), code=2)
    assert "holds no run" in given("list", str(tmp_path))


def test_a_page_that_cannot_be_written_is_an_error_with_its_name(folder, tmp_path):
    (tmp_path / "file").write_text("")
    output = given("report", str(folder / "one"), "--output", str(tmp_path / "file" / "page.html"), code=1)
    assert str(tmp_path / "file" / "page.html") in output


def test_charts_are_written_as_pictures(folder, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    given(
        "report",
        str(folder / "one"),
        str(folder / "two"),
        "-o",
        str(tmp_path / "x.html"),
        "--png",
        str(tmp_path / "p"),
    )
    names = {path.stem for path in (tmp_path / "p").iterdir()}
    assert {"loss", "accuracy", "margin", "grad-norm", "learning-rate"} <= names
    with Image.open(tmp_path / "p" / "accuracy.png") as picture:
        assert picture.size == (1260, 840)
        assert len(picture.convert("RGB").getcolors(2**24)) > 20, "something is drawn"


def test_without_matplotlib_the_remedy_is_said(folder, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    output = given(
        "report", str(folder / "one"), "-o", str(tmp_path / "x.html"), "--png", str(tmp_path), code=2
    )
    assert 'pip install "dpotrain[report]"' in output


def test_a_run_that_runs_is_shown_as_running(tmp_path):
    import socket

    folder = past_run(tmp_path / "run", summary=False)
    (folder / ".owner.json").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    status = {
        "state": "running",
        "step": 207,
        "total_steps": 400,
        "began": time.time() - 60,
        "updated": time.time(),
    }
    (folder / "status.json").write_text(json.dumps(status))
    shown = given("show", str(folder))
    assert "running at step 207 of 400" in shown
    assert f"dpotrain watch {folder}" in shown
    (listed,) = json.loads(given("list", str(tmp_path), "--json"))
    assert (listed["state"], listed["step"], listed["total_steps"]) == ("running", 207, 400)
    assert listed["seconds"] >= 60


@pytest.mark.parametrize(
    "words", [("show", "one"), ("list", ""), ("compare", "one", "two"), ("report", "one", "-o", "page.html")]
)
def test_no_command_imports_what_trains(words, folder):
    command, *places = words
    arguments = [str(folder / place) if not place.startswith("-") else place for place in places]
    assert set(HEAVY).isdisjoint(imported_by(command, *arguments))
