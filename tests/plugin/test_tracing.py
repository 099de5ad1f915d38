"""What is recorded of the calls of plugins: all of them, in order, and nothing of the data."""

import json
import types

import pytest

from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetFormatter, Logger
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.testing import example_pairs, run_recipe
from tests.docs.generated import ROOT
from tests.plugin.fakes import install
from tests.support import dpotrain


class Quiet(Logger):
    name = "quiet"

    def start(self, run):
        self.records = 0

    def log(self, record):
        self.records += 1

    def finish(self, outcome):
        pass

    @hookimpl
    def dpotrain_run_finished(self, outcome):
        pass


def _plugin() -> types.ModuleType:
    def started(run):
        pass

    module = types.ModuleType("mine")
    module.dpotrain_loggers = hookimpl(lambda: [Quiet], specname="dpotrain_loggers")
    module.started = hookimpl(started, specname="dpotrain_run_started")
    return module


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    recipe = '[[loggers]]\nuse = "quiet"\n[training]\nsteps = 2\n[data]\nformat = "standard"'
    return run_recipe(recipe, tmp_path_factory.mktemp("traced"), plugins=[_plugin()]).calls


def test_the_calls_of_a_logger_are_recorded_in_the_order_of_a_run(calls):
    mine = [(call.component, call.method) for call in calls if call.plugin == "mine"]
    # Its own thread is not in step with the one that trains.
    assert [each for each in mine if each[0]] == [
        *[("logger quiet", name) for name in ("__init__", "check", "start")],
        *[("logger quiet", "log")] * 4,
        *[("logger quiet", name) for name in ("dpotrain_run_finished", "finish")],
    ]
    assert [name for component, name in mine if not component] == ["dpotrain_loggers", "dpotrain_run_started"]


def test_every_row_is_formatted_and_none_of_its_text_recorded(calls):
    formatted = [call for call in calls if call.method == "format"]
    assert len(formatted) >= 32
    assert {call.arguments for call in formatted} == {"WatchedRow"}
    assert not [call for call in calls if "May I have" in str(call)]


def test_a_dry_run_says_what_it_calls_and_what_a_run_calls_besides():
    recipe = str(ROOT / "recipes" / "quickstart.toml")
    result = dpotrain("plugins", "--trace", recipe, "--set", 'adapter={use="lora"}')
    assert result.exit_code == 0, result.output
    text = result.output
    order = [
        "a dry run of",
        "losses: dpotrain_losses()",
        "loss dpo of losses: __init__(beta=",
        "loss dpo of losses: check()",
        "model loader demo of demo: load_tokenizer()",
        "dataset source demo of demo: load('train')",
        "model loader demo of demo: blueprint(LoadRequest)",
        "adapter lora of lora: attach(LlamaForCausalLM)",
        "what a run calls besides:",
        "model loader demo of demo: load_model, open_model, fingerprint",
        "loss dpo of losses: __call__, parts, rewards, first_loss",
        'dpotrain_run_started: dataset source "demo" of plugin "demo" (dpotrain ',
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_with_format_auto_a_dry_run_shows_what_formatters_are_asked_and_what_the_picked_one_is():
    recipe = str(ROOT / "recipes" / "quickstart.toml")
    lines = dpotrain("plugins", "--trace", recipe).output.splitlines()
    told = [line.split(maxsplit=1)[1] for line in lines if "dataset formatter " in line]
    formatters = PluginManager.from_entry_points().names(DatasetFormatter)
    calls = [
        f"dataset formatter {name} of formatters: {method}"
        for name in formatters
        for method in ("__init__", "recognises", *(["format"] if name == "conversational" else []))
    ]
    assert [line.partition("(")[0] for line in told] == [
        *calls,
        "dataset formatter conversational of formatters: format",
    ]
    assert told[-1].endswith("format(WatchedRow), 20 times")


def test_a_run_with_format_auto_is_traced_the_same_way_and_its_formatter_stays_the_plugins(tmp_path):
    turns = (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))
    rows = [
        {name: [{"role": role, "content": pair[name]}] for name, role in turns} for pair in example_pairs()
    ]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_recipe("[training]\nsteps = 1", tmp_path, data=data)
    picked = {call.component for call in run.calls if call.method == "format"}
    assert picked == {"dataset formatter conversational"}, (
        "others do not recognise a row, and are not asked to read one"
    )
    assert {call.plugin for call in run.calls if call.method == "recognises"} == {"formatters"}
    assert run.outcome.status == "finished"


def test_a_formatter_that_raises_while_it_is_traced_is_named_as_ever(site):
    source = """
from dpotrain import hookimpl
from dpotrain_plugins.formatters.standard import StandardFormatter

class Faulty(StandardFormatter):
    name = "faulty"
    def recognises(self, row):
        raise KeyError("k")

@hookimpl
def dpotrain_dataset_formatters():
    return [Faulty]
"""
    install(site, "dpotrain-faulty", "2.0", faulty=source)
    result = dpotrain("plugins", "--trace", str(ROOT / "recipes" / "quickstart.toml"))
    assert result.exit_code == 1
    assert (
        'dataset formatter "faulty" of plugin "faulty" (dpotrain-faulty 2.0) raised in recognises'
        in result.stderr
    )


def test_a_trace_needs_a_recipe():
    result = dpotrain("plugins", "--trace")
    assert result.exit_code == 2
    assert "--trace needs a RECIPE" in result.stderr
