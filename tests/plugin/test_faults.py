"""Every method of every kind, with every fault that it can have: what a person sees is in the table of faults."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpotrain.core.errors import PluginError
from dpotrain.plugin.api import Component
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import CATALOGUES, KINDS, Kind
from dpotrain.plugin.runtime.failures import naming_components
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin import faults
from tests.plugin.fakes import DEMO_RECIPE, Offers, forget, install
from tests.plugin.faults import CASES, DROPPED, METHODS, REFUSED, Case, odd
from tests.support import dpotrain

MODULE = "dpotrain_odd_odd"


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    """Have a distribution dpotrain-odd, whose module each test puts into its place."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "dpotrain-odd", "1.0", odd="")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop(MODULE, None)
    forget(folder)


def offer(component: type[Component]) -> None:
    """Make it what the distribution offers."""
    module = types.ModuleType(MODULE)
    for hook, implementation in vars(Offers("odd", component)).items():
        if hook in CATALOGUES:
            setattr(module, hook, implementation)
    sys.modules[MODULE] = module


def settings(kind: Kind, more: tuple[str, ...]) -> list[str]:
    """Return the words of the command line that select the component."""
    tables = {
        "required": f'{kind.table}.use="odd"',
        "listed": f'{kind.table}=[{{use="odd"}}]',
        "key": f'{kind.table}="odd"',
    }
    chosen = [tables[kind.selected.replace("optional", "required")], "data.eval_fraction=0.25", *more]
    return [word for each in chosen for word in ("--set", each)]


def given(case: Case, folder: Path, *more: str):
    """Give the command that calls the method, and return its result."""
    recipe = folder / "r.toml"
    recipe.write_text(DEMO_RECIPE.format(folder=folder, loss="dpo"))
    words = settings(case.method.kind, (*case.method.settings, *more))
    if case.method.command != "resume":
        return dpotrain(case.method.command, str(recipe), *words)
    component = odd(case)
    works = type("Odd", (case.method.base,), {"name": "odd"})
    if case.method.name == "load_state_dict":
        works.state_dict = component.state_dict = lambda self: {"one": 1}
    offer(works)
    assert dpotrain("run", str(recipe), *words).exit_code == 0
    offer(component)
    return dpotrain("run", str(recipe), *words, "--set", "training.steps=2", "--resume")


def called(case: Case) -> SimpleNamespace:
    """Call the method itself, and return what the commands that do so show."""
    component = odd(case)
    offer(component)
    plugins = PluginManager.from_entry_points()
    part = component(component.Options())
    arguments = [{}] * (len(inspect.signature(getattr(case.method.base, case.method.name)).parameters) - 1)
    with (
        pytest.raises(PluginError) as caught,
        naming_components(SimpleNamespace(components=(part,), requires=()), plugins),  # type: ignore[arg-type]
    ):
        getattr(part, case.method.name)(*arguments)
    return SimpleNamespace(exit_code=1, stderr=f"error: {caught.value}", output=str(caught.value))


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.soak] * (not case.quick)) for case in CASES],
    ids=[case.id for case in CASES],
)
def test_what_comes_of_it(case: Case, tmp_path):
    offer(odd(case))
    faults.CALLED.clear()
    result = called(case) if case.method.command == "call" else given(case, tmp_path)
    assert case.method.name in faults.CALLED, "the method was not called, so nothing is shown"
    assert "unexpected error" not in result.output
    assert "Traceback" not in result.output
    label = f'{case.method.base.kind} "odd" of plugin "odd" (dpotrain-odd 1.0)'
    name = case.method.name
    if case.outcome == DROPPED:
        assert result.exit_code == 0
        (said,) = [line for line in result.output.splitlines() if "is dropped" in line]
        assert f"{label} is dropped: {name}" in said
        return
    assert result.exit_code == case.exit_code, result.output
    if case.outcome != REFUSED:
        assert "is dropped" not in result.output
        return
    said = result.stderr.partition("error: ")[2]
    if case.fault == faults.RAISES:
        assert f"{label} raised in {name}: OddError: no way … ({faults.__file__}:" in said
    else:
        assert f"{label}: {name} {'wrote no file' if name == 'save' else 'returned '}" in said
        assert re.search("it must|finite|no file", said), "what is due is not said"
    if name in ("recognises", "format"):
        assert "\nIt was given row 0." in said
    assert len(said.splitlines()) <= 8
    summary = tmp_path / "run" / "summary.json"
    if summary.exists() and name not in (
        "export",
        "dpotrain_run_finished",
    ):  # the run itself is finished by then
        assert label in json.loads(summary.read_text())["error"]


def test_every_method_and_property_of_every_kind_is_there():
    """Also what a kind inherits from Component, once; and the run events, of which every kind may hear."""
    known: dict[type[Component], set[str]] = {}
    for method in METHODS:
        known.setdefault(method.kind.component, set()).add(method.name)
    for kind in KINDS:
        own = {
            name
            for name, item in vars(kind.component).items()
            if (inspect.isfunction(item) or isinstance(item, property))
            and (not name.startswith("_") or name == "__call__")
            and not getattr(item, "__final__", False)
        }
        assert own <= known[kind.component], f"{kind.component.__name__}: {own - known[kind.component]}"
        assert known[kind.component] & set(EVENTS), f"{kind.component.__name__}: no run event"
    assert {"check", "state_dict", "load_state_dict"} <= set.union(*known.values())
    assert set(EVENTS) <= set.union(*known.values())


def test_every_case_is_of_another_fault():
    names = [case.id for case in CASES]
    assert len(names) == len(set(names))
