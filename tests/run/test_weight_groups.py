"""``[[optimizer.groups]]`` in a whole run: with a plugin's optimizer, on resuming, and before weights are loaded."""

import json
import types

import pytest
import torch

from dpotrain import hookimpl, load_recipe
from dpotrain.core.errors import RunError
from dpotrain.plugin.api import Optimizer
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.document import dump_recipe
from dpotrain.run.recipe_warnings import recipe_warnings
from tests.run.recipes import Recording, project, records, run
from tests.support import dpotrain

GROUPS = 'optimizer.groups=[{match="*q_proj*", lr=3e-4}, {match="*norm*", lr=1e-5}]'


class Momentum(Optimizer):
    """As a plugin has it, which knows nothing of groups."""

    name = "momentum"

    def build(self, weights):
        return torch.optim.SGD(weights.values(), lr=self.options.lr, momentum=0.9)


@pytest.fixture(scope="module")
def plugins():
    return PluginManager.from_entry_points(
        extra=[types.SimpleNamespace(dpotrain_optimizers=hookimpl(lambda: [Momentum]))]
    )


def rates(folder, step: int) -> list[float]:
    """Return the learning rates of the parameter groups in a checkpoint."""
    text = (folder / "checkpoints" / f"step-{step:08d}" / "state.json").read_text(encoding="utf-8")
    groups = dict(json.loads(text)["optimizer"]["items"])["param_groups"]
    return [dict(group["items"])["lr"] for group in groups]


def test_a_plugin_s_optimizer_has_them_with_no_line_of_its_own(plugins, tmp_path):
    recipe, seen = project(tmp_path), Recording()
    common = ("optimizer.use=momentum", "optimizer.lr=1e-3", "schedule.use=constant", GROUPS)
    common += ("schedule.warmup_fraction=0", "training.steps=4", "checkpoints.every=2")
    outcome = run(recipe, *common, plugins=plugins, reporter=seen)
    assert rates(outcome.folder, 4) == [1e-3, 3e-4, 1e-5]
    # What records call the learning rate is that of [optimizer].
    assert {record["learning_rate"] for record in records(outcome.folder)} == {1e-3}
    assert [note for note in seen.notes if "optimizer.groups" in note] == [
        'optimizer.groups.0: 2 of 21 weights match "*q_proj*": lr = 0.0003',
        'optimizer.groups.1: 5 of 21 weights match "*norm*": lr = 1e-05',
    ]

    other = tmp_path / "other"
    run(recipe, *common, "training.steps=2", into=other, plugins=plugins)
    run(recipe, *common, into=other, plugins=plugins, resume=True)
    for name in ("trained", "optimizer"):
        file = f"checkpoints/step-00000004/{name}.safetensors"
        assert (other / file).read_bytes() == (outcome.folder / file).read_bytes()

    changed = GROUPS.replace("3e-4", "4e-4")
    with pytest.raises(RunError, match=r"optimizer\.groups: .*0\.0003.* then, .*0\.0004.* now"):
        run(recipe, *common, changed, "training.steps=6", into=other, plugins=plugins, resume=True)


@pytest.mark.parametrize("command", ["check", pytest.param("plan", marks=pytest.mark.soak)])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_a_pattern_without_a_weight_is_found_before_weights_are_loaded(
    command, adapter, monkeypatch, tmp_path
):
    recipe = project(tmp_path, adapter=adapter)
    monkeypatch.delattr("dpotrain_plugins.transformers_loader.TransformersLoader.load_model")
    seen = dpotrain(command, str(recipe), "--set", 'optimizer.groups=[{match="q_proj", lr=1e-5}]')
    assert seen.exit_code == 2
    assert 'optimizer.groups.0: match = "q_proj" matches none of the ' in seen.output
    layer = "base_model.model.model.layers.*.self_attn.q_proj.lora_A.default.weight"
    assert (layer if adapter else "model.layers.*.self_attn.q_proj.weight") in seen.output.split()
    assert (
        dpotrain(command, str(recipe), "--set", 'optimizer.groups=[{match="*q_proj*", lr=1e-5}]').exit_code
        == 0
    )


def test_a_group_that_says_nothing_is_refused(tmp_path):
    seen = dpotrain("check", str(project(tmp_path)), "--set", 'optimizer.groups=[{match="*"}]')
    assert seen.exit_code == 2
    assert "[optimizer] groups.0: give lr, weight_decay or both" in seen.output


def test_a_rate_far_from_the_usual_is_named_by_its_group(tmp_path):
    recipe = project(tmp_path)
    groups = 'optimizer.groups=[{match="*norm*", lr=1e-3}, {match="*", lr=5}]'
    (warning,) = recipe_warnings(load_recipe(recipe, [groups]), 21)
    assert warning.startswith("optimizer.groups.1.lr = 5 is far above what is usual for adamw")
    (warning,) = recipe_warnings(load_recipe(recipe, ["optimizer.use=lion", "optimizer.lr=1e-2"]), 21)
    assert warning.endswith("what is usual for lion where all weights are trained: 1e-09 to 3e-05")
    original = ["optimizer.use=muon", "optimizer.adjust_lr=original", "optimizer.lr=5e-3"]
    assert recipe_warnings(load_recipe(recipe, original), 21) == []


def test_the_recipe_of_a_run_folder_has_them(tmp_path):
    (tmp_path / "again.toml").write_text(
        dump_recipe(load_recipe(project(tmp_path), [GROUPS])), encoding="utf-8"
    )
    groups = load_recipe(tmp_path / "again.toml").optimizer.options.groups
    assert [(group.match, group.lr, group.weight_decay) for group in groups] == [
        ("*q_proj*", 3e-4, None),
        ("*norm*", 1e-5, None),
    ]
