"""What holds for components of every kind."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import pytest

from dpotrain.core.errors import DpotrainError
from dpotrain.plugin.api import Callback, Component, Loss, Metric, kind_of
from dpotrain.plugin.api.nested import has_nested
from dpotrain.plugin.describe.expected import Expectations
from dpotrain.plugin.describe.options import inline, table_of
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.plugin.runtime.plugin import Plugin
from dpotrain.testing.fixtures import RunRecipe
from dpotrain.testing.installed import why_not_offered
from dpotrain.testing.runs import FinishedRun, write_recipe
from dpotrain.testing.tiny import write_pairs

if TYPE_CHECKING:
    from dpotrain.recipe.recipe import Recipe

Table: TypeAlias = dict[str, Any]

#: Imports, constructs and checks a component.
_LIGHT = """
import importlib, sys
component = importlib.import_module(sys.argv[1])
for part in sys.argv[2].split("."):
    component = getattr(component, part)
from dpotrain.core.errors import DpotrainError
try:
    component(component.Options.model_validate_json(sys.argv[3])).check()
except DpotrainError:
    pass  # it may refuse this machine
"""

#: The same by a recipe, which takes longer, for a component that has components in its options.
_LIGHT_RECIPE = """
import sys
from dpotrain.core.errors import DpotrainError
from dpotrain.recipe.load import load_recipe
for part in load_recipe(sys.argv[3]).components:
    if (type(part).__module__, type(part).__qualname__) == (sys.argv[1], sys.argv[2]):
        try:
            part.check()
        except DpotrainError:
            pass  # it may refuse this machine
