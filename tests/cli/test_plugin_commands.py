"""Commands of plugins: listed and found through entry points, isolated from each other and from ``--help``."""

import json
import sys

import pytest
from click.testing import CliRunner, Result

from dpotrain.cli import main
from tests.plugin.fakes import COMMAND_MODULE as GREET
from tests.plugin.fakes import LOSS_MODULE, install

LOSS = LOSS_MODULE.format(name="mine")


def dpotrain(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, terminal_width=200)


def listed(command: str) -> str:
    """Return the line of ``--help`` on a plugin's command."""
    result = dpotrain("--help")
    assert result.exit_code == 0, result.output
    _, heading, mine = result.output.partition("\nCommands of plugins:\n")
    assert heading
    (line,) = (line for line in mine.splitlines() if line.startswith(f"  {command} "))
    return line.removeprefix(f"  {command}").strip()


def test_a_command_is_listed_under_a_heading_of_its_own_and_runs(site):
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET})
    assert listed("greet") == "Say hello (dpotrain-greet 1.0)."
    result = dpotrain("greet", "you")
    assert (result.exit_code, result.output) == (0, "hello, you\n")


def test_its_errors_end_like_those_of_any_command(site):
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET})
    result = dpotrain("greet", "nobody")
    assert (result.exit_code, result.stderr) == (1, "error: there is nobody\ngreet somebody\n")
    assert "Traceback" in dpotrain("--debug", "greet", "nobody").stderr
    assert dpotrain("greet").exit_code == 2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("other = 1", "cannot be imported: AttributeError"),
        ("command = 1", "is dpotrain_broken_command_fix:command, which is not a click command"),
    ],
)
def test_a_broken_command_takes_neither_help_nor_the_others_down(site, source, reason):
    install(site, "dpotrain-broken", "1.0", commands={"fix": source})
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET})
    text = f'the command "fix" of dpotrain-broken 1.0 {reason}'
    assert listed("fix").startswith(text)
    assert dpotrain("greet", "you").exit_code == 0
    result = dpotrain("fix")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {text}")


def test_what_it_raises_besides_is_told_with_its_name_and_its_distribution(site):
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET.replace("RunError(", "KeyError(")})
    result = dpotrain("greet", "nobody")
    assert result.exit_code == 1
    assert result.stderr.startswith('error: the command "greet" of dpotrain-greet 1.0 raised KeyError: ')
    assert result.stderr.endswith("\nrun again with --debug for the traceback\n")
    assert "Traceback" in dpotrain("--debug", "greet", "nobody").stderr


def test_two_plugins_with_one_command_are_both_named_and_neither_runs(site):
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET})
    install(site, "dpotrain-other", "1.0", commands={"greet": GREET})
    text = (
        'the command "greet" is offered by dpotrain-greet 1.0 and by dpotrain-other 1.0; none of them runs until one '
        "is uninstalled"
    )
    assert listed("greet") == text
    result = dpotrain("greet", "you")
    assert (result.exit_code, result.stderr) == (1, f"error: {text}\n")


def test_a_plugin_cannot_take_the_place_of_a_command_of_dpotrain(site):
    install(site, "dpotrain-greet", "1.0", commands={"schema": GREET})
    assert listed("schema") == (
        'the command "schema" is offered by dpotrain itself and by dpotrain-greet 1.0; only the first is run'
    )
    assert dpotrain("schema").stdout.startswith("{")


def test_only_the_program_has_them_and_no_group_below_it(site):
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET})
    assert "greet" not in dpotrain("plugins", "--help").output


def lines(*arguments: str) -> dict[str, str]:
    """Return what ``dpotrain plugins`` says of each plugin and command, by name."""
    result = dpotrain("plugins", *arguments)
    assert result.exit_code == 0, result.output
    return {line.split()[0]: " ".join(line.split()[1:]) for line in result.output.splitlines()}


def test_the_list_of_plugins_shows_a_command_with_its_plugin(site):
    install(site, "dpotrain-own", "1.0", commands={"greet": GREET, "wave": GREET}, own=LOSS)
    install(
        site,
        "dpotrain-two",
        "2.0",
        commands={"bow": GREET},
        bow=LOSS.replace("mine", "b"),
        it=LOSS.replace("mine", "i"),
    )
    told = lines()
    assert told["merge"].endswith("exporters: merge; commands: merge")
    assert told["own"].endswith("losses: mine; commands: greet, wave")
    assert told["bow"].endswith("losses: b; commands: bow")
    assert told["it"].endswith("losses: i")
    assert not {"greet", "wave"} & told.keys()


