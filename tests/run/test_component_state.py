"""A component keeps what it has seen over a resume, and a run knows which packages it was begun with."""

import json

import pytest
import torch
from pydantic import Field, SecretStr

from dpotrain import load_recipe
from dpotrain.core.errors import PluginError, RunError
from dpotrain.plugin.api import Logger, Loss
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.checkpoint import versions
from tests.plugin.fakes import Offers
from tests.run.recipes import Recording, project, run


class MovingMargin(Loss):
    """DPO with a margin that follows the mean log-ratio: its mathematics depends on what it has seen."""

    name = "moving-margin"

    def __init__(self, options):
        super().__init__(options)
        self.mean = torch.zeros(())
        self.calls = 0

    def __call__(self, scores):
        ratio = scores.chosen_logratio - scores.rejected_logratio
        if torch.is_grad_enabled():
            self.mean = 0.9 * self.mean + 0.1 * ratio.detach().mean()
            self.calls += 1
        return torch.nn.functional.softplus(self.options.beta * (self.mean - ratio))

    def state_dict(self):
        return {"mean": self.mean, "calls": self.calls, "shape": (1, "two")}

    def load_state_dict(self, state):
        assert state["shape"] == [1, "two"]
        self.mean, self.calls = state["mean"], state["calls"]


class Total(Logger):
    """Writes the number of records of the whole run, over all attempts."""

    name = "total"

    def __init__(self, options):
        super().__init__(options)
        self.records = 0

    def start(self, run):
        self.folder = run.folder

    def log(self, record):
        self.records += record.kind == "train"

    def finish(self, outcome):
        (self.folder / "total.txt").write_text(str(self.records))

    def state_dict(self):
        return {"records": self.records}

    def load_state_dict(self, state):
        self.records = state["records"]


PLUGINS = PluginManager.from_entry_points(extra=[Offers("moving", MovingMargin, Total)])
OVERRIDES = ["loss.use=moving-margin", "checkpoints.every=3"]


def prepared(tmp_path):
    recipe = project(tmp_path)
    recipe.write_text(recipe.read_text() + '\n[[loggers]]\nuse = "total"\n')
    return recipe


def test_state_that_the_steps_depend_on_survives_a_stop(tmp_path):
    """The resumed run is the uninterrupted one only if the margin went on from where it was."""
    recipe = prepared(tmp_path)
    runs = {}
    for name, stops in (("whole", ()), ("stopped", (4,))):
        overrides = [*OVERRIDES, f"run.output_dir={str(tmp_path / name)!r}"]
        outcome = run(recipe, *overrides, plugins=PLUGINS, reporter=Recording(*stops))
        if stops:
            assert outcome.status == "stopped"
            outcome = run(recipe, *overrides, plugins=PLUGINS, resume=True)
        assert outcome.status == "finished"
        newest, _ = checkpoints.newest(tmp_path / name / "checkpoints")
        runs[name] = checkpoints.load(newest)
    whole, stopped = runs["whole"], runs["stopped"]
    assert all(torch.equal(stopped.trained[key], tensor) for key, tensor in whole.trained.items())
    assert stopped.components.keys() == {'loss "moving-margin"', 'logger "total"'}
    assert stopped.components['loss "moving-margin"']["calls"] > whole.step - 1
    total = (tmp_path / "whole" / "total.txt").read_text()
    assert total == (tmp_path / "stopped" / "total.txt").read_text() == str(whole.step)


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        (lambda self: 1 / 0, r'loss "moving-margin" of .* raised in state_dict: ZeroDivisionError'),
        (
            lambda self: [1],
            r"state_dict returned a list, \[1\]; it must return a mapping from texts to tensors",
        ),
        (
            lambda self: {"odd": object()},
            r"state_dict returned a mapping that holds an object; it must return",
        ),
        (
            lambda self: {"seen": ["with", f"Bearer {self.options.token.get_secret_value()}"]},
            r"state_dict returned a mapping that holds a secret of the recipe, which no file of a run may have",
        ),
    ],
    ids=["raises", "no mapping", "no data", "a secret"],
)
def test_a_state_that_cannot_be_kept_names_its_component(tmp_path, state_dict, message):
    class Broken(MovingMargin):
        class Options(MovingMargin.Options):
            token: SecretStr = Field(description="A secret.")

    Broken.state_dict = state_dict

    recipe = project(tmp_path)
    plugins = PluginManager.from_entry_points(extra=[Offers("moving", Broken)])
    with pytest.raises(PluginError, match=message):
        run(recipe, *OVERRIDES, 'loss.token="k-4711-made-for-this-test"', plugins=plugins)


def test_a_state_that_nobody_owns_any_more_is_told_of(tmp_path):
    recipe = prepared(tmp_path)
    run(recipe, *OVERRIDES, plugins=PLUGINS, reporter=Recording(stop_at=4))
    reporter = Recording()
    run(recipe, *OVERRIDES, "loggers=[]", plugins=PLUGINS, resume=True, reporter=reporter)
    assert 'the checkpoint holds a state of logger "total", which this recipe does not use' in reporter.notes


def test_a_loss_of_the_same_name_from_another_package_is_refused(tmp_path):
    recipe = project(tmp_path)
    run(recipe, reporter=Recording(stop_at=4))
    (path,) = checkpoints.complete(tmp_path / "run" / "checkpoints")
    edit(path, lambda state: state["versions"]["components"]['loss "dpo"'].__setitem__(0, "dpotrain-other"))
    with pytest.raises(RunError) as caught:
        run(recipe, resume=True)
    assert 'loss "dpo": of dpotrain-other then, of dpotrain now' in str(caught.value)
    assert "run.output_dir" in str(caught.value)


def test_another_version_is_told_of_and_the_run_goes_on(tmp_path):
    recipe = project(tmp_path)
    run(recipe, reporter=Recording(stop_at=4))
    (path,) = checkpoints.complete(tmp_path / "run" / "checkpoints")

    def older(state):
        state["versions"]["components"]['loss "dpo"'][1] = "0.0.1"
        state["versions"]["packages"]["torch"] = "1.0"

    edit(path, older)
    reporter = Recording()
    outcome = run(recipe, resume=True, reporter=reporter)
    assert outcome.status == "finished"
    now = versions.package_versions(load_recipe(recipe))
    version = now["components"]['loss "dpo"'][1]
    assert f'loss "dpo": dpotrain 0.0.1 then, {version} now; its steps may be others' in reporter.notes
    torch_line = f"torch 1.0 then, {now['packages']['torch']} now: numbers may differ in their last digits"
    assert torch_line in reporter.notes


def edit(path, change):
    """Change a checkpoint's state, and its manifest with it."""
    file = path / "state.json"
    state = json.loads(file.read_text())
    change(state)
    file.write_text(json.dumps(state))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["state.json"] = checkpoints._described(file)
    (path / "manifest.json").write_text(json.dumps(manifest))
