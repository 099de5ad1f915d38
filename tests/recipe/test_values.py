"""What TOML can say and no recipe can mean is refused where it stands, and breaks nothing."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.api import Options
from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.overrides import override_layer
from dpotrain.recipe.validate import validate
from tests.recipe.writing import MINIMAL, load, refused


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x = " + "[" * 3000, "nested too deeply"),
        ("x = " + "[" * 40 + "]" * 40, "r.toml: x.0.0.0.…: tables and lists are nested more than 32 deep"),
        (".".join(["a"] * 2000) + " = 1", "r.toml: a.a.a.a.…: tables and lists are nested more than 32 deep"),
        ("x = " + "9" * 5000, "r.toml"),
        ("x = 0x" + "f" * 6000, "r.toml: x: an integer of more than 64 bits"),
        ("x = 9223372036854775808", "r.toml: x: an integer of more than 64 bits"),
        ("x = 2026-01-02", "r.toml: x: 2026-01-02 is a date or time"),
        ('x = ["a", "b\\u0000c"]', r'r.toml: x.1: "b\u0000c" contains a NUL character'),
        ('"a\\u0000" = 1', "contains a NUL character"),
        ('extends = "a\\u0000"', "r.toml: extends: "),
        ('extends = "~nobody-here/x.toml"', "there is no recipe ~nobody-here/x.toml"),
        (f'extends = "{"x" * 5000}"', "File name too long"),
        ('"two\\nlines" = 1', r'"two\nlines": there is no such key'),
    ],
    ids=lambda value: value[:20],
)
def test_a_value_that_no_key_takes_is_named(line, words, plugins):
    said = refused(f"{line}\n{MINIMAL}", plugins=plugins)
    assert words in said
    assert len(said) < 400


@pytest.mark.parametrize(
    "override",
    [
        "x=" + "[" * 3000,
        "x=" + "9" * 5000,
        ".".join(["a"] * 2000) + "=1",
        '"a\\q"=1',
        "loggers." + "9" * 5000 + "=1",
        "model.name=a\udcff",
        "model.name=a\0b",
        "data.format=2026-01-02",
        "data.format=12:30:00",
        "=" + "x" * 70_000,
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_an_override_that_no_key_takes_is_named(override, plugins):
    said = refused(MINIMAL, override, plugins=plugins)
    assert "--set" in said
    assert len(said) < 400


def test_a_number_of_thousands_of_digits_without_quotes_is_text():
    assert override_layer([f"x={'9' * 5000}"])[1] == {"x": "9" * 5000}


def test_links_that_lead_to_each_other_are_no_recipe(plugins):
    Path("a.toml").symlink_to("b.toml")
    Path("b.toml").symlink_to("a.toml")
    with pytest.raises(RecipeError, match=r"a\.toml cannot be read"):
        load_recipe("a.toml", plugins=plugins)


def test_of_a_long_line_only_what_is_around_the_fault_is_shown(plugins):
    said = refused(f"x = [{'1, ' * 500}oops{', 1' * 500}]", plugins=plugins)
    line, caret = said.splitlines()[1:]
    assert len(line) <= 102
    assert line[caret.index("^")] == "o"


def test_the_deepest_recipe_there_is_is_read(plugins):
    assert load(MINIMAL, "loggers.0.use=fake-log", "loggers.0.project=x", plugins=plugins).loggers


def test_defaults_may_be_paths_and_secrets_at_any_depth():
    class Defaults(Options):
        token: SecretStr = Field(SecretStr("none-is-needed"), description="A secret.")
        places: list[Path] = Field([Path("here")], description="Folders.")
        named: dict[str, Path] = Field({"there": Path("there")}, description="Folders by name.")

    said = []
    options = validate(Defaults, {}, lambda path, text: said.append((path, text)))
    assert said == []
    assert options.token.get_secret_value() == "none-is-needed"
    assert (options.places, options.named) == ([Path("here")], {"there": Path("there")})


def test_nothing_to_offload_is_refused(plugins):
    text = MINIMAL + "[training]\nactivation_offload = true\nactivation_checkpointing = false\n"
    assert "activation_checkpointing = false leaves none" in refused(text, plugins=plugins)
