"""What a plugin's own validators say is shown whole, and with its place where it was not meant for a person."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from dpotrain.core.errors import DpotrainError, PluginError, RecipeError
from dpotrain.plugin.api import Loss
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import EVERYTHING, Offers
from tests.recipe.writing import MINIMAL, load

HERE = Path(__file__)


class Inner(BaseModel):
    x: int
    y: int


class Checked(Loss):
    name = "checked"

    class Options(Loss.Options):
        how: str = Field("well", description="What goes wrong.")
        among: int | list[int] = Field(1, description="A union.")

        @field_validator("how")
        @classmethod
        def look(cls, value):
            if value == "lines":
                raise ValueError("one\ntwo\nthree")
            if value == "bare":
                raise AssertionError
            if value == "inner":
                Inner(x="hunter2")
            if value == "library":
                json.loads("{")
            return value

        @model_validator(mode="after")
        def together(self):
            if self.how == "together":
                raise ValueError("how and beta\ndo not fit")
            if self.how == "inner together":
                Inner(x="hunter2")
            return self

    def __init__(self, options):
        super().__init__(options)
        if options.how == "constructed":
            Inner(x="hunter2", y=None)

    def __call__(self, scores):
        raise NotImplementedError


def said(*overrides: str) -> DpotrainError:
    plugins = PluginManager.of(Offers("p", *EVERYTHING, Checked))
    with pytest.raises(DpotrainError) as caught:
        load(MINIMAL, 'loss.use="checked"', *overrides, plugins=plugins)
    return caught.value


def line(text: str) -> int:
    """Return the number of the line of this file that has a text."""
    return next(n for n, each in enumerate(HERE.read_text().splitlines(), 1) if text in each)


@pytest.mark.parametrize(
    ("how", "lines"),
    [
        ("lines", ["  [loss] how: one", "    two", "    three"]),
        ("bare", [f"  [loss] how: AssertionError ({HERE}:LINE)"]),
        (
            "inner",
            [
                "  [loss] how: x: Input should be a valid integer, unable to parse string as an integer",
                "  [loss] how: y: Field required",
            ],
        ),
        (
            "library",
            [
                "  [loss] how: JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 "
                f"(char 1) ({HERE}:LINE)"
            ],
        ),
        ("together", ["  [loss]: how and beta", "    do not fit"]),
        (
            "inner together",
            [
                "  [loss]: x: Input should be a valid integer, unable to parse string as an integer",
                "  [loss]: y: Field required",
            ],
        ),
    ],
)
def test_every_line_of_a_validator_is_shown(how, lines):
    error = said(f'loss.how="{how}"')
    assert isinstance(error, RecipeError)
    place = {"bare": "raise AssertionError", "library": 'json.loads("{'}.get(how, HERE.name)
    shown = [each for each in str(error).splitlines() if not each.endswith((" error", " errors"))]
    assert shown == [
        each.replace("LINE", str(line(place) if how in ("bare", "library") else 0)) for each in lines
    ]


def test_an_error_of_a_model_of_the_plugin_s_own_has_all_its_lines_and_no_values():
    error = said('loss.how="constructed"')
    assert isinstance(error, PluginError)
    assert (
        'loss "checked" of plugin "p" raised in __init__: ValidationError of Inner '
        f"({HERE}:{line('Inner(x=' + chr(34) + 'hunter2' + chr(34) + ', y=None)')})\n"
        "      x: Input should be a valid integer, unable to parse string as an integer\n"
        "      y: Input should be a valid integer"
    ) in str(error)
    assert "hunter2" not in str(error)


def test_a_value_that_fits_none_of_several_types_is_still_told_in_words():
    assert (
        '[loss] among: checked (registered by hand) expects an integer or a list of integers, got "a"'
        in str(said('loss.among="a"'))
    )
