"""A component that fails in any phase is named with its distribution and the phase, and ends in exit code 1."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dpotrain.cli import main
from tests.plugin.fakes import install
from tests.run.recipes import RECIPE, write_pairs
from tests.support import tiny_checkpoint

BASES = {
    "model loader": ("dpotrain_model_loaders", "dpotrain_plugins.transformers_loader", "TransformersLoader"),
    "dataset formatter": (
        "dpotrain_dataset_formatters",
        "dpotrain_plugins.formatters.standard",
        "StandardFormatter",
    ),
    "loss": ("dpotrain_losses", "dpotrain_plugins.losses", "Dpo"),
    "optimizer": ("dpotrain_optimizers", "dpotrain_plugins.optimizers", "AdamW"),
    "schedule": ("dpotrain_schedules", "dpotrain_plugins.schedules", "Linear"),
    "metric": ("dpotrain_metrics", "dpotrain_plugins.metrics.length", "Length"),
    "logger": ("dpotrain_loggers", "tests.plugin.fakes", "FakeLogger"),
    "exporter": ("dpotrain_exporters", "tests.plugin.fakes", "FakeExporter"),
}

#: What each kind replaces of the recipe.
USES = {
    "model loader": ["model.use=faulty", "model.name={folder}/model", "model.dtype=float32"],
    "dataset formatter": ["data.format=faulty"],
    "loss": ["loss.use=faulty"],
    "optimizer": ["optimizer.use=faulty"],
    "schedule": ["schedule.use=faulty"],
    "metric": ['metrics=[{use="faulty"}]'],
    "logger": ['loggers=[{use="faulty"}]'],
    "exporter": ['exporters=[{use="faulty"}]'],
}

MODULE = """
from pydantic import field_validator

from dpotrain import hookimpl
from {module} import {base}


class Broken(Exception):
    pass


class Faulty({base}):
    name = "faulty"

{method}
        raise Broken("no way\\nand much more of it")


@hookimpl
def {hook}():
    return [Faulty]
"""

#: Kind, phase, and how the method begins that raises. The methods of every kind are in tests/plugin/faults.py.
PHASES = [
    ("model loader", "__init__", "def __init__(self, options):"),
    ("model loader", "check", "def check(self):"),
    ("dataset formatter", "format", "def format(self, row):"),
    ("dataset formatter", "recognises", "def recognises(self, row):"),
    ("optimizer", "__init__", "def __init__(self, options):"),
    ("optimizer", "check", "def check(self):"),
    ("schedule", "__init__", "def __init__(self, options):"),
    ("schedule", "check", "def check(self):"),
    ("metric", "__init__", "def __init__(self, options):"),
    ("metric", "check", "def check(self):"),
    ("logger", "check", "def check(self):"),
    ("exporter", "__init__", "def __init__(self, options):"),
    ("exporter", "check", "def check(self):"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    tiny_checkpoint(folder / "model")
    write_pairs(folder / "pairs.jsonl", count=10)
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder).replace("epochs = 2", "steps = 1"))
    return folder / "recipe.toml"


def faulty(site: Path, kind: str, begins: str, base: str | None = None) -> None:
    """Install a distribution whose component is a built-in one, but for the method that ``begins`` so."""
    hook, module, built_in = BASES[kind]
    source = MODULE.format(hook=hook, module=module, base=base or built_in, method=f"    {begins}")
    install(site, "dpotrain-faulty", "2.0", faulty=source)


def invoke(command: str, recipe: Path, folder: Path, *overrides: str, flags: tuple[str, ...] = ()):
    given = [each.replace("{folder}", str(recipe.parent)) for each in overrides]
    settings = [f"run.output_dir={json.dumps(str(folder))}", *given]
    return CliRunner().invoke(
        main, [command, str(recipe), *flags, *(part for each in settings for part in ("--set", each))]
    )


#: One phase of each kind is tried in the quick tests: the last that it has.
QUICK = {kind: phase for kind, phase, _ in PHASES}


@pytest.mark.parametrize(
    ("kind", "phase", "begins"),
    [pytest.param(*each, marks=[pytest.mark.soak] * (QUICK[each[0]] != each[1])) for each in PHASES],
    ids=[f"{kind}-{phase}" for kind, phase, _ in PHASES],
)
def test_who_failed_and_in_which_phase(site, project, tmp_path, kind, phase, begins):
    faulty(site, kind, begins)
    overrides = [] if phase == "recognises" else USES[kind]
    if phase == "recognises":
        overrides = ["data.format=auto"]
    result = invoke("run", project, tmp_path / "run", *overrides)
    assert result.exit_code == 1, result.output
    said = f'{kind} "faulty" of plugin "faulty" (dpotrain-faulty 2.0) raised in {phase}: Broken: no way … ('
    (line,) = [line for line in result.stderr.splitlines() if "raised in" in line]
    assert said in line
    assert line.endswith(f"{site / 'dpotrain_faulty_faulty.py'}:16)")
    assert "Traceback" not in result.output
    if (tmp_path / "run" / "summary.json").exists():
        assert said in json.loads((tmp_path / "run" / "summary.json").read_text())["error"]
    if kind == "dataset formatter":
        assert "It was given row 0." in result.stderr


def test_options_that_raise_are_named_too(site, project, tmp_path):
    """A validator raises ValueError for a wrong value; anything else is a fault of its own."""
    options = """class Options(Dpo.Options):
        @field_validator("beta")
        def look(cls, value):
            raise Broken("no way")

    def check(self):"""
    faulty(site, "loss", options)
    result = invoke("run", project, tmp_path / "run", "loss.use=faulty")
    assert result.exit_code == 1
    assert (
        'loss "faulty" of plugin "faulty" (dpotrain-faulty 2.0) raised in Options: Broken: no way'
        in result.stderr
    )


@pytest.mark.parametrize("command", ["check", "plan"])
def test_the_other_commands_name_it_as_well(site, project, tmp_path, command):
    faulty(site, "model loader", "def load_tokenizer(self):")
    result = invoke(command, project, tmp_path / "run", *USES["model loader"])
    assert result.exit_code == 1
    assert 'plugin "faulty" (dpotrain-faulty 2.0) raised in load_tokenizer: Broken: no way' in result.stderr


def test_debug_shows_the_traceback(site, project, tmp_path):
    faulty(site, "loss", "def __call__(self, scores):")
    result = invoke("run", project, tmp_path / "run", "loss.use=faulty", flags=("--debug",))
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "and much more of it" in result.stderr


def test_what_the_recipe_has_wrong_is_still_the_recipes(site, project, tmp_path):
    """Exit code 1 is for plugins alone; with a wrong key beside it the recipe has to be mended first."""
    faulty(site, "loss", "def check(self):")
    result = invoke("run", project, tmp_path / "run", "loss.use=faulty", "training.epoch=1")
    assert result.exit_code == 2
    assert "raised in check: Broken" in result.stderr
    assert 'did you mean "epochs"?' in result.stderr
