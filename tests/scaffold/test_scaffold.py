"""``dpotrain plugins new``: every kind's package is built, installed in an environment of its own, tested and run."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from dpotrain.cli import main
from dpotrain.plugin.components import CATALOGUES, Loss
from dpotrain.scaffold import kinds
from tests.environments import environment_with, run

KINDS = list(kinds())

#: Runs each folder's recipe.
RUN = """
import os, sys
from pathlib import Path
from dpotrain.cli import main
from dpotrain.testing import build_tiny_model
for folder in sys.argv[1:]:
    os.chdir(folder)
    if 'folder = "model"' in Path("recipe.toml").read_text():
        build_tiny_model(Path("model"))
    try:
        main(["run", "recipe.toml", "--set", "training.steps=3"], prog_name="dpotrain")
    except SystemExit as end:
        assert not end.code, folder
"""


def new(*words: str):
    return CliRunner().invoke(main, ["plugins", "new", *words])


def name(kind: str) -> str:
    return f"my-{kind}"


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    """A package of each kind."""
    parent = tmp_path_factory.mktemp("packages")
    for kind in KINDS:
        result = new(name(kind), "--kind", kind, "--folder", str(parent))
        assert result.exit_code == 0, result.output
        assert f"cd {parent / f'dpotrain-{name(kind)}'}" in result.output
    return {kind: parent / f"dpotrain-{name(kind)}" for kind in KINDS}


@pytest.fixture(scope="module")
def python(packages, tmp_path_factory) -> str:
    """The interpreter of a fresh environment with the wheels, which sees the packages that dpotrain needs."""
    return environment_with(packages.values(), tmp_path_factory.mktemp("environment"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_complete_and_says_what_it_was_written_for(packages, kind):
    folder = packages[kind]
    module = f"dpotrain_{name(kind).replace('-', '_')}"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files >= {
        "pyproject.toml", "README.md", "recipe.toml", ".gitignore", ".github/workflows/tests.yml",
        f"{module}/__init__.py", f"{module}/py.typed", "tests/conftest.py", f"tests/test_{module}.py",
    }  # fmt: skip
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"dpotrain": {name(kind): module}}
    source = (folder / module / "__init__.py").read_text()
    assert "dpotrain_interface = 1\n" in source
    assert len(source.splitlines()) <= 120
    run(sys.executable, "-m", "ruff", "check", "-q", str(folder))


def test_there_is_a_template_for_every_kind(packages):
    assert len(packages) == len(CATALOGUES)


def test_all_are_found_by_their_entry_points_alone(packages, python):
    listed = {info["name"]: info for info in json.loads(run(python, "-m", "dpotrain", "plugins", "--json"))}
    for kind in KINDS:
        info = listed[name(kind)]
        assert (info["status"], info["reason"], info["notes"]) == ("unused", "", [])
        assert info["offers"] == {kinds()[kind].kind: [name(kind)]}
        assert Path(info["file"]).is_relative_to(Path(python).parent.parent)


@pytest.mark.slow
def test_their_tests_pass_as_generated(packages, python):
    """In one process, which saves importing torch once a kind; each package's own settings are the same."""
    tests = [str(folder / "tests") for folder in packages.values()]
    settings = str(packages["loss"] / "pyproject.toml")
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-rA", "-c", settings]
    said = run(python, "-m", "pytest", *options, *tests, cwd=packages["loss"].parent)
    for kind in KINDS:
        passed = [
            line
            for line in said.splitlines()
            if line.startswith("PASSED") and f"_my_{kind.replace('-', '_')}.py" in line
        ]
        assert len(passed) >= 6, said
    assert "no tests ran" not in said


@pytest.mark.slow
def test_their_recipes_run_as_generated(packages, python):
    run(python, "-c", RUN, *map(str, packages.values()))
    for folder in packages.values():
        (summary,) = folder.glob("runs/*/summary.json")
        assert json.loads(summary.read_text())["status"] == "finished"


def test_a_name_that_is_taken_is_refused():
    result = new("dpo", "--kind", "loss")
    assert result.exit_code == 2
    assert result.stderr.startswith('error: loss "dpo" is offered by plugin "losses" (dpotrain ')


@pytest.mark.parametrize(("given", "hint"), [("My Loss", '; what about "my-loss"?'), ("7", ""), ("a--b", "")])
def test_a_name_that_is_none_is_refused(given, hint, tmp_path):
    result = new(given, "--kind", "loss", "--folder", str(tmp_path))
    assert result.exit_code == 2
    assert f'"{given}" is no name for a plugin: small letters, digits and hyphens{hint}' in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    assert new("dpotrain-mine", "--kind", "loss", "--folder", str(tmp_path)).exit_code == 0
    (tmp_path / "dpotrain-mine" / "README.md").write_text("mine")
    result = new("mine", "--kind", "logger", "--folder", str(tmp_path))
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert (tmp_path / "dpotrain-mine" / "README.md").read_text() == "mine"


def test_a_kind_that_is_none_comes_with_the_nearest_one():
    assert (
        "there is no kind model_loader; did you mean model-loader?"
        in new("x", "--kind", "model_loader").stderr
    )
    assert "there are model-loader, quantizer" in new("x", "--kind", "zzz").stderr
    assert kinds()["loss"] is Loss
