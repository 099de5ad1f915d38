from __future__ import annotations

import io

from rich.console import Console

from dpotrain.plugin.manager import PluginInfo
from dpotrain.ui.plugins_table import plugins_table


def _info(**changes: object) -> PluginInfo:
    values: dict[str, object] = {
        "name": "losses",
        "offers": {"loss": ["dpo", "ipo", "hinge"]},
        "events": [],
        "distribution": "dpotrain",
        "version": "0.1.0",
        "file": "/site-packages/dpotrain_plugins/losses.py",
        "status": "unused",
        "reason": "",
    }
    return PluginInfo(**(values | changes))  # type: ignore[arg-type]


def _shown(*infos: PluginInfo, width: int = 80) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    console.print(plugins_table(infos), crop=False)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_each_plugin_is_shown_with_offers_distribution_version_file_and_status():
    lines = _shown(_info(), _info(name="demo", status="active", events=["dpotrain_run_finished"]))
    words = [line.split() for line in lines]
    assert ["losses", "unused", "loss:", "dpo,", "ipo,", "hinge", "dpotrain", "0.1.0"] in words
    assert ["events:", "dpotrain_run_finished"] in words
    assert "losses: /site-packages/dpotrain_plugins/losses.py" in lines
    assert any(row[:2] == ["demo", "active"] for row in words)


def test_a_failed_plugin_says_why_in_a_whole_line():
    reason = (
        "ImportError: cannot import name 'nothing' from 'nowhere' "
        + "(/very/long/path" * 10
        + "/plugin.py:12)"
    )
    lines = _shown(_info(name="broken", status="failed", offers={}, reason=reason), width=60)
    assert f"broken failed: {reason}" in lines


def test_a_blocked_plugin_says_who_blocked_it():
    lines = _shown(_info(status="blocked", offers={}, reason="blocked by the recipe"))
    assert "losses blocked: blocked by the recipe" in lines


def test_an_object_registered_by_hand_has_no_distribution_and_no_file():
    lines = _shown(_info(name="mine", distribution=None, version=None, file=None))
    assert "mine: no file found" in lines


def test_a_plugin_cannot_steer_the_terminal_or_the_markup():
    text = "\n".join(_shown(_info(name="[red]x", offers={"loss": ["\x1b[2J"]})))
    assert "\x1b" not in text
    assert "[red]x" in text


def test_no_plugin_at_all_is_a_sentence_not_an_empty_table():
    assert _shown() == [
        "No plugins are installed, not even dpotrain's own; is dpotrain installed with",
        "pip?",
    ]
