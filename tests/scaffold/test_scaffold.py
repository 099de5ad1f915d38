"""``dpotrain plugins new``: every kind's package is built, installed in an environment of its own, tested and run."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpotrain.cli import COMMANDS
from dpotrain.plugin.api import Loss
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.scaffold.kinds import kinds
from dpotrain.testing import build_tiny_model
from tests.environments import environment_with, plain_environ, run
from tests.run.forked import Forked
from tests.support import dpotrain

KINDS = list(kinds(COMMANDS))

#: A component and a command; the others are tried in the long tests.
QUICK = ["loss", "command"]
some_kinds = pytest.mark.parametrize(
    "chosen",
    [QUICK, pytest.param([kind for kind in KINDS if kind not in QUICK], marks=pytest.mark.soak)],
    ids=["quick", "others"],
)


def new(*words: str):
    return dpotrain("plugins", "new", *words)


def name(kind: str) -> str:
    return f"my-{kind}"


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, list[str]]:
    """What was said of a package of each kind: its folder, and the commands that were named."""
    parent = tmp_path_factory.mktemp("packages")
    found = {}
    for kind in KINDS:
        result = new(name(kind), "--kind", kind, "--folder", str(parent))
        assert result.exit_code == 0, result.output
        found[kind] = [line.strip() for line in result.output.splitlines()]
    return found


@pytest.fixture(scope="module")
def packages(said) -> dict[str, Path]:
    """The folder of a package of each kind."""
    return {kind: Path(commands[1].removeprefix("cd ")) for kind, commands in said.items()}


@pytest.fixture(scope="module")
def python(packages, tmp_path_factory) -> str:
    """The interpreter of a fresh environment with the wheels, which sees the packages that dpotrain needs."""
    return environment_with(packages.values(), tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def installed(python) -> Iterator[Forked]:
    """``dpotrain`` of that environment."""
    server = Forked(python, plain_environ())
    yield server
    server.close()


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
    source = (folder / module / "__init__.py").read_text()
    if kind == "command":
        assert project["entry-points"] == {"dpotrain.commands": {name(kind): f"{module}:command"}}
    else:
        assert project["entry-points"] == {"dpotrain": {name(kind): module}}
        assert "dpotrain_interface = 2\n" in source
    assert len(source.splitlines()) <= 120
    run(sys.executable, "-m", "ruff", "check", "-q", str(folder))


def test_there_is_a_template_for_every_kind_and_for_a_command(packages):
    assert len(packages) == len(CATALOGUES) + 1


def test_what_is_to_be_done_with_a_package_is_said_here_and_in_its_readme(said, packages):
    for kind, (first, *commands) in said.items():
        assert first == f"{packages[kind]} holds the plugin; to install, test and run it:"
        assert commands[1:4] == ['pip install -e ".[test]"', "python -m pytest", "dpotrain run recipe.toml"]
        readme = (packages[kind] / "README.md").read_text()
        assert all(f"$ {command}\n" in readme or f"$ {command} " in readme for command in commands[1:])
    assert said["command"][-1] == "dpotrain my-command runs/my-command"


def test_all_are_found_by_their_entry_points_alone(packages, python, installed):
    listed = {info["name"]: info for info in json.loads(installed.dpotrain("plugins", "--json").out)}
    for kind in KINDS:
        info = listed[name(kind)]
        assert (info["status"], info["reason"], info["notes"]) == ("unused", "", [])
        if kind == "command":
            assert (info["offers"], info["commands"]) == ({}, [name(kind)])
        else:
            assert (info["offers"], info["commands"]) == ({kinds(COMMANDS)[kind].name: [name(kind)]}, [])
        assert Path(info["file"]).is_relative_to(Path(python).parent.parent)
    shown = installed.dpotrain("--help").out
    assert "\n  my-command   Say how a metric moved in a run (dpotrain-my-command 0.1.0)." in shown


@some_kinds
def test_their_tests_pass_as_generated(chosen, packages, installed):
    """In one process; each package's own settings are the same."""
    tests = [str(packages[kind] / "tests") for kind in chosen]
    options = ["--import-mode=importlib", "-rA", "-c", str(packages["loss"] / "pyproject.toml")]
    ended = installed.pytest(*options, *tests, folder=packages["loss"].parent)
    assert ended.code == 0, ended.output
    for kind in chosen:
        passed = re.findall(rf"^PASSED .*_my_{kind.replace('-', '_')}\.py::", ended.out, re.MULTILINE)
        assert len(passed) >= 6, ended.out


@some_kinds
def test_they_are_shown_at_work_as_generated(chosen, said, packages, installed):
    """Every recipe runs; the command is then used on its run."""
    for kind in chosen:
        folder = packages[kind]
        if 'folder = "model"' in (folder / "recipe.toml").read_text():
            build_tiny_model(folder / "model")
        for command, *words in (line.split()[1:] for line in said[kind] if line.startswith("dpotrain ")):
            few = ["--set", "training.steps=3"] if command == "run" else []
            ended = installed.dpotrain(command, *words, *few, folder=folder)
            assert ended.code == 0, ended.output
            assert command == "run" or ended.out.startswith("eval loss\n  first ")
        (summary,) = folder.glob("runs/*/summary.json")
        assert json.loads(summary.read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("kind", "taken", "text"),
    [
        ("loss", "dpo", 'loss "dpo" is offered by plugin "losses" (dpotrain '),
        ("command", "check", "dpotrain check is one of dpotrain's own commands; choose another name"),
        ("command", "merge", 'the command "merge" of dpotrain '),
    ],
)
def test_a_name_that_is_taken_is_refused(kind, taken, text, tmp_path):
    result = new(taken, "--kind", kind, "--folder", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {text}")
    assert result.stderr.endswith("; choose another name\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("given", "hint"), [("My Loss", '; what about "my-loss"?'), ("7", ""), ("a--b", "")])
def test_a_name_that_is_none_is_refused(given, hint, tmp_path):
    result = new(given, "--kind", "loss", "--folder", str(tmp_path))
    assert result.exit_code == 2
    assert (
        f'"{given}" is not a name for a plugin: use small letters, digits and hyphens{hint}' in result.stderr
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    assert new("dpotrain-mine", "--kind", "loss", "--folder", str(tmp_path)).exit_code == 0
    (tmp_path / "dpotrain-mine" / "README.md").write_text("mine")
    result = new("mine", "--kind", "logger", "--folder", str(tmp_path))
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert (tmp_path / "dpotrain-mine" / "README.md").read_text() == "mine"


def test_a_command_may_be_asked_for_by_its_old_name(tmp_path):
    assert new("mine", "--kind", "verb", "--folder", str(tmp_path)).exit_code == 0
    assert "CommandConformance" in (tmp_path / "dpotrain-mine/tests/test_dpotrain_mine.py").read_text()


def test_a_kind_that_is_none_comes_with_the_nearest_one():
    assert (
        'there is no kind "model_loader"; did you mean "model-loader"?'
        in new("x", "--kind", "model_loader").stderr
    )
    assert "there are model-loader, quantizer" in new("x", "--kind", "zzz").stderr
    assert kinds(COMMANDS)["loss"].component is Loss
