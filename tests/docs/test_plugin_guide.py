"""The plugin author's guide works as it stands: its files are built, installed, listed, tested and run."""

import importlib.util
import json
import math
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dpotrain.plugin.api import KINDS, DataError, Logger, Loss, RecipeError
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.testing import (
    CommandConformance,
    dpotrain_data,
    dpotrain_model,
    dpotrain_run,
    example_pairs,
)
from dpotrain.testing.conformance.scores import random_scores
from tests.docs.blocks import blocks
from tests.docs.generated import ROOT
from tests.support import dpotrain

__all__ = ["dpotrain_data", "dpotrain_model", "dpotrain_run"]

GUIDE = ROOT / "plugins" / "README.md"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The folder that a reader has made."""
    folder = tmp_path_factory.mktemp("dpotrain-exponential")
    for block in blocks(GUIDE):
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def site(project, tmp_path_factory) -> Path:
    """What ``pip install`` makes of it, without a network: the wheel that its own backend builds, unpacked."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    code = f"import hatchling.build; hatchling.build.build_wheel({str(wheels)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_the_commands_of_the_guide(project, site, forked):
    commands = [shlex.split(command) for block in blocks(GUIDE, "console") for command in block.commands]
    assert [" ".join(words[:2]) for words in commands] == [
        "pip install", "dpotrain plugins", "dpotrain check", "dpotrain run", "python -m",
    ]  # fmt: skip
    for words in commands:
        if words[0] == "dpotrain":
            ended = forked.dpotrain(*words[1:], folder=project, path=[site])
            assert ended.code == 0, ended.output
        elif words[0] == "python":
            assert words[1:3] == ["-m", "pytest"]
            ended = forked.pytest(*words[3:], folder=project, path=[site])
            assert ended.code == 0, ended.output
            assert " passed" in ended.out

    summary = json.loads((project / "runs" / "first" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert (
        summary["last_evaluation"]["loss"]
        < summary["first_evaluation"]["loss"]
        == pytest.approx(1.0, abs=1e-5)
    )


def test_the_plugin_is_listed_with_its_distribution(project, site, forked):
    said = forked.dpotrain("plugins", "--json", "first.toml", folder=project, path=[site]).out
    (mine,) = (plugin for plugin in json.loads(said) if plugin["name"] == "exponential")
    assert mine["offers"] == {"loss": ["exponential"]}
    assert (mine["distribution"], mine["version"], mine["status"]) == (
        "dpotrain-exponential",
        "0.1.0",
        "active",
    )


def test_a_misspelt_option_is_answered_as_the_guide_promises(project, site, forked):
    words = ["check", "first.toml", "--set", "loss.bond=1"]
    ended = forked.dpotrain(*words, folder=project, path=[site])
    assert ended.code == 2
    assert 'has no option "bond"; did you mean "bound"?' in ended.err


def test_the_loss_is_about_thirty_lines(project):
    assert len((project / "dpotrain_exponential.py").read_text().splitlines()) <= 34


def example(project: Path, name: str) -> ModuleType:
    """Import an example of the guide."""
    spec = importlib.util.spec_from_file_location(name, project / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def recipe(project: Path, name: str) -> str:
    """Return the tables that the guide shows for an example."""
    return (project / f"{name}.toml").read_text(encoding="utf-8")


def test_the_example_of_run_events_is_a_plugin(project):
    manager = PluginManager.of(example(project, "example_events"))
    assert not manager.failed
    assert manager.names(Logger) == ["count"]
    assert manager.names(Loss) == []
    assert set(manager.plugins[0].events) == {"dpotrain_step_ended", "dpotrain_run_finished"}


def test_the_example_of_a_callback_logs_and_ends_the_run(project, dpotrain_run):
    module = example(project, "example_callback")
    run = dpotrain_run('[[callbacks]]\nuse = "loss-floor"\nloss = 0.69', plugins=[module])
    assert (run.outcome.status, run.outcome.steps) == ("finished", 2)
    for record in run.train:
        assert record["loss-floor/above"] == pytest.approx(record["loss"] - 0.69, abs=1e-6)
    assert "the loss is below 0.69" in run.output


def test_the_example_of_answers_logs_them_at_every_evaluation(project, dpotrain_run):
    tables = '[[callbacks]]\nuse = "answers"\npairs = 2\ntokens = 4\n[evaluation]\nevery = 2\n'
    run = dpotrain_run(tables, plugins=[example(project, "example_answers")])
    lines = (run.outcome.folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(line["name"], line["step"], len(line["rows"])) for line in map(json.loads, lines)] == [
        ("answers", step, 2) for step in (0, 2, 4)
    ]
    assert json.loads(lines[0])["rows"][0].keys() == {"prompt", "answer", "chosen"}


def test_the_example_of_a_kind_is_selected_by_a_recipe(project, dpotrain_run):
    run = dpotrain_run('[[judges]]\nuse = "longer"\nby = 1', plugins=[example(project, "example_kind")])
    judged = [record["judged/longer"] for record in run.evaluations]
    assert judged
    assert all(0 <= share <= 1 for share in judged)


def test_the_example_of_components_in_options_adds_losses(project, dpotrain_run):
    module, tables = example(project, "example_nested"), recipe(project, "example_nested")
    run = dpotrain_run(tables, plugins=[module], overrides=["training.steps=1"])
    dpo, ipo = math.log(2), (1 / (2 * 0.5)) ** 2  # before the first update all log-ratios are 0
    assert run.train[0]["loss"] == pytest.approx(dpo + 0.2 * ipo, abs=1e-5)
    with pytest.raises(RecipeError, match=r'loss.terms.1] weigth: .* did you mean "weight"'):
        dpotrain_run(tables.replace("weight =", "weigth ="), plugins=[module])


def test_the_example_of_a_column_reads_what_the_recipe_maps(project, dpotrain_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "rating_difference": 2.0} for row in example_pairs()]
    Path("scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = recipe(project, "example_columns")
    module = example(project, "example_columns")
    run = dpotrain_run(tables, plugins=[module], overrides=["training.steps=1"])
    assert run.train[0]["loss"] == pytest.approx(math.log1p(math.exp(0.5 * 2.0)), abs=1e-5)
    with pytest.raises(DataError, match='loss "gap-margin" needs the column "score_gap"'):
        dpotrain_run(re.sub("columns = .*", "", tables), plugins=[module], folder=tmp_path / "unmapped")


def test_the_example_of_a_coupled_loss_is_the_same_however_the_step_is_cut(project, dpotrain_run, tmp_path):
    module, table = example(project, "example_coupled"), '[loss]\nuse = "steady-dpo"\nmomentum = 0.5\n'
    whole = dpotrain_run(table, plugins=[module], folder=tmp_path / "whole")
    cut = dpotrain_run(
        table, plugins=[module], folder=tmp_path / "cut", overrides=["training.tokens_per_microbatch=64"]
    )
    assert whole.train[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for kind in ("train", "evaluations"):
        assert [record["loss"] for record in getattr(cut, kind)] == pytest.approx(
            [record["loss"] for record in getattr(whole, kind)], abs=1e-5
        )
    assert "over all pairs of a step: one forward more" in whole.output


def test_the_example_of_a_coupled_loss_keeps_what_a_step_found(project):
    loss = example(project, "example_coupled").SteadyDpo
    made = loss(loss.Options(beta=1.0, momentum=0.5))
    scores = random_scores(made, 16)
    margins = (scores.chosen_logratio - scores.rejected_logratio).detach()
    spread = 0.5 + 0.5 * margins.std(correction=0)
    torch.testing.assert_close(made(scores).detach(), torch.nn.functional.softplus(-margins / spread))
    assert made.state_dict() == {"spread": 1.0}  # the step may be skipped
    with torch.no_grad():
        policy = {name: getattr(scores, name).detach() for name in ("policy_chosen", "policy_rejected")}
        evaluated = made(replace(scores, **policy))
    torch.testing.assert_close(evaluated, torch.nn.functional.softplus(-margins))
    made.dpotrain_step_ended()
    assert made.state_dict() == {"spread": pytest.approx(spread.item(), rel=1e-6)}


def test_the_example_of_a_loss_that_follows_the_run_reaches_its_last_beta(project):
    loss = example(project, "example_step").RisingBeta
    made = loss(loss.Options(first=0.1, beta=0.5))
    scores = replace(random_scores(made, 1), total_steps=5)
    apart = scores.chosen_logratio - scores.rejected_logratio
    for step, beta in {0: 0.1, 1: 0.1, 3: 0.3, 5: 0.5}.items():
        expected = torch.nn.functional.softplus(-beta * apart)
        torch.testing.assert_close(made(replace(scores, step=step)), expected)


@pytest.fixture
def folder(project, tmp_path, monkeypatch) -> Path:
    """A folder on ``sys.path`` with the example of a command as a distribution, and its suite."""
    declared = tomllib.loads((project / "example_command.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "dpotrain_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dpotrain-losses\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in declared["dpotrain.commands"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[dpotrain.commands]", *lines, ""]))
    for name in ("example_command.py", "example_suite.py"):
        (tmp_path / name).write_text((project / name).read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_example_of_a_command_is_listed_and_runs(folder):
    assert "Print the losses of a run (dpotrain-losses 1.0)." in dpotrain("--help").output
    lines = ['{"kind": "eval", "step": 0, "loss": 0.25}', '{"kind": "train", "step": 3, "loss": 0.5}', "{"]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    assert dpotrain("losses", str(folder)).output == "     3 0.5000\n"
    assert dpotrain("losses", "--of", "eval", str(folder)).output == "     0 0.2500\n"
    refused = dpotrain("losses", str(folder / "none"))
    assert (refused.exit_code, "is no run folder" in refused.stderr) == (2, True)


def test_the_suite_of_the_example_of_a_command_passes(folder, forked):
    said = forked.pytest("example_suite.py", folder=folder).out
    assert f"{sum(name.startswith('test_') for name in vars(CommandConformance))} passed" in said


def test_every_block_of_the_guide_is_a_file():
    written = GUIDE.read_text(encoding="utf-8")
    marked = sum(block.mark.startswith("file: ") for block in blocks(GUIDE))
    assert written.count("\n```toml") + written.count("\n```python") == marked


def test_the_contents_are_the_headings():
    text = GUIDE.read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(.*)\]\(#", text.partition("\n## ")[0], re.MULTILINE)
    assert listed == re.findall(r"^## (.*)$", text, re.MULTILINE)


def test_the_guide_begins_with_every_kind_and_has_a_task_for_each():
    text = GUIDE.read_text(encoding="utf-8")
    introduction, _, tasks = text.partition("## What do you want to do?")
    for kind in KINDS:
        words = kind.component.kind
        assert re.search(rf"\b{words}(s|es)\b", " ".join(introduction.split())), words
        assert f"[{kind.component.__name__}](reference.md#{kind.component.__name__.lower()})" in tasks, words