def test_a_command_without_a_plugin_is_shown_by_itself(site):
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET, "wave": GREET})
    install(site, "dpotrain-two", "2.0", commands={"bow": GREET}, one=LOSS.replace("mine", "a"), it=LOSS)
    told = lines()
    assert (
        told["greet"] == f"unused dpotrain-greet 1.0 {site}/dpotrain_greet_command_greet.py commands: greet"
    )
    assert told["wave"].endswith("commands: wave")
    assert told["bow"] == f"unused dpotrain-two 2.0 {site}/dpotrain_two_command_bow.py commands: bow"
    (found,) = [info for info in json.loads(dpotrain("plugins", "--json").output) if info["name"] == "greet"]
    assert (found["commands"], found["offers"], found["status"]) == (["greet"], {}, "unused")


def test_what_is_wrong_with_a_command_is_its_reason_or_a_note_on_the_plugin_that_works_without_it(site):
    install(site, "dpotrain-broken", "1.0", commands={"fix": "import no_such_module_at_all"})
    install(site, "dpotrain-half", "1.0", commands={"half": "raise ValueError('no')"}, half=LOSS)
    install(site, "dpotrain-greet", "1.0", commands={"schema": GREET})
    told = lines()
    assert told["fix"].startswith("failed dpotrain-broken 1.0 ")
    assert (
        'commands: fix the command "fix" of dpotrain-broken 1.0 cannot be imported: ModuleNotFound'
        in told["fix"]
    )
    assert told["half"].startswith("unused dpotrain-half 1.0 ")
    assert (
        'losses: mine; commands: half the command "half" of dpotrain-half 1.0 cannot be imported: V'
        in told["half"]
    )
    assert 'the command "schema" is offered by dpotrain itself and by dpotrain-greet 1.0' in told["schema"]


def test_both_distributions_of_a_clash_are_shown(site):
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET})
    install(site, "dpotrain-other", "2.0", commands={"greet": GREET})
    shown = [line for line in dpotrain("plugins").output.splitlines() if line.startswith("greet ")]
    assert [line.split()[1:4] for line in shown] == [
        ["failed", "dpotrain-greet", "1.0"],
        ["failed", "dpotrain-other", "2.0"],
    ]
    assert all("is offered by dpotrain-greet 1.0 and by dpotrain-other 2.0" in line for line in shown)


def test_a_command_that_makes_help_slow_is_noted(site):
    light = "import click\nfrom types import ModuleType\nimport sys\nsys.modules['jax'] = ModuleType('jax')\n"
    install(site, "dpotrain-greet", "1.0", commands={"greet": f"{light}{GREET}"})
    try:
        assert "commands: greet slow: importing it took" in lines()["greet"]
    finally:
        sys.modules.pop("jax", None)


def test_its_page_is_found_by_its_name_and_shows_its_help(site):
    install(site, "dpotrain-greet", "1.0", commands={"greet": GREET, "wave": GREET, "fix": "import no_such"})
    page = dpotrain("plugins", "show", "greet").output
    assert page == (
        'plugin "greet"\n'
        "  distribution  dpotrain-greet 1.0\n"
        "  licence       none stated\n"
        f"  file          {site}/dpotrain_greet_command_greet.py\n"
        "  commands      greet\n"
        "  status        unused\n"
        "\n"
        'command "greet"\n'
        "  Usage: dpotrain greet [OPTIONS] NAME\n"
        "\n"
        "  Options:\n"
        "    --help  Show this message and exit.\n"
    )
    everything = dpotrain("plugins", "show", "dpotrain-greet").output
    assert [f'plugin "{name}"\n' in everything for name in ("greet", "wave", "fix")] == [True] * 3
    assert 'reason        the command "fix" of dpotrain-greet 1.0 cannot be imported' in everything
    assert 'did you mean "greet"?' in dpotrain("plugins", "show", "greeet").stderr


def test_of_a_plugin_with_several_only_the_command_that_is_named_is_shown(site):
    install(site, "dpotrain-own", "1.0", commands={"greet": GREET, "wave": GREET}, own=LOSS)
    page = dpotrain("plugins", "show", "wave").output
    assert "  commands      greet, wave\n" in page
    assert 'command "wave"' in page
    assert 'command "greet"' not in page
    assert 'loss "mine"' not in page
    (told,) = json.loads(dpotrain("plugins", "show", "own", "--json").output)
    assert [command["name"] for command in told["commands"]] == ["greet", "wave"]
