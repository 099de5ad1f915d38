"""Kinds of component that plugins declare: other plugins serve them, and recipes select them like the core's."""

import json
import re
from abc import abstractmethod
from types import SimpleNamespace

import pytest
from pydantic import Field, SecretStr

from dpotrain import hookimpl
from dpotrain.core.errors import RecipeError
from dpotrain.plugin.api import Callback, Component, Kind, Loss, Use, hookspec
from dpotrain.plugin.describe.options import example_table
from dpotrain.plugin.describe.page import pages
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.document import dump_recipe
from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.schema import recipe_schema
from dpotrain.recipe.sections.catalogue import CORE_SECTIONS
from dpotrain.recipe.sections.run import TopLevel
from dpotrain.ui.plugin_page import page_text
from dpotrain.ui.plugins_table import offers
from tests.plugin.fakes import Offers
from tests.run.recipes import losses, project, run


class Judge(Component):
    """Prefers one of two answers."""

    kind = "judge"

    @abstractmethod
    def prefers(self, first: str, second: str) -> float: ...


@hookspec
def dpotrain_judges():
    """Offer judges."""


KIND = Kind(Judge, dpotrain_judges, "judges", "listed", changes_steps=False, on_every_process=False)


class Judging:
    """The plugin that declares the kind, and asks the judges after every evaluation."""

    name = "judging"

    @hookimpl
    def dpotrain_kinds(self):
        return [KIND]

    @hookimpl
    def dpotrain_evaluated(self, run):
        for judge in run.all_of(Judge):
            judged = [judge.prefers(pair.chosen, pair.rejected) for pair in run.held_out()]
            run.log(**{f"judged/{judge.name}": sum(judged) / len(judged)})


class Longer(Judge):
    """Prefers the longer answer."""

    name = "longer"

    class Options(Judge.Options):
        by: int = Field(0, ge=0, description="Characters that it must be longer.")
        token: SecretStr | None = Field(None, description="Of no use here.")

    def prefers(self, first, second):
        return float(len(first) > len(second) + self.options.by)

    @hookimpl
    def dpotrain_run_finished(self, run):
        run.report("longer", {"by": self.options.by})


class Serving:
    """Another plugin, which offers a judge."""

    name = "serving"

    @hookimpl
    def dpotrain_judges(self):
        return [Longer]


class Panel(Callback):
    """Has judges among its options."""

    name = "panel"

    class Options(Callback.Options):
        of: list[Use[Judge]] = Field(description="Who judges.")

    @hookimpl
    def dpotrain_run_finished(self, run):
        run.report("panel", {"judges": [judge.name for judge in self.options.of]})


@pytest.fixture(scope="module")
def plugins():
    return PluginManager.from_entry_points(extra=[Judging(), Serving(), Offers("panels", Panel)])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return project(tmp_path_factory.mktemp("judges"))


JUDGES = 'judges=[{use="longer", by=2, token="hush"}]'


def read(recipe, plugins, *overrides):
    return load_recipe(recipe, overrides, plugins=plugins)


def test_a_run_has_the_components_and_their_events(recipe, plugins, tmp_path):
    run(
        recipe,
        JUDGES,
        'callbacks=[{use="panel", of=["longer"]}]',
        "training.steps=1",
        into=tmp_path,
        plugins=plugins,
    )
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all("judged/longer" in record for record in records if record["kind"] == "eval")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["longer"] == {
        "by": 2
    }  # tables of declared kinds come after the core's, and so do their events
    assert summary["panel"] == {"judges": ["longer"]}
    environment = json.loads((tmp_path / "environment.json").read_text())
    active = {each["name"]: each["selected"] for each in environment["plugins"]}
    assert active["judging"] == []  # active, since a component of its kind is selected
    assert "judge longer" in active["serving"]
    assert "hush" not in (tmp_path / "recipe.toml").read_text()


@pytest.mark.parametrize("name", ["judging", "judge", "judges"])
def test_the_page_of_its_plugin_describes_the_kind(plugins, name):
    (page,) = pages(plugins, {}, name)
    assert page.as_json()["declared_kinds"] == (
        {
            "kind": "judge",
            "about": "Prefers one of two answers.",
            "table": "[[judges]]",
            "selected": "as often as wanted",
            "hook": "dpotrain_judges",
            "component": f"{__name__}.Judge",
            "components": ("longer (serving)",),
        },
    )
    assert page_text(page).partition("\n\n")[2] == (
        'kind "judge"\n'
        "  Prefers one of two answers.\n"
        "\n"
        "  in a recipe   [[judges]], as often as wanted\n"
        "  hook          dpotrain_judges\n"
        f"  class         {__name__}.Judge\n"
        "  offered       longer (serving)"
    )


def test_the_recipe_s_own_forms_hold_them(recipe, plugins, tmp_path):
    found = read(recipe, plugins, JUDGES)
    (judge,) = found.all_of(Judge)
    assert judge.options.by == 2
    path = tmp_path / "again.toml"
    path.write_text(dump_recipe(found))
    assert "[[judges]]" in path.read_text()
    assert load_recipe(path, plugins=plugins).document == found.document
    assert read(recipe, plugins, "judges.0.use=longer", "judges.0.by=4").all_of(Judge)[0].options.by == 4


