"""A recipe that is right, and what is constructed from it."""

from pathlib import Path

import pytest
from pydantic import Field

from dpotrain.plugin.api.dataset_source import CORE_KEYS
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.sections.data import DataSection
from tests.plugin.fakes import (
    EVERYTHING,
    FakeAdapter,
    FakeFormatter,
    FakeLoader,
    FakeLogger,
    FakeLoss,
    FakeSource,
    Offers,
)
from tests.recipe.writing import MINIMAL, load


def test_a_minimal_recipe_gets_every_default(plugins):
    recipe = load(MINIMAL, plugins=plugins)
    assert (recipe.seed, recipe.run.output_dir) == (42, Path("runs/x"))
    assert (recipe.training.pairs_per_step, recipe.optimizer.options.lr) == (64, 1e-5)
    assert type(recipe.model) is FakeLoader
    assert recipe.model.options.name == "m"
    assert type(recipe.sources[0]) is FakeSource
    assert type(recipe.loss) is FakeLoss
    assert (recipe.quantizer, recipe.adapter, recipe.formatter, recipe.loggers) == (None, None, None, ())
    assert recipe.path == Path("r.toml")
    assert recipe.components == (
        recipe.model,
        *recipe.sources,
        recipe.loss,
        recipe.optimizer,
        recipe.schedule,
    )


def test_data_is_shared_between_the_core_and_the_source(plugins):
    recipe = load(MINIMAL.replace('name = "d"', 'name = "d"\ncount = 3\nmax_length = 77'), plugins=plugins)
    assert recipe.sources[0].options == FakeSource.Options(name="d", count=3)
    assert recipe.data.max_length == 77


def test_plugins_know_the_keys_of_data_that_are_the_cores():
    assert set(DataSection.model_fields) == CORE_KEYS


@pytest.mark.parametrize("written", ['"fake-format"', '{ use = "fake-format" }'])
def test_a_format_is_a_name_or_a_table(plugins, written):
    recipe = load(MINIMAL.replace('name = "d"', f'name = "d"\nformat = {written}'), plugins=plugins)
    assert type(recipe.formatter) is FakeFormatter
    assert recipe.formatter.options.strip


def test_a_format_table_has_options(plugins):
    text = MINIMAL + '\n[data.format]\nuse = "fake-format"\nstrip = false\n'
    assert load(text, plugins=plugins).formatter.options.strip is False


def test_loggers_keep_their_order(plugins):
    text = MINIMAL + '\n[[loggers]]\nuse = "fake-log"\n\n[[loggers]]\nuse = "fake-log"\nproject = "q"\n'
    assert [logger.options.project for logger in load(text, plugins=plugins).loggers] == ["p", "q"]


def test_a_default_may_be_a_path(plugins):
    text = MINIMAL + '[[exporters]]\nuse = "fake-export"\n[[exporters]]\nuse = "fake-export"\nto = "y"\n'
    recipe = load(text, plugins=plugins)
    assert [exporter.options.to for exporter in recipe.exporters] == [Path("x"), Path("y")]
    assert recipe.document["exporters"][0] == {"use": "fake-export", "to": "x"}


def test_false_is_none_where_there_may_be_none(plugins):
    text = MINIMAL.replace('name = "m"', 'name = "m"\nrevision = false\ntrust_remote_code = false')
    text += '\n[training]\nmax_grad_norm = false\n[[loggers]]\nuse = "fake-log"\nlimit = false\nnested.cap = false\n'
    recipe = load(text, plugins=plugins)
    assert recipe.model.options.revision is None
    assert recipe.model.options.trust_remote_code is False
    assert recipe.training.max_grad_norm is None
    assert recipe.loggers[0].options.limit is None
    assert recipe.loggers[0].options.nested.cap is None


def test_an_option_is_read_under_its_alias():
    class Aliased(FakeLoss):
        name = "aliased"

        class Options(FakeLoss.Options):
            weight: float = Field(alias="lambda", description="A weight.")

    plugins = PluginManager.of(Offers("p", *EVERYTHING, Aliased))
    text = MINIMAL.replace('use = "fake-dpo"', 'use = "aliased"\nlambda = 2')
    assert load(text, plugins=plugins).loss.options.weight == 2


def test_a_quantizer_that_trains_its_weights_needs_no_adapter(plugins):
    recipe = load(MINIMAL + '\n[quantizer]\nuse = "fake-8bit"\n', plugins=plugins)
    assert recipe.quantizer.trains_all_weights


def test_an_integer_is_a_number_and_a_list_is_a_tuple(plugins):
    recipe = load(MINIMAL + '\n[adapter]\nuse = "fake-lora"\nalpha = 8\ntargets = ["q"]\n', plugins=plugins)
    assert recipe.adapter.options == FakeAdapter.Options(alpha=8.0, targets=("q",))


def test_the_active_plugins_are_those_that_the_recipe_selects(plugins):
    recipe = load(MINIMAL, plugins=plugins)
    assert [(info.name, info.status) for info in recipe.plugins.infos(recipe)] == [("fakes", "active")]
    assert recipe.plugins.infos()[0].status == "unused"


def test_components_are_constructed_and_checked(plugins, monkeypatch):
    checked = []
    for kind in (FakeLoader, FakeSource, FakeLoss, FakeLogger, FakeFormatter):
        monkeypatch.setattr(kind, "check", lambda self: checked.append(self.name))
    text = MINIMAL.replace('name = "d"', 'name = "d"\nformat = "fake-format"')
    load(text + '\n[[loggers]]\nuse = "fake-log"\n', plugins=plugins)
    assert checked == ["fake-model", "fake-rows", "fake-format", "fake-dpo", "fake-log"]
