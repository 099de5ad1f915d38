"""Verbs of plugins: listed and found through entry points, isolated from each other and from ``--help``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dpotrain.cli import main
from tests.plugin.conftest import site

__all__ = ["site"]

GREET = """
import click


@click.command(short_help="Say hello.")
@click.argument("name")
def command(name):
    from dpotrain.errors import RunError

    if name == "nobody":
        raise RunError("there is nobody\\ngreet somebody")
    click.echo(f"hello, {name}")
"""


def install(site: Path, distribution: str, verb: str, source: str) -> None:
    """Put a distribution with one verb into a folder on ``sys.path``."""
    module = distribution.replace("-", "_")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dpotrain.commands]\n{verb} = {module}:command\n")
    (site / f"{module}.py").write_text(source)


def dpotrain(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, terminal_width=200)


def listed(verb: str) -> str:
    """Return the line of ``--help`` on a plugin's verb."""
    result = dpotrain("--help")
    assert result.exit_code == 0, result.output
    _, heading, mine = result.output.partition("\nCommands of plugins:\n")
    assert heading
    (line,) = (line for line in mine.splitlines() if line.startswith(f"  {verb} "))
    return line.removeprefix(f"  {verb}").strip()


def test_a_verb_is_listed_under_a_heading_of_its_own_and_runs(site):
    install(site, "dpotrain-greet", "greet", GREET)
    assert listed("greet") == "Say hello (dpotrain-greet 1.0)."
    result = dpotrain("greet", "you")
    assert (result.exit_code, result.output) == (0, "hello, you\n")


def test_its_errors_end_like_those_of_any_verb(site):
    install(site, "dpotrain-greet", "greet", GREET)
    result = dpotrain("greet", "nobody")
    assert result.exit_code == 1
    assert result.stderr == "error: there is nobody\ngreet somebody\n"
    assert "Traceback" in dpotrain("--debug", "greet", "nobody").stderr
    assert dpotrain("greet").exit_code == 2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("other = 1", "cannot be imported: AttributeError"),
        ("command = 1", "is dpotrain_broken:command, which is no click command"),
    ],
)
def test_a_broken_verb_takes_neither_help_nor_the_others_down(site, source, reason):
    install(site, "dpotrain-broken", "fix", source)
    install(site, "dpotrain-greet", "greet", GREET)
    text = f'the verb "fix" of dpotrain-broken 1.0 {reason}'
    assert listed("fix").startswith(text)
    assert dpotrain("greet", "you").exit_code == 0
    result = dpotrain("fix")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {text}")


def test_two_plugins_with_one_verb_are_both_named_and_neither_runs(site):
    install(site, "dpotrain-greet", "greet", GREET)
    install(site, "dpotrain-other", "greet", GREET)
    text = (
        'the verb "greet" is offered by dpotrain-greet 1.0 and by dpotrain-other 1.0; none of them runs until one '
        "is uninstalled"
    )
    assert listed("greet") == text
    result = dpotrain("greet", "you")
    assert (result.exit_code, result.stderr) == (1, f"error: {text}\n")


def test_a_plugin_cannot_take_the_place_of_a_verb_of_dpotrain(site):
    install(site, "dpotrain-greet", "schema", GREET)
    assert listed("schema") == (
        'the verb "schema" is offered by dpotrain itself and by dpotrain-greet 1.0; the former is the one that runs'
    )
    assert dpotrain("schema").stdout.startswith("{")