def test_schema_listing_and_paste_know_the_kind(plugins):
    properties = recipe_schema(plugins)["else"]["properties"]
    (choice,) = properties["judges"]["items"]["oneOf"]
    assert choice["properties"]["use"]["const"] == "longer"
    infos = {info.name: info for info in plugins.infos()}
    assert "kinds: judge" in offers(infos["judging"])
    assert offers(infos["serving"]) == ["judges: longer", "subscribes: run_finished"]
    assert example_table(Longer).startswith('[[judges]]\nuse = "longer"')


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('judges=[{use="longr"}]', r'\[judges.0\] use: there is no judge "longr"; did you mean "longer"\?'),
        ('judges=[{use="longer", bi=1}]', r'longer \(registered by hand\) has no option "bi"; there are by, token'),
        ('judges={use="longer"}', r"expected tables that each begin with \[\[judges\]\]"),
        ('judgs=[{use="longer"}]', r'\[judgs\]: there is no such table; did you mean "judges"\?'),
        ('callbacks=[{use="panel", of=["x"]}]', r'there is no judge "x"'),
    ],
)  # fmt: skip
def test_errors_have_the_address_and_the_known_names(recipe, plugins, override, message):
    with pytest.raises(RecipeError, match=message):
        read(recipe, plugins, override)


def test_without_the_plugin_that_declares_it_the_table_does_not_exist(recipe, plugins):
    with pytest.raises(RecipeError) as caught:
        read(recipe, plugins, JUDGES, 'block=["judging"]')
    assert "[judges]: there is no such table" in str(caught.value)
    assert 'plugin "judging", which may declare it, is blocked' in str(caught.value)
    alone = PluginManager.of(Serving())
    assert alone.failed[0].reason.startswith('there is no hook "dpotrain_judges"')
    assert (
        "or the plugin that declares it is not installed, has failed or is blocked" in alone.failed[0].reason
    )


def test_a_resumed_run_may_have_others_where_no_step_depends_on_them(recipe, plugins, tmp_path):
    run(recipe, JUDGES, "training.steps=1", into=tmp_path, plugins=plugins)
    run(recipe, "training.steps=2", 'schedule.use="constant"', into=tmp_path / "b", plugins=plugins)
    run(recipe, "training.steps=2", "judges=[]", into=tmp_path, plugins=plugins, resume=True)
    assert len(losses(tmp_path)) == 2


def declaring(*kinds):
    return hookimpl(specname="dpotrain_kinds")(lambda: kinds[0] if len(kinds) == 1 else list(kinds))


def made(table="judges", selected="listed", default=None, words="judge", hook=dpotrain_judges):
    kind = type("Judge", (Component,), {"kind": words} if words else {})
    return Kind(kind, hook, table, selected, default)


@hookspec
def dpotrain_losses():
    """Has the name of one of the core's hooks."""


@hookspec
def dpotrain_takes(run):
    """Takes an argument."""


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (3, "dpotrain_kinds must return a list of kinds, not 3"),
        ([Loss], r"dpotrain_kinds must return Kind\(…\) objects"),
        ([made(words="")], 'Judge needs its kind in words, such as kind = "judge"'),
        ([made(hook=len)], "its hook must be a function with @hookspec, called dpotrain_…"),
        ([made(hook=dpotrain_takes)], "the hook dpotrain_takes must take no arguments"),
        ([made(table="My judges")], '"My judges" cannot be a table; use small letters'),
        ([made(selected="required")], 'selected must be "listed" or "optional"'),
        ([made(selected="optional", default="x")], "without a default_use"),
        ([made(table="loss")], r"the table \[loss\] is dpotrain's already; choose another name"),
        ([made(words="loss")], 'the kind "loss" is dpotrain\'s already'),
        ([made(hook=dpotrain_losses)], "the hook dpotrain_losses is dpotrain's already"),
        ([made(), made()], r"the table \[judges\] is plugin .* already"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_refused_and_nothing_else(declared, reason):
    module = SimpleNamespace(dpotrain_kinds=declaring(declared))
    manager = PluginManager.of(module, Offers("fine", Panel))
    (failed,) = manager.failed
    assert re.search(reason, failed.reason), failed.reason
    assert manager.names(Callback) == ["panel"]


@pytest.mark.parametrize("table", sorted({*TopLevel.model_fields, *CORE_SECTIONS, "extends"} - {"data"}))
def test_a_name_of_the_core_s_own_is_refused(table):
    (failed,) = PluginManager.of(SimpleNamespace(dpotrain_kinds=declaring([made(table=table)]))).failed
    assert f"[{table}]" in failed.reason


def test_two_plugins_that_declare_one_kind_are_told_apart():
    manager = PluginManager.of(Judging(), SimpleNamespace(name="other", dpotrain_kinds=declaring([made()])))
    (failed,) = manager.failed
    assert failed.name == "other"
    assert 'the table [judges] is plugin "judging"\'s already' in failed.reason
