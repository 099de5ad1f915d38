"""Everything that is wrong is said at once: file, table, key, plugin, what was expected, and the nearest name."""

import pytest
from pydantic import Field

from dpotrain.core.errors import DataError, PluginError, RecipeError
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.load import load_recipe
from tests.plugin.fakes import (
    EVERYTHING,
    LOSS_MODULE,
    FakeFormatter,
    FakeLogger,
    FakeLoss,
    FakeSource,
    Offers,
    fake_plugin,
    install,
)
from tests.recipe.writing import MINIMAL, refused


def test_all_errors_come_at_once(plugins):
    text = """\
sede = 3
seed = "x"

[run]
output_dir = 3

[model]
use = "fake-model"
dtype = "float16"
trust_remote_code = "yes"

[quantizer]
use = "fake-4bit"
bits = 3

[adapter]
use = "fake-lora"
rnk = 8
alpha = 0

[data]
use = "fake-rows"
name = "d"
max_len = 5
count = 2.5
format = "fake-formt"
eval_split = "test"
eval_fraction = 0.1

[loss]
use = "fakedpo"

[trainin]
x = 1

[training]
pairs_per_step = "many"
tokens_per_microbatch = 0
steps = 1.5
lr = 1e-3
seed = 1
max_grad_norm = 0

[optimizer]
betas = [0.9]

[schedule]
use = "cosin"

[[loggers]]
project = 3

[[loggers]]
use = "fake-log"
token = 12345
nested.width = 0
nested.wdth = 3
"""
    assert (
        refused(text, plugins=plugins)
        == """\
r.toml: 28 errors
  seed: expected an integer >= 0 and < 4294967296, got "x"
  sede: there is no such key; did you mean "seed"?
  [trainin]: there is no such table; did you mean "training"?
  [run] output_dir: expected a path, got 3
  [data]: eval_split and eval_fraction exclude each other; keep one
  [training] lr: there is no such key; it belongs to [optimizer]
  [training] seed: there is no such key; seed belongs at the top of the recipe, before any table
  [training] steps: expected an integer >= 1 or false, got 1.5
  [training] pairs_per_step: expected an integer >= 1, got "many"
  [training] tokens_per_microbatch: expected an integer >= 1 or "auto", got 0
  [training] max_grad_norm: expected a number > 0 or false, got 0
  [model] name: missing; fake-model (registered by hand) expects text
  [model] dtype: fake-model (registered by hand) expects "float32" or "bfloat16", got "float16"
  [model] trust_remote_code: fake-model (registered by hand) expects true or false, got "yes"
  [quantizer] bits: fake-4bit (registered by hand) has no option "bits"
  [adapter] rnk: fake-lora (registered by hand) has no option "rnk"; did you mean "rank"?
  [adapter] alpha: fake-lora (registered by hand) expects a number > 0, got 0
  [data] max_len: fake-rows (registered by hand) has no option "max_len"; did you mean "max_length"?
  [data] count: fake-rows (registered by hand) expects an integer >= 1, got 2.5
  [data] format: there is no dataset formatter "fake-formt"; did you mean "fake-format"?
  [loss] use: there is no loss "fakedpo"; did you mean "fake-dpo"?
  [optimizer] lr: missing; adamw (registered by hand) expects a number > 0
  [optimizer] betas.1: missing; adamw (registered by hand) expects a number
  [schedule] use: there is no schedule "cosin"; did you mean "cosine"?
  [loggers.0] use: missing; use picks the logger: "fake-log"
  [loggers.1] token: fake-log (registered by hand) expects a secret text or false, got something else
  [loggers.1] nested.width: fake-log (registered by hand) expects an integer >= 1, got 0
  [loggers.1] nested.wdth: fake-log (registered by hand) has no option "wdth"; did you mean "width"?"""
    )


def test_the_plugin_that_owns_a_table_is_named_with_its_version(site, plugins):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    manager = PluginManager.from_entry_points(extra=[fake_plugin(beside_built_ins=True)])
    text = MINIMAL.replace('use = "fake-dpo"', 'use = "mypo"\nbta = 1')
    assert refused(text, plugins=manager) == (
        'r.toml: 1 error\n  [loss] bta: mypo (dpotrain-mypo 0.3) has no option "bta"; did you mean "beta"?'
    )


