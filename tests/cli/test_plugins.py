"""``dpotrain plugins`` and ``dpotrain schema``."""

import io
import json

import pytest
from rich.console import Console

from dpotrain.plugin.runtime.manager import PluginInfo, PluginManager
from dpotrain.ui.plugins_table import print_plugins
from tests.plugin.fakes import LOSS_MODULE, install
from tests.support import dpotrain

INFOS = [
    PluginInfo(
        "mypo",
        {"loss": ["mypo", "cpo"], "logger": ["csv"]},
        ["dpotrain_step_ended"],
        "dpotrain-mypo",
        "0.3",
        "/x/mypo.py",
        "active",
        "",
    ),
    PluginInfo(
        "broken", {}, [], "dpotrain-broken", "1.0", "/x/broken.py", "failed", "ValueError: no\nsecond line"
    ),
    PluginInfo("by_hand", {}, [], None, None, None, "unused", "", notes=["slow: it took long"]),
]


def printed(console: Console) -> str:
    print_plugins(INFOS, console)
    return console.file.getvalue()


def test_elsewhere_than_in_a_terminal_it_is_a_line_a_plugin_however_long():
    console = Console(file=io.StringIO(), width=20)
    assert printed(console).splitlines() == [
        "mypo     active  dpotrain-mypo 0.3    /x/mypo.py    "
        "losses: mypo, cpo; loggers: csv; subscribes: step_ended",
        "broken   failed  dpotrain-broken 1.0  /x/broken.py  ValueError: no second line",
        "by_hand  unused  registered by hand   -             slow: it took long",
    ]


def test_in_a_terminal_it_is_a_table():
    console = Console(file=io.StringIO(), width=90, force_terminal=True, color_system=None)
    text = printed(console)
    for part in (
        "plugin",
        "status",
        "offers",
        "mypo",
        "losses: mypo, cpo",
        "subscribes: step_ended",
        "/x/broken.py",
    ):
        assert part in text
    assert "ValueError: no" in text
    assert "slow: it took long" in text
    assert max(map(len, text.splitlines())) <= 90


def test_names_in_brackets_are_no_markup():
    infos = [PluginInfo("a", {}, [], None, None, "/x/[red]y.py", "failed", "KeyError: '[bold]'")]
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
        print_plugins(infos, console)
        assert "[red]y.py" in console.file.getvalue()
        assert "[bold]" in console.file.getvalue()


def test_a_plugin_cannot_steer_the_terminal():
    infos = [PluginInfo("a", {"loss": ["\x1b[2J"]}, [], None, None, "/x/\x1b[1A", "unused", "")]
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
        print_plugins(infos, console)
        assert "\x1b" not in console.file.getvalue()


def test_no_plugin_at_all_is_a_sentence_not_an_empty_table():
    console = Console(file=io.StringIO(), width=200)
    print_plugins([], console)
    assert "is dpotrain installed with pip?" in console.file.getvalue()


def test_json_has_every_field(site):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    result = dpotrain("plugins", "--json")
    (mypo,) = [info for info in json.loads(result.stdout) if info["name"] == "mypo"]
    assert (
        mypo
        == next(info for info in PluginManager.from_entry_points().infos() if info.name == "mypo").as_json()
    )


def test_a_recipe_shows_what_it_makes_active_and_what_it_blocks(site, tmp_path):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    install(site, "dpotrain-cpo", "0.1", cpo=LOSS_MODULE.format(name="cpo"))
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'block = ["cpo"]\nrun.output_dir = "x"\nmodel.use = "demo"\ndata.use = "demo"\n'
        'loss.use = "mypo"\noptimizer.lr = 1e-4\n'
    )
    result = dpotrain("plugins", "--json", str(recipe))
    assert result.exit_code == 0, result.stderr
    status = {info["name"]: info["status"] for info in json.loads(result.stdout)}
    assert (status["mypo"], status["cpo"], status["demo"], status["losses"]) == (
        "active",
        "blocked",
        "active",
        "unused",
    )


def test_schema_prints_json_with_the_installed_plugins(site):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    result = dpotrain("schema")
    schema = json.loads(result.stdout)
    names = [table["properties"]["use"]["const"] for table in schema["else"]["properties"]["loss"]["oneOf"]]
    assert {"dpo", "ipo", "hinge", "mypo"} <= set(names)


@pytest.mark.parametrize("command", ["plugins", "run", "check"])
def test_a_missing_recipe_names_near_files(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama.toml").write_text("")
    result = dpotrain(command, "lama.toml")
    assert result.exit_code == 2
    assert result.stderr == 'error: there is no recipe lama.toml; did you mean "llama.toml"?\n'
