"""``--set``: what a value may be, where it goes, and what is refused."""

from pathlib import Path

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.overrides import override_layer
from tests.plugin.fakes import FakeIpo, FakeOptimizer, OtherOptimizer
from tests.recipe.writing import MINIMAL, load, refused

LOGGERS = '[[loggers]]\nuse = "fake-log"\nproject = "one"\n[[loggers]]\nuse = "fake-log"\nproject = "two"\n'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=1", 1),
        ("k = 1.5e-6", 1.5e-6),
        ("k=true", True),
        ("k=bf16", "bf16"),
        ("k=org/model-7b", "org/model-7b"),
        ("k=runs/a b=c", "runs/a b=c"),
        ("k='quoted # text'", "quoted # text"),
        ('k=""', ""),
        ("k=[1, 2]", [1, 2]),
        ('k={ use = "x" }', {"use": "x"}),
        ("k=a#b", "a#b"),
        ("k=2024-01-01x", "2024-01-01x"),
        ("k=1\nj=2", "1\nj=2"),
    ],
)
def test_a_value_is_toml_or_else_a_bare_word(text, value):
    assert override_layer([text]) == ("--set", {"k": value})


def test_a_key_may_have_quoted_parts():
    assert override_layer(["data.columns.\"a.b\" = 'c=d'"])[1] == {"data": {"columns": {"a.b": "c=d"}}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("training.epochs", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("a b=3", "expected KEY=VALUE"),
        ("k=", 'write "" for an empty text'),
        ("k=[1, 2", "the value is not TOML"),
        ("k='x", "the value is not TOML"),
    ],
)
def test_an_override_that_cannot_be_read_is_shown_with_the_reason(text, reason):
    with pytest.raises(RecipeError) as caught:
        override_layer([text])
    assert str(caught.value).startswith(f"--set {text}: ")
    assert reason in str(caught.value)


def test_a_value_and_a_table_of_one_name_exclude_each_other():
    with pytest.raises(RecipeError, match=r"--set a\.b=2: a is already set to a value"):
        override_layer(["a=1", "a.b=2"])


def test_the_last_of_two_overrides_holds(plugins):
    assert load(MINIMAL, "seed=1", "seed=2", plugins=plugins).seed == 2


def test_overrides_reach_tables_that_the_file_does_not_have(plugins):
    recipe = load(MINIMAL, "training.epochs=3", "adapter.use=fake-lora", "adapter.rank=2", plugins=plugins)
    assert (recipe.training.epochs, recipe.adapter.options.rank) == (3, 2)


def test_a_changed_use_begins_the_table_anew_whatever_the_order(plugins):
    text = MINIMAL.replace('"fake-dpo"', '"fake-dpo"\nlabel_smoothing = 0.1')
    recipe = load(text, "loss.beta=0.7", "loss.use=fake-ipo", plugins=plugins)
    assert recipe.loss.options == FakeIpo.Options(beta=0.7)


def test_another_optimizer_keeps_the_options_that_it_has_too(plugins):
    text = MINIMAL + "betas = [0.8, 0.9]\nweight_decay = 0.1\n"
    recipe = load(text, "optimizer.use=fake-sgd", "optimizer.momentum=0.5", plugins=plugins)
    assert recipe.optimizer.options == OtherOptimizer.Options(lr=1e-5, weight_decay=0.1, momentum=0.5)
    back = load(text, "optimizer.use=adamw", "optimizer.lr=2", plugins=plugins)
    assert back.optimizer.options == FakeOptimizer.Options(lr=2, betas=(0.8, 0.9), weight_decay=0.1)


def test_an_option_that_is_said_together_with_another_optimizer_must_be_one_of_its(plugins):
    assert refused(MINIMAL, "optimizer.use=fake-sgd", "optimizer.betas=[0.8, 0.9]", plugins=plugins) == (
        '--set: 1 error\n  [optimizer] betas: fake-sgd (registered by hand) has no option "betas"'
        "; there are lr, groups, weight_decay, momentum"
    )


def test_a_number_picks_a_logger_and_the_next_number_adds_one(plugins):
    recipe = load(
        MINIMAL + LOGGERS,
        "loggers.1.project=b",
        "loggers.2.use=fake-log",
        "loggers.2.project=c",
        plugins=plugins,
    )
    assert [logger.options.project for logger in recipe.loggers] == ["one", "b", "c"]
    assert len(load(MINIMAL, "loggers.0.use=fake-log", plugins=plugins).loggers) == 1
    assert load(MINIMAL + LOGGERS, "loggers=[]", plugins=plugins).loggers == ()


def test_a_number_beyond_the_list_is_refused(plugins):
    assert refused(MINIMAL + LOGGERS, "loggers.3.project=x", plugins=plugins) == (
        "--set: there is no loggers.3; loggers has 2 so far"
    )


def test_what_is_missing_is_missed_in_the_file_and_not_in_the_override(plugins):
    text = refused(MINIMAL.replace("lr = 1e-5", ""), "optimizer.weight_decay=0.1", plugins=plugins)
    assert text == (
        "r.toml: 1 error\n  [optimizer] lr: missing; adamw (registered by hand) expects a number > 0"
    )


def test_what_an_override_leaves_incomplete_is_missed_there(plugins):
    text = refused(MINIMAL, "model={use='fake-model'}", "training.epochs=0", plugins=plugins)
    assert text == "--set: 1 error\n  [training] epochs: expected an integer >= 1, got 0"
    text = refused(MINIMAL, "adapter.rank=3", plugins=plugins)
    assert text == '--set: 1 error\n  [adapter] use: missing; use picks the adapter: "fake-lora"'


def test_extends_cannot_be_overridden(plugins):
    assert refused(MINIMAL, "extends=base.toml", plugins=plugins).startswith("--set: extends: only a file")


def test_from_python_overrides_may_be_a_mapping(plugins):
    Path("r.toml").write_text(MINIMAL + LOGGERS + '[adapter]\nuse = "fake-lora"\n')
    overrides = {
        "run.output_dir": Path("elsewhere"),
        "training": {"epochs": 2},
        "adapter": None,
        "optimizer.betas": (0.9, 0.95),
        "loggers.0.project": "p",
    }
    recipe = load_recipe("r.toml", overrides, plugins=plugins)
    assert (recipe.run.output_dir, recipe.training.epochs) == (Path("elsewhere"), 2)
    assert recipe.adapter is None
    assert recipe.optimizer.options.betas == (0.9, 0.95)
    with pytest.raises(RecipeError, match=r"^overrides: 1 error\n  \[training\] epochs"):
        load_recipe("r.toml", {"training.epochs": 0}, plugins=plugins)
    with pytest.raises(RecipeError, match="not a dotted key"):
        load_recipe("r.toml", {"a b": 0}, plugins=plugins)
    with pytest.raises(TypeError):
        load_recipe("r.toml", "training.epochs=0", plugins=plugins)
