"""``[[data.sources]]``: several sources in the place of one, each with keys of its own beside its component's."""

import tomllib

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.document import dump_recipe
from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.schema import recipe_schema
from tests.plugin.fakes import EVERYTHING, FakeFormatter, FakeSource, Offers
from tests.recipe.mini_schema import valid

PLUGINS = PluginManager.of(Offers("fakes", *EVERYTHING))

TABLES = """
[run]
output_dir = "runs/x"
[model]
use = "fake-model"
name = "m"
[loss]
use = "fake-dpo"
[optimizer]
lr = 1e-3
[data]
max_length = 77
columns = {{ chosen = "better" }}
{data}
"""

SOURCES = """
[[data.sources]]
use = "fake-rows"
name = "org/first.part-1"
weight = 2
[[data.sources]]
use = "fake-rows"
name = "folder/second.jsonl.gz"
split = "all"
eval_split = "some"
columns = { prompt = "question" }
ignore_columns = ["gold"]
format = "fake-format"
pairs = 100
repeat = true
[[data.sources]]
source = { use = "fake-rows", name = "*.jsonl" }
format = { use = "fake-format", strip = false }
"""


def load(tmp_path, data=SOURCES, *overrides):
    path = tmp_path / "recipe.toml"
    path.write_text(TABLES.format(data=data))
    return load_recipe(path, overrides, plugins=PLUGINS)


def test_each_source_has_its_component_and_what_is_shared(tmp_path):
    recipe = load(tmp_path)
    first, second, third = recipe.data_sets
    assert [type(each) for each in recipe.sources] == [FakeSource] * 3
    assert [each.label for each in recipe.data_sets] == ["first.part-1", "second", "fake-rows"]
    assert [each.source.options.name for each in recipe.data_sets][1] == "folder/second.jsonl.gz"
    assert (first.train_split, first.eval_split, dict(first.columns)) == ("train", None, {"chosen": "better"})
    assert (second.train_split, second.eval_split) == ("all", "some")
    assert dict(second.columns) == {"chosen": "better", "prompt": "question"}
    assert (second.ignore_columns, second.amount.pairs, second.amount.repeat) == (("gold",), 100, True)
    assert (first.formatter, type(second.formatter)) == (None, FakeFormatter)
    assert (second.formatter.options.strip, third.formatter.options.strip) == (True, False)
    assert recipe.formatter is None
    assert [part for part in recipe.components if isinstance(part, FakeSource)] == [*recipe.sources]
    assert recipe.data.has_evaluation_set


def test_a_shared_format_is_that_of_sources_without_one(tmp_path):
    recipe = load(tmp_path, f'format = "fake-format"\n{SOURCES}', "data.sources.1.format=auto")
    first, second, third = recipe.data_sets
    assert (first.formatter, second.formatter) == (recipe.formatter, None)
    assert third.formatter is not recipe.formatter


def test_the_resolved_recipe_is_read_as_the_same(tmp_path):
    recipe = load(tmp_path, f'format = "fake-format"\n{SOURCES}')
    (tmp_path / "again.toml").write_text(dump_recipe(recipe))
    again = load_recipe(tmp_path / "again.toml", plugins=PLUGINS)
    assert again.document == recipe.document
    tables = tomllib.loads(dump_recipe(recipe))["data"]
    assert "use" not in tables
    assert [each["use"] for each in tables["sources"]] == ["fake-rows"] * 3


def test_an_extending_recipe_replaces_one_source_by_several_and_back(tmp_path):
    one = TABLES.format(data='use = "fake-rows"\nname = "d"\nlimit = 5')
    (tmp_path / "one.toml").write_text(one)
    (tmp_path / "several.toml").write_text(f'extends = "one.toml"\n{SOURCES}')
    (tmp_path / "back.toml").write_text('extends = "several.toml"\n[data]\nuse = "fake-rows"\nname = "e"')
    several = load_recipe(tmp_path / "several.toml", plugins=PLUGINS)
    assert ([each.label for each in several.data_sets], several.data.limit) == (
        ["first.part-1", "second", "fake-rows"],
        5,
    )
    (back,) = load_recipe(tmp_path / "back.toml", plugins=PLUGINS).data_sets
    assert (back.source.options.name, back.label, back.amount) == ("e", "", None)


