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
from dpotrain.plugin.runtime.interface import INTERFACE
from dpotrain.scaffold.kinds import kinds
from dpotrain.scaffold.names import class_of
from tests.environments import environment_with, plain_environ, run
from tests.plugin.fakes import forget, install
from tests.run.forked import Forked
from tests.support import dpotrain

KINDS = list(kinds(COMMANDS))
ONE_LOSS = """
from dpotrain import hookimpl
from dpotrain.plugin.api import Loss


class Mine(Loss):
    name = "mine"

    def __call__(self, scores):
        return -scores.chosen_logratio


@hookimpl
def dpotrain_losses():
    return [Mine]
"""

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
        assert f"dpotrain_interface = {INTERFACE}\n" in source
    assert len(source.splitlines()) <= 120


@pytest.mark.parametrize("name", ["q", "a-name-of-20-letters"])
def test_packages_pass_ruff_s_checks_and_are_formatted_whatever_the_length_of_the_name(name, tmp_path):
    for kind in KINDS:
        assert new(name, "--kind", kind, "--folder", str(tmp_path / kind)).exit_code == 0
    run(sys.executable, "-m", "ruff", "check", "-q", str(tmp_path))
    run(sys.executable, "-m", "ruff", "format", "-q", "--check", str(tmp_path))


@pytest.mark.soak
def test_packages_pass_mypy_as_they_are_configured(packages, python):
    """All at once, since their configurations differ in the name of the package alone."""
    modules = [word for kind in KINDS for word in ("-p", f"dpotrain_{name(kind).replace('-', '_')}")]
    run(
        python, "-m", "mypy", *modules, cwd=packages["loss"]
    )  # where no dpotrain is, which it would check, too


def test_there_is_a_template_for_every_kind_and_for_a_command(packages):
    assert len(packages) == len(CATALOGUES) + 1


def test_what_is_to_be_done_with_a_package_is_said_here_and_in_its_readme(said, packages):
    for kind, (first, *commands) in said.items():
        assert first == f"{packages[kind]} holds the plugin; to install, test and run it:"
        assert commands[1:4] == ['pip install -e ".[test]"', "python -m pytest", "dpotrain run recipe.toml"]
        readme = (packages[kind] / "README.md").read_text()
        assert all(f"$ {command}\n" in readme or f"$ {command} " in readme for command in commands[1:])
    assert said["command"][-1] == "dpotrain my-command runs/my-command"


@pytest.mark.soak
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "command"])
def test_their_recipes_give_the_same_losses_in_two_processes(kind, packages, installed, tmp_path):
    losses = {}
    for ranks in (1, 2):
        into = tmp_path / str(ranks)
        few = ["training.steps=3", "evaluation.every=1", f"run.output_dir={str(into)!r}"]
        for ended in installed.ranks(Path("recipe.toml"), few, ranks=ranks, folder=packages[kind]):
            assert ended.code == 0, ended.output
        lines = (into / "metrics.jsonl").read_text().splitlines()
        losses[ranks] = [record["loss"] for record in map(json.loads, lines)]
    assert len(losses[1]) >= 4
    assert losses[2] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.soak
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
    assert "\n  my-command   Show how a metric changed (dpotrain-my-command 0.1.0)." in shown


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


def test_a_suite_that_is_run_before_the_package_is_installed_says_so(installed, tmp_path):
    assert new("early", "--kind", "loss", "--folder", str(tmp_path)).exit_code == 0
    chosen = "test_it_is_a_function or test_an_installed_plugin_offers_it"
    ended = installed.pytest("-q", "-k", chosen, folder=tmp_path / "dpotrain-early")
    assert ended.code == 1
    assert (
        "dpotrain-early is not installed, so dpotrain does not find its plugins: pip install -e " in ended.out
    )
    assert "1 failed, 1 skipped" in ended.out


@some_kinds
def test_they_are_shown_at_work_as_generated(chosen, said, packages, installed):
    """Every recipe runs; the command is then used on its run."""
    for kind in chosen:
        folder = packages[kind]
        for command, *words in (line.split()[1:] for line in said[kind] if line.startswith("dpotrain ")):
            few = ["--set", "training.steps=3"] if command == "run" else []
            ended = installed.dpotrain(command, *words, *few, folder=folder)
            assert ended.code == 0, ended.output
            assert command == "run" or ended.out.startswith("eval loss\n  first ")
        (summary,) = folder.glob("runs/*/summary.json")
        assert json.loads(summary.read_text())["status"] == "finished"
        run(sys.executable, "-m", "ruff", "format", "-q", "--check", ".", cwd=folder)  # no file of the run


@pytest.mark.parametrize(
    ("kind", "taken", "text"),
    [
        ("loss", "dpo", 'loss "dpo" is offered by plugin "losses" (dpotrain '),
        ("loss", "merge", 'plugin "merge" (dpotrain '),
        ("dataset-formatter", "auto", 'data.format = "auto" means that all formatters are asked; choose'),
        ("loss", "plugins", "there is a module dpotrain_plugins already ("),
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


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (ONE_LOSS, 'loss "mine" is offered by plugin "mine" (dpotrain-mine 1.0) already'),
        ("import nothing_that_exists", 'plugin "mine" (dpotrain-mine 1.0) is installed already'),
        (None, "the distribution dpotrain-mine 1.0 is installed already"),
    ],
    ids=["its component", "its plugin, which fails", "its distribution"],
)
def test_a_package_that_is_installed_already_may_be_uninstalled_first(module, text, tmp_path, monkeypatch):
    install(tmp_path / "site", "dpotrain-mine", "1.0", **({} if module is None else {"mine": module}))
    monkeypatch.syspath_prepend(tmp_path / "site")
    result = new("mine", "--kind", "loss", "--folder", str(tmp_path / "new"))
    forget(tmp_path / "site")
    assert result.exit_code == 2
    remedy = "choose another name, or uninstall it first: pip uninstall dpotrain-mine"
    assert result.stderr == f"error: {text}; {remedy}\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "base", "made"),
    [
        ("hinge", "Loss", "HingeLoss"),
        ("my-loss", "Loss", "MyLoss"),
        ("loss", "Loss", "LossLoss"),
        ("csv-source", "DatasetSource", "CsvSource"),
    ],
)
def test_a_class_is_called_after_plugin_and_kind(name, base, made):
    assert class_of(name, base) == made


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


def test_a_folder_that_cannot_be_written_is_named_and_nothing_of_it_stays(tmp_path):
    (tmp_path / "file").touch()
    result = new("mine", "--kind", "loss", "--folder", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2
    assert "below/dpotrain-mine cannot be written: Not a directory" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_kinds_are_listed_by_help_and_where_none_is_given():
    shown = new("--help").output
    for kind in KINDS:
        assert re.search(rf"^  {kind} +[A-Z]", shown, re.MULTILINE), kind
    missing = new("mine")
    assert missing.exit_code == 2
    assert f"Missing option '--kind'. It is one of {', '.join(KINDS)}\n" in missing.stderr


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