def test_each_error_names_the_file_that_the_key_came_from(plugins, folder):
    (folder / "far").mkdir()
    (folder / "far" / "first.toml").write_text(
        MINIMAL.replace('"fake-dpo"', '"fake-dpo"\nbta = 1') + '[adapter]\nuse = "fake-lora"\nrank = 0\n'
    )
    (folder / "second.toml").write_text(
        'extends = "far/first.toml"\n[training]\nepochs = 0\n[adapter]\nalpha = "a"\n'
    )
    text = refused('extends = "second.toml"\n[logging]\nevery = 0\n', "data.limit=0", plugins=plugins)
    assert (
        text
        == """\
--set: 1 error
  [data] limit: expected an integer >= 1 or false, got 0
second.toml: 2 errors
  [training] epochs: expected an integer >= 1, got 0
  [adapter] alpha: fake-lora (registered by hand) expects a number > 0, got "a"
r.toml: 1 error
  [logging] every: expected an integer >= 1, got 0
far/first.toml: 2 errors
  [adapter] rank: fake-lora (registered by hand) expects an integer >= 1, got 0
  [loss] bta: fake-dpo (registered by hand) has no option "bta"; did you mean "beta"?"""
    )


def test_missing_tables_say_what_there_is(plugins):
    assert (
        refused("", plugins=plugins)
        == """\
r.toml: 5 errors
  [run] output_dir: missing; expected a path
  [model]: missing; use picks the model loader: "fake-model"
  [data]: missing; use picks the dataset source: "fake-rows", "other-rows"
  [loss]: missing; use picks the loss: "fake-dpo", "fake-ipo"
  [optimizer] lr: missing; adamw (registered by hand) expects a number > 0"""
    )


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("training=3", "[training]: expected a table [training]"),
        ("data=3", "[data]: expected a table [data]"),
        ("model=false", "[model]: expected a table [model]"),
        ("adapter=true", "[adapter]: expected a table [adapter], or false for none"),
        ("loggers=3", "[loggers]: expected tables that each begin with [[loggers]]"),
        ("loggers={use='fake-log'}", "[loggers]: expected tables that each begin with [[loggers]]"),
        ("loggers=[3]", "[loggers]: expected tables that each begin with [[loggers]]"),
        ("loss.use=3", '[loss] use: expected a name in quotes; use picks the loss: "fake-dpo", "fake-ipo"'),
        ("data.format=3", "[data] format: expected text or a table, got 3"),
        ("data.columns.prompt=3", "[data] columns.prompt: expected text, got 3"),
        (
            "optimizer.betas=[0.9, 'x']",
            '[optimizer] betas.1: adamw (registered by hand) expects a number, got "x"',
        ),
        ("optimizer.lr='1'", '[optimizer] lr: adamw (registered by hand) expects a number > 0, got "1"'),
        ("optimizer.lr=true", "[optimizer] lr: adamw (registered by hand) expects a number > 0, got true"),
        ("data.shuffle=1", "[data] shuffle: expected true or false, got 1"),
        (
            "schedule.warmup_fraction=1",
            "[schedule] warmup_fraction: cosine (registered by hand) expects a number >= 0 and < 1, got 1",
        ),
    ],
)
def test_a_value_of_another_type_says_what_was_expected(plugins, override, text):
    assert refused(MINIMAL, override, plugins=plugins) == f"--set: 1 error\n  {text}"


def test_quantized_weights_without_an_adapter_are_refused_with_the_two_ways_out(plugins):
    assert (
        refused(MINIMAL + '[quantizer]\nuse = "fake-4bit"\n', plugins=plugins)
        == """\
r.toml: 1 error
  [quantizer]: fake-4bit weights cannot be trained themselves, and there is no [adapter] to train beside them
    either add an [adapter], or remove [quantizer] (quantizer = false) to train all weights"""
    )


def test_a_reference_cannot_move_where_the_loss_needs_none(plugins, monkeypatch):
    monkeypatch.setattr(FakeLoss, "needs_reference", False)
    text = refused(MINIMAL + "[reference]\nupdate = { every = 2, share = 0.5 }\n", plugins=plugins)
    assert (
        text
        == f"r.toml: 1 error\n  [reference]: loss {FakeLoss.name} needs no reference; leave the table out"
    )