def test_a_source_has_template_arguments_of_its_own(tmp_path):
    own = "data.sources.1.template_arguments.enable_thinking=false"
    recipe = load(tmp_path, SOURCES, "data.template_arguments.mood=calm", own)
    assert [dict(each.template_arguments) for each in recipe.data_sets] == [
        {},
        {"enable_thinking": False},
        {},
    ]
    assert recipe.data.template_arguments == {"mood": "calm"}
    with pytest.raises(RecipeError, match=r"sources\.1\.template_arguments: tools: every pair has its own"):
        load(tmp_path, SOURCES, "data.sources.1.template_arguments.tools=[]")


def test_overrides_reach_a_source(tmp_path):
    recipe = load(tmp_path, SOURCES, "data.sources.0.weight=false", "data.sources.0.fraction=0.5")
    assert (recipe.data.sources[0].weight, recipe.data.sources[0].fraction) == (None, 0.5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('use = "fake-rows"\n' + SOURCES, r"\[data\] use: each of \[\[data\.sources\]\] has a use of its own"),
        ('name = "d"\n' + SOURCES, r"\[data\] name: there is no such key for all sources; write it into the \[\[data"),
        ('[[data.sources]]\nuse = "fake-row"', r'\[data\.sources\.0\] use: .*did you mean "fake-rows"'),
        ('[[data.sources]]\nuse = "fake-rows"\nname = "d"\nweigth = 1', r'weigth.*did you mean "weight"'),
        ('[[data.sources]]\nuse = "fake-rows"', r"\[data\.sources\.0\] name: missing"),
        (
            '[[data.sources]]\nuse = "fake-rows"\nname = "d"\nweight = 1\npairs = 2',
            r"pairs and weight exclude each other",
        ),
        ('[[data.sources]]\nuse = "fake-rows"\nname = "d"\nrepeat = true', r"repeat has no effect without"),
        ('[[data.sources]]\nuse = "fake-rows"\nname = "d"\nfraction = 1.5', r"needs repeat = true"),
        ('[[data.sources]]\nuse = "fake-rows"\nname = "d"\nlabel = "a/b"', r"label: expected text that matches"),
        (2 * '[[data.sources]]\nuse = "fake-rows"\nname = "d"\n', r'several sources are called "d"'),
        (
            '[[data.sources]]\nuse = "fake-rows"\nname = "d"\nformat = "nothing"',
            r'\[data\.sources\.0\.format\] use: there is no dataset formatter "nothing"',
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_is(tmp_path, data, message):
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, data)


def test_a_component_that_refuses_its_options_is_named_by_its_place(tmp_path):
    class Refusing(FakeSource):
        name = "refusing"

        def check(self):
            raise RecipeError("no")

    plugins = PluginManager.of(Offers("fakes", *EVERYTHING), Offers("mine", Refusing))
    path = tmp_path / "recipe.toml"
    path.write_text(TABLES.format(data=SOURCES.replace('"fake-rows"', '"refusing"', 1)))
    with pytest.raises(RecipeError, match=r"\[data\.sources\.0\]: no"):
        load_recipe(path, plugins=plugins)


def test_the_schema_takes_it_and_refuses_a_use_beside_it(tmp_path):
    schema = recipe_schema(PLUGINS)
    document = tomllib.loads(TABLES.format(data=SOURCES))
    assert valid(document, schema, schema)
    assert not valid(
        document | {"data": {**document["data"], "use": "fake-rows", "name": "d"}}, schema, schema
    )
    assert not valid(
        document | {"data": {**document["data"], "sources": [{"use": "fake-rows", "name": 3}]}},
        schema,
        schema,
    )
    assert not valid(document | {"data": {"max_length": 77}}, schema, schema)
