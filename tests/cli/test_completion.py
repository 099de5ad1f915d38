"""Shell completion: commands of plugins too, recipes, run folders, keys of ``--set``, names of plugins."""

import os
import shutil
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from dpotrain.cli import COMMANDS, main
from tests.support import dpotrain

RECIPE = '[model]\nuse = "transformers"\n[adapter]\nuse = "lora"\n[loss]\nuse = "ipo"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with recipes and a run."""
    monkeypatch.chdir(tmp_path)
    for name in ("recipes", "runs/first", "runs/other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("mine.toml", "recipes/big.toml", "pyproject.toml", "notes.txt", "runs/first/metrics.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "runs/first/recipe.toml").write_text("")
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def complete(*words: str) -> list[str]:
    """Return what the last word may become."""
    *before, incomplete = words
    found = ShellComplete(main, {}, "dpotrain", "_DPOTRAIN_COMPLETE").get_completions(before, incomplete)
    return [item.value for item in found]


def test_commands_and_those_of_plugins():
    assert complete("") == [*COMMANDS, "merge"]
    assert complete("pl") == ["plan", "plugins"]
    assert complete("help", "ch") == [name for name in COMMANDS if name.startswith("ch")]
    assert "--resume" in complete("run", "--")


@pytest.mark.parametrize("command", ["run", "check", "plan", "inspect"])
def test_recipes(command):
    assert complete(command, "") == ["mine.toml", "r.toml", "recipes/big.toml"]
    assert complete(command, "recipes/b") == ["recipes/big.toml"]
    assert complete(command, "m") == ["mine.toml"]


@pytest.mark.parametrize("command", ["checkpoints", "sync"])
def test_run_folders(command):
    assert complete(command, "") == ["runs/first"]
    assert complete(command, "runs/f") == ["runs/first"]


def test_keys_are_the_cores_and_those_of_the_components_that_the_recipe_selects():
    keys = complete("run", "r.toml", "--set", "")
    for key in (
        "seed=",
        "training.epochs=",
        "data.max_length=",
        "optimizer.lr=",
        "adapter.rank=",
        "loss.use=",
    ):
        assert key in keys
    assert "loss.beta=" in keys
    assert "loss.label_smoothing=" not in keys  # of dpo, and the recipe has ipo
    assert "loss.label_smoothing=" in complete("run", "--set", "loss.")
    assert complete("run", "r.toml", "--set", "training.ep") == ["training.epochs="]
    assert complete("run", "missing.toml", "--set", "training.ep") == ["training.epochs="]


def test_values_of_keys_that_have_few():
    assert complete("run", "r.toml", "--set", "training.precision=") == [
        "training.precision=bf16",
        "training.precision=fp32",
    ]
    assert complete("run", "r.toml", "--set", "loss.use=ho") == []
    assert complete("run", "r.toml", "--set", "loss.use=hi") == ["loss.use=hinge"]
    assert complete("run", "r.toml", "--set", "data.shuffle=") == ["data.shuffle=true", "data.shuffle=false"]


def test_names_of_plugins():
    assert complete("plugins", "show", "wan") == ["wandb"]
    assert {"dpo", "merge", "lora"} <= set(complete("plugins", "show", ""))


def test_kinds_of_new_plugins():
    assert complete("plugins", "new", "mine", "--kind", "dataset-") == ["dataset-source", "dataset-formatter"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_a_shell(shell, monkeypatch):
    result = dpotrain("completion", shell)
    assert result.exit_code == 0
    assert "_DPOTRAIN_COMPLETE" in result.output
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert dpotrain("completion").output == result.output
    monkeypatch.setenv("SHELL", "/usr/bin/tcsh")
    assert dpotrain("completion").stderr == "error: name the shell: dpotrain completion bash | zsh | fish\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "found"), [("run m", "mine.toml"), ("run r.toml --set training.ep", "training.epochs=")]
)
def test_bash_completes(words, found, folder):
    binaries = folder / "bin"
    binaries.mkdir()
    program = binaries / "dpotrain"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dpotrain "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(dpotrain completion bash)"\ncompopt() { :; }\n'
        f"COMP_WORDS=(dpotrain {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        '_dpotrain_completion dpotrain; echo "${COMPREPLY[@]}"\n'
    )
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == found


def test_completing_imports_nothing_heavy():
    code = (
        "import sys\nfrom click.shell_completion import ShellComplete\nfrom dpotrain.cli import main\n"
        "ShellComplete(main, {}, 'dpotrain', 'X').get_completions(['run', 'r.toml', '--set'], '')\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