@pytest.mark.parametrize(
    ("update", "text"),
    [
        ("{ every = 2 }", "update.share: missing; expected a number > 0 and <= 1"),
        ("{ every = 0, share = 0.5 }", "update.every: expected an integer >= 1, got 0"),
        ("{ every = 2, share = 1.5 }", "update.share: expected a number > 0 and <= 1, got 1.5"),
        ("{ every = 2, share = 0.5, ever = 1 }", 'update.ever: there is no such key; did you mean "every"?'),
        ("true", "update: expected a table or false, got true"),
    ],
)
def test_how_a_reference_moves_is_a_table_of_both(update, text, plugins):
    assert text in refused(MINIMAL + f"[reference]\nupdate = {update}\n", plugins=plugins)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            "max_length = 64\nmax_prompt_length = 64",
            "[data]: max_prompt_length = 64 must be less than max_length = 64, which bounds prompt + completion",
        ),
        ("max_prompt_length = 0", "[data] max_prompt_length: expected an integer >= 1 or false, got 0"),
        ('truncation = "middle"', '[data] truncation: expected "end", "start" or "drop", got "middle"'),
        (
            "template_arguments = { tools = [] }",
            "[data] template_arguments: tools: every pair has its own; remove it",
        ),
        ("template_arguments = true", "[data] template_arguments: expected a table, got true"),
    ],
)
def test_lengths_and_template_arguments_of_a_recipe_are_checked(keys, text, plugins):
    assert text in refused(MINIMAL.replace('name = "d"', f'name = "d"\n{keys}'), plugins=plugins)


def test_what_components_know_to_be_wrong_is_collected_in_their_words(plugins, monkeypatch):
    def fail(error):
        def check(self):
            raise error

        return check

    monkeypatch.setattr(FakeLoss, "check", fail(RecipeError("beta is odd\ntake another")))
    monkeypatch.setattr(FakeSource, "check", fail(DataError("no such file")))
    monkeypatch.setattr(FakeLogger, "check", fail(KeyError("k")))
    text = refused(MINIMAL + '[[loggers]]\nuse = "fake-log"\n', plugins=plugins)
    assert text.startswith("""\
r.toml: 3 errors
  [data]: no such file
  [loss]: beta is odd
    take another
  [loggers.0]: logger "fake-log" of plugin "fakes" raised in check: KeyError: 'k' (""")


def test_it_is_a_data_error_where_nothing_but_the_data_is_wrong(plugins, monkeypatch):
    def check(self):
        raise DataError("no such file")

    monkeypatch.setattr(FakeSource, "check", check)
    refused(MINIMAL, plugins=plugins, kind=DataError)
    refused(MINIMAL, "training.epochs=0", plugins=plugins, kind=RecipeError)


