"""``dpotrain plugins show``: where a plugin comes from, its options, and a table that works when it is pasted."""

import json
import tomllib

import pytest

from dpotrain import load_recipe
from dpotrain.plugin.api import Component, DatasetFormatter, Logger
from dpotrain.plugin.describe.options import example_table, inline, options_of
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import EVERYTHING, FakeAdapter, FakeLoader, FakeLogger, fake_plugin, install
from tests.support import dpotrain

SOURCE = """
from pydantic import Field
from dpotrain import hookimpl
from dpotrain.plugin.api import Loss

dpotrain_interface = 1


class TheLoss(Loss):
    \"\"\"Prefers what is preferred.

    By a margin (Somebody 2030).
    \"\"\"

    name = "mypo"

    class Options(Loss.Options):
        gamma: float = Field(description="Target margin.", ge=0)
        length_cap: int | None = Field(None, description="Longest answer that counts.")

    def __call__(self, scores):
        raise NotImplementedError


@hookimpl
def dpotrain_losses():
    return [TheLoss]


@hookimpl
def dpotrain_step_ended(step):
    pass
"""


NESTED = """
from pydantic import BaseModel, Field
from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetSource, Exporter, Use

dpotrain_interface = 2


class Part(BaseModel):
    source: Use[DatasetSource] = Field(description="Where its rows come from.")
    weight: float = Field(1.0, gt=0, description="How often its rows are taken.")


class Cache(BaseModel):
    rows: int | None = Field(100, description="Rows that it holds.")
    below: list["Cache"] = Field([], description="Caches below it.")


class Mixture(DatasetSource):
    name = "mixture"

    class Options(DatasetSource.Options):
        parts: list[Part] = Field(description="What is mixed.")
        by_name: dict[str, Part] = Field({}, description="The same by name.")
        keep: Cache = Field(Cache(), description="What is kept.")
        other: Use[Exporter] | None = Field(None, description="An exporter.")

    def splits(self):
        return ["train"]

    def load(self, split):
        raise NotImplementedError


@hookimpl
def dpotrain_dataset_sources():
    return [Mixture]
"""


def shown(*words: str):
    return dpotrain("plugins", "show", *words)


@pytest.fixture
def mypo(site):
    install(site, "dpotrain-mypo", "0.3", simple=SOURCE)
    metadata = site / "dpotrain_mypo-0.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "License-Expression: MIT\n")
    return site


@pytest.mark.parametrize("name", ["simple", "mypo", "dpotrain-mypo", "DPOtrain_mypo"])
def test_a_page_is_found_by_plugin_distribution_or_component(mypo, name, snapshot):
    result = shown(name)
    assert result.exit_code == 0
    snapshot("plugins_show.txt", result.output.replace(str(mypo), "SITE"))


def test_json_has_the_whole_page(mypo):
    (page,) = json.loads(shown("mypo", "--json").output)
    assert (page["licence"], page["distribution"], page["version"]) == ("MIT", "dpotrain-mypo", "0.3")
    assert page["hooks"] == ["dpotrain_losses", "dpotrain_step_ended"]
    options = {option["name"]: option for option in page["components"][0]["options"]}
    assert options["gamma"] == {
        "name": "gamma",
        "takes": "a number >= 0",
        "default": "",
        "description": "Target margin.",
        "tables": [],
        "picks": [],
    }


def test_tables_in_options_are_shown_with_their_keys_and_what_is_picked_in_them(site, snapshot):
    install(site, "dpotrain-mixture", "1.0", mixture=NESTED)
    snapshot("plugins_show_nested.txt", shown("mixture").output.replace(str(site), "SITE"))
    (page,) = json.loads(shown("mixture", "--json").output)
    parts, by_name, keep, other = page["components"][0]["options"]
    assert [(table["at"], [key["name"] for key in table["options"]]) for table in parts["tables"]] == [
        ("parts[]", ["source", "weight"])
    ]
    source, weight = parts["tables"][0]["options"]
    assert {"hf-datasets", "demo", "mixture"} <= set(source["picks"])
    assert (weight["takes"], weight["default"]) == ("a number > 0", "1.0")
    assert [table["at"] for table in by_name["tables"] + keep["tables"]] == ["by_name.NAME", "keep"]
    assert keep["tables"][0]["options"][1]["tables"] == []
    assert "merge" in other["picks"]
    assert other["tables"] == []


def test_a_name_that_means_nothing_comes_with_the_nearest_one(mypo):
    result = shown("mypoo")
    assert result.exit_code == 2
    assert result.stderr == (
        'error: no plugin, distribution, component, kind or command is called "mypoo"; did you mean "mypo"?\n'
    )
    assert "; dpotrain plugins lists them" in shown("zzzzzz").stderr


def test_a_plugin_that_failed_is_shown_with_its_reason(site):
    install(site, "dpotrain-broken", "1.0", broken="import no_such_module_at_all")
    text = shown("broken").output
    assert "status        failed" in text
    assert "reason        ModuleNotFoundError: No module named 'no_such_module_at_all'" in text


def test_the_first_command_may_be_left_out_and_help_shows_them_all():
    for words in (["plugins"], ["plugins", "list"], ["plugins", "--debug", "list"]):
        assert "losses: dpo, ipo, hinge" in dpotrain(*words).output
    assert "show  Show one plugin" in dpotrain("plugins", "--help").output
    assert "NAME" in dpotrain("plugins", "show", "--help").output


@pytest.mark.parametrize("component", EVERYTHING, ids=lambda component: component.name)
def test_the_example_table_writes_the_defaults_out_and_is_taken_as_it_stands(component, tmp_path):
    """What is required is written out as a person would after reading the comment."""
    table = example_table(component)
    for option in options_of(component.Options):
        assert (f"# {option.name} = " in table) == (option.default in ("", "unset"))
    required = {"name": ("text", "x"), "lr": ("a number > 0", 0.5)}
    given = {}
    for key, (takes, value) in required.items():
        comment = f"# {key} =   # required: {takes}"
        if comment in table:
            table, given[key] = table.replace(comment, f"{key} = {inline(value)}"), value
    base = 'run.output_dir = "x"\noptimizer.lr = 1e-4\nmodel = {use = "fake-model", name = "m"}\n'
    base += (
        'data = {use = "fake-rows", name = "d"}\nloss = {use = "fake-dpo"}\nadapter = {use = "fake-lora"}\n'
    )
    (tmp_path / "base.toml").write_text(base)
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'extends = "base.toml"\n{table}\n')
    loaded = load_recipe(recipe, plugins=PluginManager.of(fake_plugin()))
    (chosen,) = (part for part in loaded.components if type(part) is component)
    defaults = component.Options.model_validate(given)
    assert chosen.options.model_dump() == defaults.model_dump()


def test_nothing_is_left_out_of_the_table_but_secrets_and_what_is_unset():
    table = tomllib.loads(example_table(FakeLogger))["loggers"][0]
    assert table == {"use": "fake-log", "project": "p", "nested": {"width": 3, "cap": 2.5}, "limit": 5}
    assert tomllib.loads(example_table(FakeAdapter))["adapter"]["targets"] == []
    assert "# name =   # required: text" in example_table(FakeLoader)


def test_every_built_in_component_has_a_page():
    manager = PluginManager.from_entry_points()
    components: list[type[Component]] = [c for plugin in manager.plugins for c in plugin.components]
    assert {Logger, DatasetFormatter} <= {base for c in components for base in c.__mro__}
    for component in components:
        tomllib.loads(example_table(component))
        assert all(option.description for option in options_of(component.Options))
