"""The group of commands: help, version, what is imported, and how errors end."""

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import dpotrain
from dpotrain.cli import main
from dpotrain.cli.group import CommandGroup, debug_option
from dpotrain.core.errors import DataError, PluginError, RecipeError, RunError, RunStopped

HEAVY = ("torch", "transformers", "datasets", "peft", "bitsandbytes", "accelerate", "wandb")


def imported_by(*arguments: str) -> list[str]:
    """Return the modules that a process has imported when a command line is done."""
    code = (
        "import json, sys\n"
        "from dpotrain.cli import main\n"
        "try:\n"
        f"    main({list(arguments)!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plan", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    heavy = {*HEAVY, "pydantic", "rich", "packaging", "numpy"}
    assert heavy.isdisjoint(imported_by(*arguments))


@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "--json"], ["schema"]])
def test_plugins_and_schema_import_neither_torch_nor_transformers(arguments):
    assert set(HEAVY).isdisjoint(imported_by(*arguments))


def test_help_names_every_command():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for command in ("run", "check", "plan", "checkpoints", "sync", "plugins", "schema"):
        assert f"\n  {command} " in result.output


def test_the_help_of_run_explains_the_exit_codes():
    result = CliRunner().invoke(main, ["run", "--help"])
    assert "75 stopped on a signal after saving" in result.output
    assert "--set KEY=VALUE" in result.output


def test_version():
    assert CliRunner().invoke(main, ["--version"]).output == f"dpotrain, version {dpotrain.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["rum"], ["run"], ["run", "x.toml", "--resum"], ["plugins", "--set", "a=1"]]
)
def test_a_wrong_command_line_is_exit_2(arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert result.stdout == ""


def command_raising(error: BaseException, monkeypatch) -> CommandGroup:
    """Return a group with one command, which raises."""
    import types

    @click.command()
    @debug_option
    def command():
        raise error

    module = types.ModuleType("command_that_raises")
    module.command = command
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return debug_option(CommandGroup("group", modules={"go": module.__name__}))


@pytest.mark.parametrize(
    ("error", "code"),
    [(RecipeError("wrong"), 2), (DataError("wrong"), 3), (PluginError("wrong"), 1), (RunError("wrong"), 1)],
)
def test_an_error_is_its_own_lines_on_stderr_and_its_exit_code(error, code, monkeypatch):
    result = CliRunner().invoke(command_raising(error, monkeypatch), ["go"])
    assert (result.exit_code, result.stderr, result.stdout) == (code, "error: wrong\n", "")


def test_a_stopped_run_is_exit_75_and_no_error(monkeypatch):
    result = CliRunner().invoke(command_raising(RunStopped("go on with --resume"), monkeypatch), ["go"])
    assert (result.exit_code, result.stderr) == (75, "stopped: go on with --resume\n")


@pytest.mark.parametrize("arguments", [["--debug", "go"], ["go", "--debug"]])
def test_debug_before_or_after_the_command_shows_the_traceback(arguments, monkeypatch):
    result = CliRunner().invoke(command_raising(RecipeError("wrong"), monkeypatch), arguments)
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("error: wrong\n")


def test_an_unexpected_error_is_short_and_says_how_to_see_more(monkeypatch):
    result = CliRunner().invoke(command_raising(KeyError("k"), monkeypatch), ["go"])
    assert result.exit_code == 1
    assert result.stderr == (
        "error: unexpected error: KeyError: 'k'\nrun again with --debug for the traceback\n"
    )


def test_an_interrupt_is_exit_130_and_one_line(monkeypatch):
    result = CliRunner().invoke(command_raising(KeyboardInterrupt(), monkeypatch), ["go"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_errors_are_plain_where_nobody_watches(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "dpotrain", "run", str(tmp_path / "x.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: there is no recipe {tmp_path / 'x.toml'}")
    assert "\x1b" not in done.stderr
    assert done.stdout == ""