"""


def heavy_imports(script: str, *arguments: str) -> str:
    """Run a script in an interpreter of its own, and return the names of the heavy packages that it imported."""
    light = "\nimport sys\nfrom dpotrain.plugin.runtime.plugin import HEAVY\nprint(*sorted(HEAVY & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script + light, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class ComponentConformance:
    """The part that all suites share; subclass the suite of a kind."""

    component: ClassVar[type[Any]]
    """The class that the tests are about."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Keys of its recipe table: those that it cannot do without, and others than the defaults."""

    @pytest.fixture(autouse=True)
    def _installed(self, request: pytest.FixtureRequest) -> None:
        """Let one test fail where no installed plugin offers the component, since all others would for that reason."""
        if request.node.originalname != "test_an_installed_plugin_offers_it" and self._missing():
            pytest.skip("no installed plugin offers it: see test_an_installed_plugin_offers_it")

    def _missing(self) -> str:
        """Return why no installed plugin offers the component; "" where one does."""
        component: type[Component] = self.component
        return why_not_offered(component)

    @pytest.fixture
    def table(self) -> Table:
        """Return the keys of the recipe table; override it where they depend on a file."""
        return dict(self.options)

    @pytest.fixture
    def dpotrain_data(self, table: Table, dpotrain_model: Path, dpotrain_data: Path, tmp_path: Path) -> Path:
        """Return the file of the example pairs, with a number in each of the columns that the component asks for."""
        own = self.component
        if not issubclass(own, Loss | Metric | Callback) or not (own.columns or has_nested(own.Options)):
            return dpotrain_data
        from dpotrain.recipe.load import load_recipe

        place = tmp_path / "columns"
        recipe = load_recipe(
            write_recipe(self.recipe(table), place, model=dpotrain_model, data=dpotrain_data)
        )
        parts = [part for part in recipe.components if isinstance(part, Loss | Metric | Callback)]
        return write_pairs(place / "pairs.jsonl", columns=[name for part in parts for name in part.columns])

    @pytest.fixture
    def part(self, read: Callable[[str], Recipe], table: Table) -> Any:
        """Return the component, constructed as a recipe constructs it."""
        return self.selected(read(self.recipe(table)))

    @pytest.fixture
    def read(self, dpotrain_model: Path, dpotrain_data: Path, tmp_path: Path) -> Callable[[str], Recipe]:
        """Return what reads a recipe's text without running it."""
        from dpotrain.recipe.load import load_recipe

        def load(text: str) -> Recipe:
            path = write_recipe(text, tmp_path / "read", model=dpotrain_model, data=dpotrain_data)
            try:
                return load_recipe(path)
            except DpotrainError:
                self.plugin()  # a package that is not installed is reported as that
                raise

        return load

    def recipe(self, table: Mapping[str, Any]) -> str:
        """Return the TOML that selects the component with the keys of ``table``."""
        return table_of(self.component, [f"{key} = {inline(value)}" for key, value in table.items()])

    def selected(self, recipe: Recipe) -> Any:
        """Return the component in a recipe that selects it."""
        return next(part for part in recipe.components if isinstance(part, self.component))

    def plugin(self) -> Plugin:
        """Return the installed plugin that offers the component."""
        fault = self._missing()
        assert not fault, fault
        manager = PluginManager.from_entry_points()
        kind = kind_of(self.component).component
        found = [plugin for plugin in manager.plugins if self.component in plugin.components]
        assert manager.find(kind, self.component.name) is self.component
        return found[0]

    def test_an_installed_plugin_offers_it(self) -> None:
        """It is found by its entry point, fits this dpotrain, and there is nothing to say against it."""
        plugin = self.plugin()
        assert not plugin.failed, plugin.reason
        assert not plugin.notes, plugin.notes

    def test_its_options_survive_a_recipe(
        self, read: Callable[[str], Recipe], table: Table, tmp_path: Path
    ) -> None:
        """What the run folder's recipe.toml holds is read as the same options."""
        from dpotrain.recipe.document import dump_recipe, plain
        from dpotrain.recipe.load import load_recipe

        first = read(self.recipe(table))
        path = tmp_path / "resolved.toml"
        path.write_text(dump_recipe(first), encoding="utf-8")
        again = load_recipe(path)
        assert plain(self.selected(again).options) == plain(self.selected(first).options)
        assert again.document == first.document

    def test_wrong_options_are_answered_with_their_name_and_the_component_s(
        self, read: Callable[[str], Recipe], table: Table
    ) -> None:
        """A key that it does not have, and a value that no option takes."""
        owner = f"{self.component.name} ({self.plugin().origin})"
        with pytest.raises(DpotrainError) as caught:
            read(self.recipe({**table, "no_such_option": 1}))
        assert f'{owner} has no option "no_such_option"' in str(caught.value)
        expectations = Expectations(self.component.Options)
        for key in expectations.keys:
            if expectations.phrase((key,)) is None:
                continue  # it takes what cannot be said in words
            if self.component.Options.model_fields[key].annotation in (None, type(None)):
                continue  # it takes nothing, and says why
            with pytest.raises(DpotrainError) as caught:
                read(self.recipe({**table, key: [[[]]]}))
            assert key in str(caught.value)
            assert owner in str(caught.value)

    def test_reading_a_recipe_loads_nothing_heavy(
        self, read: Callable[[str], Recipe], part: Any, table: Table
    ) -> None:
        """Neither importing its module, nor constructing it, nor ``check()`` imports torch and the like."""
        module, name = self.component.__module__, self.component.__qualname__
        if has_nested(self.component.Options):
            heavy = heavy_imports(_LIGHT_RECIPE, module, name, str(read(self.recipe(table)).path))
        else:
            heavy = heavy_imports(_LIGHT, module, name, json.dumps(part.options.model_dump(mode="json")))
        assert not heavy, f"{module} loads {heavy}; import it inside methods"

    def short_run(self, dpotrain_run: RunRecipe, table: Table, folder: Path) -> FinishedRun:
        """Run two steps of the component's recipe on a tiny model; ``folder`` is for files that it needs."""
        return dpotrain_run(self.recipe(table), overrides=["training.steps=2"])

    def test_a_run_uses_it(self, dpotrain_run: RunRecipe, table: Table, tmp_path: Path) -> None:
        """Two steps on a tiny model end well, with numbers that are finite."""
        run = self.short_run(dpotrain_run, table, tmp_path)
        assert run.outcome.status == "finished"
        assert [record["step"] for record in run.train] == [1, 2]
        assert all(math.isfinite(record["loss"]) for record in run.metrics)
        assert "is dropped:" not in run.output
        kind = kind_of(self.component).component
        assert f"{kind.kind} {self.component.name}" in {call.component for call in run.calls}