def test_a_constructor_that_raises_is_a_fault_of_its_plugin(plugins, monkeypatch):
    def init(self, options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(FakeLoss, "__init__", init)
    text = refused(MINIMAL, plugins=plugins, kind=PluginError)
    line = (
        '[loss]: loss "fake-dpo" of plugin "fakes" raised in __init__: ZeroDivisionError: division by zero ('
    )
    assert line in text


def test_a_constructor_that_keeps_no_options_is_a_fault_of_its_plugin(plugins, monkeypatch):
    monkeypatch.setattr(FakeLoss, "__init__", lambda self, options: None)
    text = refused(MINIMAL, plugins=plugins, kind=PluginError)
    assert '[loss]: loss "fake-dpo" of plugin "fakes"' in text
    assert "__init__ does not call super().__init__(options)" in text


def test_a_format_that_needs_options_says_so_in_its_own_table():
    class Needy(FakeFormatter):
        name = "needy"

        class Options(FakeFormatter.Options):
            column: str = Field(description="A column.")

    manager = PluginManager.of(Offers("p", *EVERYTHING, Needy))
    assert refused(MINIMAL, "data.format=needy", plugins=manager) == (
        "--set: 1 error\n  [data.format] column: missing; needy (registered by hand) expects text"
    )


def test_a_secret_of_a_wrong_type_is_not_shown(plugins):
    text = refused(MINIMAL + '[[loggers]]\nuse = "fake-log"\ntoken = 918273\n', plugins=plugins)
    assert "token" in text
    assert "918273" not in text


def test_a_failed_plugin_is_an_error_only_where_the_recipe_needs_it(site):
    install(site, "dpotrain-broken", "1.0", broken="import no_such_module_at_all")
    manager = PluginManager.from_entry_points(extra=[fake_plugin(beside_built_ins=True)])
    (recipe_file := site.parent / "r.toml").write_text(MINIMAL)
    load_recipe(recipe_file, plugins=manager)
    text = refused(MINIMAL, "loss.use=mypo", plugins=manager)
    assert '[loss] use: there is no loss "mypo"' in text
    assert (
        '\n    plugin "broken" (dpotrain-broken 1.0), which may offer it, failed: ModuleNotFoundError' in text
    )


def test_two_plugins_of_one_name_stop_a_recipe_that_uses_it_until_one_is_blocked(site):
    install(site, "dpotrain-one", "1.0", one=LOSS_MODULE.format(name="mypo"))
    install(site, "dpotrain-two", "2.0", two=LOSS_MODULE.format(name="mypo"))
    manager = PluginManager.from_entry_points(extra=[fake_plugin(beside_built_ins=True)])
    text = (
        'r.toml: 1 error\n  [loss] use: loss "mypo" is offered by plugin "one" (dpotrain-one 1.0) and plugin "two" '
        '(dpotrain-two 2.0); block = ["two"] leaves one of them out'
    )
    (site.parent / "r.toml").write_text(MINIMAL)
    assert load_recipe(site.parent / "r.toml", plugins=manager).loss.name == "fake-dpo"
    assert refused(MINIMAL.replace("fake-dpo", "mypo"), plugins=manager) == text
    (site.parent / "r.toml").write_text('block = ["two"]\n' + MINIMAL.replace("fake-dpo", "mypo"))
    recipe = load_recipe("r.toml", plugins=manager)
    assert type(recipe.loss).__module__ == "dpotrain_one_one"
    assert {info.name: info.status for info in recipe.plugins.infos(recipe)}["two"] == "blocked"
    assert recipe.document["block"] == ["two"]


def test_two_formatters_of_one_name_stop_a_recipe_that_asks_all_of_them():
    class Twin(FakeFormatter):
        pass

    class Other(FakeFormatter):
        name = "other"

    manager = PluginManager.of(fake_plugin(), Offers("twin", Twin, Other))
    text = refused(MINIMAL, plugins=manager)
    assert '[data] format: dataset formatter "fake-format" is offered by' in text
    assert load_recipe("r.toml", {"data.format": "other"}, plugins=manager).formatter.name == "other"


def test_without_plugins_the_installed_ones_are_taken_and_blocked_ones_not_imported(site):
    install(site, "dpotrain-mypo", "0.3", mypo="raise SystemExit('must not be imported')")
    text = 'block = ["mypo"]\n' + MINIMAL
    message = refused(text, plugins=None)
    assert 'plugin "mypo" (dpotrain-mypo 0.3), which may offer it, is blocked' in message
    assert "must not be imported" not in message


def test_blocking_what_is_not_there_is_an_error(plugins):
    assert refused(MINIMAL, 'block=["fake"]', plugins=plugins) == (
        '--set: 1 error\n  block: no plugin or distribution is called "fake"; did you mean "fakes"?'
    )


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        (
            "dpotrain-mypo>=0.4",
            'dpotrain-mypo 0.3 is installed, not >=0.4; pip install "dpotrain-mypo>=0.4"',
        ),
        ("dpotrain-none>=0.2", 'dpotrain-none is not installed; pip install "dpotrain-none>=0.2"'),
        ("dpotrain-none", 'dpotrain-none is not installed; pip install "dpotrain-none"'),
        ("mypo >> 3", '"mypo >> 3" is not a requirement as pip takes it ("dpotrain-foo>=0.2"): '),
    ],
)
def test_a_requirement_that_is_not_met_says_what_to_do(site, plugins, requirement, text):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    assert f"\n  requires: {text}" in refused(f'requires = ["{requirement}"]\n' + MINIMAL, plugins=plugins)


def test_a_requirement_that_is_met_is_kept_and_makes_its_plugins_active(site):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    manager = PluginManager.from_entry_points(extra=[fake_plugin(beside_built_ins=True)])
    (site.parent / "r.toml").write_text('requires = ["dpotrain_mypo>=0.2", "dpotrain"]\n' + MINIMAL)
    recipe = load_recipe("r.toml", plugins=manager)
    assert recipe.document["requires"] == ["dpotrain_mypo>=0.2", "dpotrain"]
    assert {info.name: info.status for info in recipe.plugins.infos(recipe)}["mypo"] == "active"


def test_a_required_plugin_that_failed_is_an_error(site):
    install(site, "dpotrain-broken", "1.0", broken="import no_such_module_at_all")
    manager = PluginManager.from_entry_points(extra=[fake_plugin(beside_built_ins=True)])
    text = refused('requires = ["dpotrain-broken"]\n' + MINIMAL, plugins=manager)
    assert 'requires: plugin "broken" (dpotrain-broken 1.0) failed: ModuleNotFoundError' in text


def test_a_required_plugin_that_is_blocked_is_an_error(site):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    manager = PluginManager.from_entry_points(extra=[fake_plugin(beside_built_ins=True)])
    text = refused('requires = ["dpotrain-mypo"]\nblock = ["mypo"]\n' + MINIMAL, plugins=manager)
    assert 'plugin "mypo" (dpotrain-mypo 0.3) is both required and blocked; keep one of the two' in text
