"""What a component's method returns is checked as its errors are: component, method, what came, what is due."""

import functools
import inspect
import math
import pickle
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerFast

from dpotrain.plugin.api import Beside, Component, Loss, OpenedModel, PreferencePair, Recognition, Use
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.plugin.runtime.failures import named
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import (
    FakeAdapter,
    FakeExporter,
    FakeFormatter,
    FakeLoader,
    FakeLoss,
    FakeMetric,
    FakeOptimizer,
    FakeQuantizer,
    FakeSchedule,
    FakeSource,
    Offers,
)
from tests.support import tiny_model

MODULE = tiny_model()
ROWS = SimpleNamespace(
    __len__=lambda: 0, __getitem__=lambda index: {}, columns=["prompt"], fingerprint="of the rows"
)
ODD_ROWS = [("fingerprint", None), ("columns", None), ("columns", "prompt"), ("columns", [1])]


def changed(**attributes: object) -> SimpleNamespace:
    """Return rows with these attributes."""
    return SimpleNamespace(**{**vars(ROWS), **attributes})


TOKENIZER = PreTrainedTokenizerFast.__new__(PreTrainedTokenizerFast)

#: Methods whose kind says what they must return: what fits, and what does not. What a person sees is in test_faults.
METHODS = {
    (FakeLoader, "load_tokenizer"): ([TOKENIZER], [None, "gpt2"]),
    (FakeLoader, "load_model"): ([MODULE], [None, {}]),
    (FakeLoader, "blueprint"): ([MODULE, None], ["meta"]),
    (FakeLoader, "open_model"): ([OpenedModel(MODULE, {}), None], [MODULE, "files"]),
    (FakeLoader, "fingerprint"): (["sha"], [None, "", b"sha"]),
    (FakeQuantizer, "contradictions"): ([[], ["bits differ"]], [None, "bits differ"]),
    (FakeQuantizer, "bits"): ([None, {"weight": 4.5}], [4, {"weight": None}, {"weight": math.nan}]),
    (FakeAdapter, "attach"): ([MODULE], [None]),
    (FakeAdapter, "reference"): ([nullcontext()], [None, MODULE]),
    (FakeAdapter, "state"): ([{"a": torch.zeros(1)}], [None, {"a": 1.0}, [torch.zeros(1)]]),
    (FakeAdapter, "how_to_load"): (["import peft"], [None, "", " "]),
    (FakeSource, "splits"): ([["train"]], [None, "train", [1]]),
    (FakeSource, "load"): ([ROWS], [None, [{}], *(changed(**{name: value}) for name, value in ODD_ROWS)]),
    (FakeFormatter, "recognises"): ([Recognition.NO], [None, "certain"]),
    (FakeFormatter, "format"): ([PreferencePair("a", "b", "c"), []], [None, ("a", "b", "c"), {}]),
    (FakeLoss, "first_loss"): ([None, 0.5, 1], [math.nan, "0.5", torch.zeros(())]),
    (FakeOptimizer, "build"): ([torch.optim.SGD(MODULE.parameters())], [None, torch.optim.SGD]),
    (FakeOptimizer, "state_bytes"): ([0, 8], [None, -1, 2.5]),
    (FakeOptimizer, "paged_bytes"): ([0, 8], [None, -1, 2.5]),
    (FakeOptimizer, "usual_lr"): ([None, (1e-6, 1e-3)], [1e-6, (1e-3, 1e-6), (0, 1.0), [1e-6, 1e-3]]),
    (FakeSchedule, "factor"): ([0, 0.5, 2.0], [None, -0.1, math.nan, math.inf]),
    (FakeExporter, "export"): (["there", Path("there")], [None, "", 3]),
}


def odd(fake: type, method: str, value: object) -> object:
    """Return a component whose method returns ``value``."""
    made = type("Odd", (fake,), {"name": "odd", method: lambda self, *_, **__: value})
    return made(made.Options.model_construct())


def call(part: object, method: str) -> object:
    parameters = inspect.signature(getattr(type(part).__mro__[2], method)).parameters
    return getattr(part, method)(*[None] * (len(parameters) - 1))


CASES = [(*key, value) for key, (fit, _) in METHODS.items() for value in fit]
WRONG = [(*key, value) for key, (_, wrong) in METHODS.items() for value in wrong]


def label(case: object) -> str:
    return getattr(case, "__name__", None) or type(case).__name__ if not isinstance(case, str) else case


