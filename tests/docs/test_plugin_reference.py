"""plugins/reference.md has everything that a plugin imports, and what it says of records and processes is so."""

import importlib
import inspect
import re
import warnings
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

from dpotrain import hookimpl, testing
from dpotrain.core.moved import MovedWarning
from dpotrain.core.own_metrics import OWN_METRICS
from dpotrain.plugin import api
from dpotrain.plugin.api import Callback
from dpotrain.plugin.api.hookspecs import EVENTS, HOOKS
from dpotrain.plugin.api.kinds import CATALOGUES, KINDS
from dpotrain.testing import dpotrain_data, dpotrain_model, dpotrain_run
from tests.docs.generated import ROOT
from tests.docs.interface_reference import EVERY, OTHER_ADDRESSES, WORKERS, events_of, where
from tests.plugin.fakes import Offers, install
from tests.plugin.test_moved import DOCUMENTED
from tests.run.recipes import project

__all__ = ["dpotrain_data", "dpotrain_model", "dpotrain_run"]

REFERENCE = (ROOT / "plugins" / "reference.md").read_text(encoding="utf-8")


def test_the_plugin_reference_has_every_hook_kind_method_and_option():
    assert all(f"#### `{hook}(" in REFERENCE for hook in HOOKS)
    for kind in CATALOGUES.values():
        part = REFERENCE.partition(f"\n### {kind.__name__}\n")[2].partition("\n### ")[0]
        assert part
        for method in kind.__abstractmethods__:
            assert re.search(rf"^#### `{method}[(:]", part, re.MULTILINE)
        assert all(f"| `{key}` |" in part for key in kind.Options.model_fields)


def test_the_plugin_reference_has_every_name_that_a_plugin_imports():
    headings = {
        re.match(r"\w+", heading)[0] for heading in re.findall(r"^#{3,4} `?(.*)$", REFERENCE, re.MULTILINE)
    }
    listed = set(re.findall(r"^\| `(\w+)` \|", REFERENCE.partition("## Errors")[2], re.MULTILINE))
    assert [name for name in api.__all__ if name not in headings | listed | {"Component", "Options"}] == []
    named = {name for names in OTHER_ADDRESSES.values() for name in names}
    assert [name for name in sorted(named) if name not in headings] == []
    assert [name for name in testing.__all__ if name not in headings | {"RunRecipe", "VerbConformance"}] == []


def test_the_plugin_reference_has_the_arguments_and_attributes_of_tests():
    for argument in inspect.signature(testing.run_recipe).parameters:
        assert f"- `{argument}`: " in REFERENCE
    for attribute in ("outcome", "metrics", "output", "calls", "train", "evaluations"):
        assert re.search(rf"^(- |##### )`{attribute}: ", REFERENCE, re.MULTILINE)
    for name in ("component", "options", "rows", "command", "wrong"):
        assert re.search(rf"^- `{name}: ClassVar", REFERENCE, re.MULTILINE)
    assert "- `table`: " in REFERENCE


def test_the_addresses_that_the_reference_names_are_kept():
    """Each is also among those that no later version may take away."""
    kept = {
        (module, name)
        for module, _, names in (line.partition(": ") for line in DOCUMENTED.strip().splitlines())
        for name in names.split()
    }
    named = {(module, name) for module, names in OTHER_ADDRESSES.items() for name in names}
    named |= {("dpotrain.plugin.api", name) for name in api.__all__}
    named |= {("dpotrain.testing", name) for name in testing.__all__}
    assert sorted(named - kept) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error", MovedWarning)
        for module, name in named:
            getattr(importlib.import_module(module), name)


class Steps(Callback):
    name = "steps"
    heard: ClassVar = []

    @hookimpl
    def dpotrain_step_ended(self, step):
        self.heard.append(step)


def test_records_of_a_run_have_the_numbers_that_the_reference_lists(dpotrain_run):
    run = dpotrain_run(
        '[[callbacks]]\nuse = "steps"', plugins=[Offers("mine", Steps)], overrides=["training.steps=1"]
    )
    always = {name: each for name, each in OWN_METRICS.items() if each.in_every_run}
    train = {name for name, each in always.items() if each.in_train}
    (record,) = run.train
    assert record.keys() == train | {"kind", "step"}
    assert Steps.heard[0].metrics.keys() == train - {"epoch"}
    evaluation = {name for name, each in always.items() if each.in_eval}
    assert run.evaluations[0].keys() == evaluation | {"kind", "step"}


def test_methods_and_run_events_are_called_on_the_processes_that_the_guide_names(forked, tmp_path):
    """A component of every kind writes down its calls in a run of two processes."""
    site = tmp_path / "site"
    site.mkdir()
    source = Path(__file__).with_name("spying.py").read_text(encoding="utf-8")
    install(site, "dpotrain-spy", "1.0", spy=source)
    recipe = project(tmp_path / "project")
    tables = re.sub(r'^(use|format) = ".*"$', r'\1 = "spy"', recipe.read_text(), flags=re.MULTILINE)
    tables = tables.replace("warmup_fraction = 0.2", "").replace("epochs = 2", "steps = 2")
    tables += "".join(f'[{name}]\nuse = "spy"\n' for name in ("quantizer", "adapter"))
    tables += "".join(f'[[{kind.table}]]\nuse = "spy"\n' for kind in KINDS if kind.selected == "listed")
    recipe.write_text(f"{tables}\n[checkpoints]\nevery = 1\n")
    calls = tmp_path / "calls.txt"
    ended = forked.ranks(recipe, path=[site], environment={"SPY": str(calls)}, resume=False)
    assert [each.code for each in ended] == [0, 0], ended[0].output

    ranks = defaultdict(set)
    for line in calls.read_text().splitlines():
        rank, owner, method = line.split()
        ranks[owner, method].add(rank)
    everywhere = {"0", "1"}
    for kind in KINDS:
        owner = kind.component.__name__
        heard = everywhere if events_of(kind) == EVERY else {"0"}
        for event in EVENTS:
            expected = {"0"} if event == "dpotrain_checkpoint_saved" else heard
            assert ranks.pop((owner, event)) == expected, (owner, event)
        found = {method: ranks.pop((of, method)) for of, method in list(ranks) if of == owner}
        assert {"__init__", "check", "state_dict"} <= found.keys()
        for method, called in found.items():
            place = where(kind.component, method)
            if place != WORKERS:  # of whichever process is the first to begin
                assert called == (everywhere if place == EVERY else {"0"}), (owner, method)
    assert all(ranks.pop(("module", event)) == {"0"} for event in EVENTS)
    assert not ranks
