"""Exporters run once a run has finished, each isolated from the run and from the others."""

import json
import shutil
import weakref
from pathlib import Path

import pytest

from dpotrain import hookimpl
from dpotrain.core.errors import RecipeError, RunError
from dpotrain.plugin.api import Exporter
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.run.folder.lock import RunLock
from tests.plugin.fakes import Offers
from tests.run.recipes import Recording, project, run

HEARD: list[str] = []


class Copies(Exporter):
    """Copies the result, and notes whether the policy was still in memory."""

    name = "copies"
    needs_adapter = True

    @hookimpl
    def dpotrain_run_finished(self, run):
        self.policy = weakref.ref(run.policy)

    def export(self, run):
        model = "no model" if self.policy() is None else "a model"
        HEARD.append(f"copies, {model}, {run.outcome.status} after {run.outcome.steps}")
        return shutil.copytree(run.final, run.folder / "copy", dirs_exist_ok=True)


class Fails(Exporter):
    """Fails unless a file says otherwise."""

    name = "fails"

    def export(self, run):
        HEARD.append("fails")
        if not (run.folder / "mended").exists():
            raise ConnectionError("nobody answers")
        return "somewhere"


def exported(path: Path, *exporters: str, more: tuple[str, ...] = (), **how):
    tables = ", ".join(f'{{use = "{name}"}}' for name in exporters)
    plugins = PluginManager.from_entry_points(extra=[Offers("mine", Copies, Fails)])
    return run(path, f"exporters=[{tables}]", *more, plugins=plugins, **how)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The folder of a run whose first exporter failed, and what was said."""
    HEARD.clear()
    path = project(tmp_path_factory.mktemp("exporting"), adapter=True)
    said = Recording()
    with pytest.raises(RunError) as caught:
        exported(path, "fails", "copies", reporter=said)
    return path, said, str(caught.value), list(HEARD)


def test_they_run_in_order_after_the_policy_has_left_memory(failed):
    _, _, _, heard = failed
    assert heard == ["fails", "copies, no model, finished after 10"]


def test_one_that_fails_takes_nothing_away_and_the_error_says_how_to_run_it_again(failed):
    path, said, text, _ = failed
    run = path.parent / "run"
    lines = text.splitlines()
    assert lines[0].startswith(
        'exporter "fails" of plugin "mine" raised in export: ConnectionError: nobody answers ('
    )
    assert lines[1:] == [
        f"The run itself is finished, and its result in {run / 'final'} is whole. To run what failed again:",
        f"dpotrain run {run / 'recipe.toml'} --resume",
    ]
    assert said.outcome.status == json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert f"copies: {run / 'copy'}" in said.notes
    assert (run / "final" / "adapter_config.json").read_bytes() == (
        run / "copy" / "adapter_config.json"
    ).read_bytes()


def test_resuming_runs_what_failed_and_nothing_else(failed, tmp_path):
    path, _, _, _ = failed
    shutil.copytree(path.parent / "run", tmp_path / "run")
    place = (f"run.output_dir={str(tmp_path / 'run')!r}",)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    HEARD.clear()
    with pytest.raises(RunError, match="nobody answers"):
        exported(path, "fails", "copies", more=place, resume=True)
    (tmp_path / "run" / "mended").touch()
    outcome = exported(path, "fails", "copies", more=place, resume=True)
    assert outcome.status == "finished"
    exported(path, "fails", "copies", more=place, resume=True)
    assert HEARD == ["fails", "fails"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    done = json.loads((tmp_path / "run" / "exports.json").read_text())
    assert [(entry["exporter"]["use"], entry["result"]) for entry in done] == [
        ("copies", str(path.parent / "run" / "copy")),
        ("fails", "somewhere"),
    ]
    assert not list((tmp_path / "run").glob(".*"))


def test_a_finished_run_is_exported_by_one_process_at_a_time(failed):
    path, _, _, _ = failed
    with RunLock(path.parent / "run"), pytest.raises(RunError, match="is in use"):
        exported(path, "fails", resume=True)


def test_a_run_that_is_given_more_steps_is_exported_anew(tmp_path):
    path = project(tmp_path, adapter=True)
    HEARD.clear()
    for steps in (1, 2):
        exported(path, "copies", more=(f"training.steps={steps}",), resume=True)
    assert [f"copies, no model, finished after {steps}" for steps in (1, 2)] == HEARD


def test_a_run_that_has_not_finished_is_not_exported(tmp_path):
    HEARD.clear()
    path = project(tmp_path, adapter=True)
    assert exported(path, "copies", more=("run.max_minutes=1e-9",)).status == "stopped"
    assert HEARD == []


def test_an_exporter_of_adapters_is_refused_where_all_weights_are_trained(tmp_path):
    with pytest.raises(RecipeError) as caught:
        exported(project(tmp_path), "fails", "copies")
    assert str(caught.value) == (
        "--set: 1 error\n  [exporters.1]: copies needs an [adapter], and without one final/ is a whole model; leave "
        "it out"
    )
