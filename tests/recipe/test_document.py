"""The resolved recipe: complete, without secrets, and the same recipe when it is read again."""

import tomllib
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpotrain.recipe.document import dump_recipe
from dpotrain.recipe.load import load_recipe
from tests.recipe.writing import MINIMAL, load


def test_defaults_are_written_out_in_the_order_of_the_reference(plugins):
    recipe = load(MINIMAL + '[[loggers]]\nuse = "fake-log"\n', plugins=plugins)
    assert list(recipe.document) == [
        "seed", "run", "model", "data", "reference", "loss", "training", "parallel", "optimizer",
        "schedule", "evaluation", "checkpoints", "logging", "loggers",
    ]  # fmt: skip
    assert recipe.document["run"] == {"output_dir": "runs/x", "cache_dir": "auto"}
    assert recipe.document["loss"] == {
        "use": "fake-dpo",
        "beta": 0.1,
        "divergence": "reverse-kl",
        "tail_weight": 1.0,
        "label_smoothing": 0.0,
    }
    assert recipe.document["data"]["use"] == "fake-rows"
    assert recipe.document["data"]["max_length"] == 1024
    assert recipe.document["loggers"] == [
        {"use": "fake-log", "project": "p", "nested": {"width": 3, "cap": 2.5}, "limit": 5}
    ]


def test_none_is_left_out_where_it_is_the_default_and_false_elsewhere(plugins):
    recipe = load(MINIMAL, "training.max_grad_norm=false", plugins=plugins)
    assert recipe.document["training"]["max_grad_norm"] is False
    assert "steps" not in recipe.document["training"]


def test_secrets_are_never_written(plugins):
    recipe = load(MINIMAL + '[[loggers]]\nuse = "fake-log"\ntoken = "hush"\n', plugins=plugins)
    assert recipe.loggers[0].options.token.get_secret_value() == "hush"
    assert "hush" not in dump_recipe(recipe)
    assert "token =" not in dump_recipe(recipe)
    assert "hush" not in repr(recipe.document)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
NUMBER = st.floats(min_value=1e-9, max_value=1e9)


def optional(values):
    return values | st.just(False)


DOCUMENTS = st.fixed_dictionaries(
    {
        "run": st.fixed_dictionaries({"output_dir": TEXT}),
        "model": st.fixed_dictionaries(
            {"use": st.just("fake-model"), "name": TEXT},
            optional={"revision": optional(TEXT), "trust_remote_code": st.booleans()},
        ),
        "data": st.fixed_dictionaries(
            {"use": st.just("fake-rows"), "name": TEXT},
            optional={
                "count": st.integers(1, 10**12),
                "format": st.sampled_from(["auto", "fake-format"])
                | st.fixed_dictionaries({"use": st.just("fake-format")}, optional={"strip": st.booleans()}),
                "columns": st.dictionaries(TEXT, TEXT, max_size=2),
                "limit": optional(st.integers(1, 99)),
                "shuffle": st.booleans(),
                "eval_split": optional(TEXT),
            },
        ),
        "loss": st.fixed_dictionaries({"use": st.just("fake-dpo")}, optional={"beta": NUMBER}),
        "optimizer": st.fixed_dictionaries(
            {"lr": NUMBER},
            optional={"betas": st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2)},
        )
        | st.fixed_dictionaries({"use": st.just("fake-sgd"), "lr": NUMBER}, optional={"momentum": NUMBER}),
    },
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "quantizer": st.just(False) | st.just({"use": "fake-8bit"}),
        "adapter": st.just(False)
        | st.fixed_dictionaries(
            {"use": st.just("fake-lora")},
            optional={"rank": st.integers(1, 512), "targets": st.lists(TEXT, max_size=3)},
        ),
        "training": st.fixed_dictionaries(
            {},
            optional={
                "steps": optional(st.integers(1, 99)),
                "max_grad_norm": optional(NUMBER),
                "tokens_per_microbatch": st.just("auto") | st.integers(1, 10**6),
            },
        ),
        "exporters": st.lists(
            st.fixed_dictionaries(
                {"use": st.just("fake-export")}, optional={"to": TEXT.filter(lambda text: "\0" not in text)}
            ),
            max_size=2,
        ),
        "loggers": st.lists(
            st.fixed_dictionaries(
                {"use": st.just("fake-log")},
                optional={
                    "project": TEXT,
                    "limit": optional(st.integers(1, 9)),
                    "nested": st.fixed_dictionaries({}, optional={"cap": optional(NUMBER)}),
                },
            ),
            max_size=3,
        ),
    },
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(document=DOCUMENTS)
def test_a_dumped_recipe_reads_as_the_same_recipe(plugins, folder, document):
    recipe = load_recipe("base.toml", document, plugins=plugins)
    text = dump_recipe(recipe)
    Path("again.toml").write_text(text)
    again = load_recipe("again.toml", plugins=plugins)
    assert again.document == recipe.document
    assert dump_recipe(again) == text
    assert [part.options for part in again.components] == [part.options for part in recipe.components]
    assert (again.training, again.run) == (recipe.training, recipe.run)


def test_a_dumped_recipe_is_toml_with_loggers_as_tables(plugins):
    text = dump_recipe(load(MINIMAL + '[[loggers]]\nuse = "fake-log"\n', plugins=plugins))
    assert "\n[[loggers]]\n" in text
    assert tomllib.loads(text)["seed"] == 42