@pytest.mark.parametrize(("fake", "method", "value"), CASES, ids=label)
def test_what_fits_is_handed_on(fake, method, value):
    assert call(odd(fake, method, value), method) is value


@pytest.mark.parametrize(("fake", "method", "value"), WRONG, ids=label)
def test_what_does_not_fit_is_named_with_the_method_and_what_is_due(fake, method, value):
    part = odd(fake, method, value)
    with pytest.raises(WrongReturnError, match=rf"^{method} returned .*; it must return ") as caught:
        call(part, method)
    plugins = PluginManager.of(Offers("strange", type(part)))
    said = str(named(caught.value, SimpleNamespace(parts={}, components=(part,)), plugins))
    assert said.startswith(f'{part.kind} "odd" of plugin "strange": {method} returned ')


def test_a_method_that_comes_from_a_mixin_is_checked_too():
    class Mixin:
        def fingerprint(self, source=None):
            return None

    class Mixed(Mixin, FakeLoader):
        name = "mixed"

    with pytest.raises(WrongReturnError, match="fingerprint returned None"):
        Mixed(Mixed.Options(name="m")).fingerprint()


def test_the_error_passes_between_processes():
    error = pickle.loads(pickle.dumps(WrongReturnError("format returned None", FakeLoss)))
    assert str(error) == "format returned None"


class Property(FakeAdapter):
    name = "property"

    @functools.cached_property
    def starts_as_base(self):
        return ["yes"]


def test_a_property_is_checked_when_it_is_read():
    part = Property(Property.Options())
    with pytest.raises(
        WrongReturnError, match=r"^starts_as_base returned a list, .* must return True or False"
    ):
        part.starts_as_base  # noqa: B018


class HoldsALoss(Loss.Options):
    inner: Loss = Field(description="A loss, which Use[Loss] would be.")


class TwoLosses(Beside):
    first: Use[Loss] = Field(description="A loss.")
    second: Use[Loss] = Field(description="Another one.")


class HoldsTwo(Loss.Options):
    terms: list[TwoLosses] = Field(description="Which of the two would stand beside the keys?")


@pytest.mark.parametrize(
    ("fake", "attributes", "said"),
    [
        (FakeAdapter, {"starts_as_base": "yes"}, "starts_as_base is a str, 'yes'; it must be True or False"),
        (FakeLoss, {"couples_pairs": None}, "couples_pairs is None; it must be True or False"),
        (
            FakeLoss,
            {"diverged": lambda self, scores: scores},
            "diverged is Loss's own and cannot be overridden",
        ),
        (FakeLoader, {"fingerprint": "sha"}, "fingerprint must be a method; it is a str, 'sha'"),
        (
            FakeMetric,
            {"measures": lambda self: ("one",)},
            "measures must be an attribute or a property (@property)",
        ),
        (
            FakeLoss,
            {"parts": lambda self, scores: {"one": scores.policy_chosen}},
            'parts is called only for the names in part_names, such as part_names = ("sft",)',
        ),
        (
            FakeLoss,
            {"Options": HoldsALoss},
            "cannot be written in a recipe: an option that holds a component is of type Use[Loss]",
        ),
        (
            FakeLoss,
            {"Options": HoldsTwo},
            "TwoLosses derives from Beside, so one field must be of type Use[…]; it has 2",
        ),
    ],
)
def test_an_attribute_of_another_kind_than_the_interface_has_is_refused_at_load(fake, attributes, said):
    odd = type("Odd", (fake,), {"name": "odd", **attributes})
    (plugin,) = PluginManager.of(Offers("p", odd)).failed
    assert said in plugin.reason


class FromComponent(FakeLoss):
    class Options(Component.Options):
        pass


class FromPydantic(FakeMetric):
    class Options(BaseModel):
        pass


class FromLoss(FakeMetric):
    class Options(Loss.Options):
        pass


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (FromComponent, "its Options must derive from Loss.Options, not from Component.Options"),
        (FromPydantic, "its Options must derive from Metric.Options, not from BaseModel"),
        (FromLoss, "its Options must derive from Metric.Options, not from Loss.Options"),
    ],
)
def test_options_that_derive_from_the_wrong_base_are_refused_at_load(odd, said):
    (plugin,) = PluginManager.of(Offers("p", odd)).failed
    assert said in plugin.reason
    assert plugin.reason.startswith(f'{odd.kind} "{odd.name}": ')
