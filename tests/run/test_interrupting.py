"""Ctrl-C is acknowledged and obeyed while the main thread computes; what a run is asked for is served between steps."""

import json

import pytest

from dpotrain.core.controls import Controls
from dpotrain.core.reporter import SilentReporter
from tests.run.recipes import project, records, run, weights
from tests.ui.terminals import OnTerminal


def summary(folder):
    return json.loads((folder / "run" / "summary.json").read_text())


def test_ctrl_c_during_a_long_computation_is_acknowledged_before_it_returns(forked, tmp_path):
    ended = forked.run(project(tmp_path), acts=[["interrupt_while_busy", 3, 1]])
    assert ended.code == 75
    said = ended.out.splitlines()
    acknowledged = next(index for index, line in enumerate(said) if "SIGINT: stopping after this" in line)
    assert acknowledged < next(index for index, line in enumerate(said) if line.startswith("step 3/"))
    assert summary(tmp_path)["status"] == "stopped"


def test_a_second_ctrl_c_ends_a_run_that_computes_for_minutes(forked, tmp_path):
    recipe = project(tmp_path)
    ended = forked.run(recipe, ["checkpoints.every=2"], acts=[["interrupt_while_busy", 3, 2]])
    assert ended.code == 130, ended
    assert "Ctrl-C again: stopping now" in ended.out
    assert "interrupted after" in ended.out
    assert (summary(tmp_path)["status"], summary(tmp_path)["checkpoint_step"]) == ("interrupted", 2)
    assert not summary(tmp_path)["error"]
    assert forked.run(recipe).code == 0


class Asking(SilentReporter):
    """Asks for something after a step, as a key of the live view does."""

    def __init__(self, step: int, ask) -> None:
        self.at, self.ask = step, ask
        self.saved, self.notes = [], []

    def controls(self, controls: Controls) -> None:
        self.given = controls

    def step(self, record) -> None:
        if record.step == self.at:
            self.ask(self.given)

    def checkpoint(self, record) -> None:
        self.saved.append(record.step)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    recipe = project(tmp_path_factory.mktemp("asked"))
    run(recipe)
    return recipe


def test_a_checkpoint_and_an_evaluation_are_made_when_asked_for_and_change_no_weight(recipe, tmp_path):
    asking = Asking(3, lambda controls: (controls.save(), controls.evaluate()))
    assert run(recipe, into=tmp_path / "run", reporter=asking).status == "finished"
    assert 3 in asking.saved
    assert 3 in [record["step"] for record in records(tmp_path / "run", "eval")]
    assert weights(tmp_path / "run" / "final") == weights(recipe.parent / "run" / "final")


def test_a_run_is_stopped_when_asked_to_and_says_who_asked(recipe, tmp_path):
    asking = Asking(3, lambda controls: controls.stop("the key q"))
    assert run(recipe, into=tmp_path / "run", reporter=asking).status == "stopped"
    assert asking.saved[-1] == 3
    assert "the key q: saving the state of step 3" in asking.notes


def test_without_held_out_pairs_there_is_nothing_to_evaluate(recipe, tmp_path):
    asking = Asking(2, lambda controls: controls.evaluate())
    run(recipe, "data.eval_fraction=false", "training.steps=3", into=tmp_path / "run", reporter=asking)
    assert "there are no held-out pairs to evaluate" in asking.notes


_RUN = "from dpotrain.cli import main; main(['run', *__import__('sys').argv[1:]], prog_name='dpotrain')"


def test_keys_save_evaluate_and_stop_a_run_on_a_terminal(tmp_path):
    recipe = project(tmp_path)
    with OnTerminal(_RUN, str(recipe), "--set", "training.epochs=5000", size=(100, 30)) as terminal:
        terminal.until("importing torch and transformers")
        terminal.until("step 1")
        terminal.press("s")
        while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
            terminal.read()
        terminal.press("e")
        while len(records(tmp_path / "run", "eval")) < 2:
            terminal.read()
        terminal.press("qy")
        assert terminal.end() == 75
        text = terminal.screen.text
        terminal.assert_given_back()
    for needed in (
        "y was pressed: saving the state of step",
        "a checkpoint was asked for",
        "an evaluation was asked for",
        "stopped after",
        "--resume",
    ):
        assert needed in text
    assert summary(tmp_path)["status"] == "stopped"
