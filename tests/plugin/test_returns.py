"""What a component's method returns is checked as its errors are: component, method, what came, what is due."""

import inspect
import math
import pickle
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from dpotrain.plugin.api import KINDS, PreferencePair, Recognition
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.plugin.describe.tracing import methods_of_kind
from dpotrain.plugin.runtime.failures import named
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import (
    FakeAdapter,
    FakeCallback,
    FakeExporter,
    FakeFormatter,
    FakeLoader,
    FakeLogger,
    FakeLoss,
    FakeMetric,
    FakeOptimizer,
    FakeQuantizer,
    FakeSchedule,
    FakeSource,
    Offers,
)

MODULE = torch.nn.Linear(1, 1)
ROWS = SimpleNamespace(
    __len__=lambda: 0, __getitem__=lambda index: {}, columns=["prompt"], fingerprint="of the rows"
)
TOKENIZER = PreTrainedTokenizerFast.__new__(PreTrainedTokenizerFast)

#: Every method of every kind whose result the core uses: what fits, and what does not.
METHODS = {
    (FakeLoader, "load_tokenizer"): ([TOKENIZER], [None, "gpt2"]),
    (FakeLoader, "load_model"): ([MODULE], [None, {}]),
    (FakeLoader, "blueprint"): ([MODULE, None], ["meta"]),
    (FakeLoader, "fingerprint"): (["sha"], [None, "", b"sha"]),
    (FakeQuantizer, "contradictions"): ([[], ["bits differ"]], [None, "bits differ"]),
    (FakeQuantizer, "bits"): ([None, {"weight": 4.5}], [4, {"weight": None}, {"weight": math.nan}]),
    (FakeAdapter, "attach"): ([MODULE], [None]),
    (FakeAdapter, "reference"): ([nullcontext()], [None, MODULE]),
    (FakeAdapter, "state"): ([{"a": torch.zeros(1)}], [None, {"a": 1.0}, [torch.zeros(1)]]),
    (FakeAdapter, "how_to_load"): (["import peft"], [None, "", " "]),
    (FakeSource, "splits"): ([["train"]], [None, "train", [1]]),
    (FakeSource, "load"): ([ROWS], [None, [{}], SimpleNamespace(**{**vars(ROWS), "fingerprint": None})]),
    (FakeFormatter, "recognises"): ([Recognition.NO], [None, "certain"]),
    (FakeFormatter, "format"): ([PreferencePair("a", "b", "c"), []], [None, ("a", "b", "c"), {}]),
    (FakeLoss, "first_loss"): ([None, 0.5, 1], [math.nan, "0.5", torch.zeros(())]),
    (FakeOptimizer, "build"): ([torch.optim.SGD(MODULE.parameters())], [None, torch.optim.SGD]),
    (FakeOptimizer, "state_bytes"): ([0, 8], [None, -1, 2.5]),
    (FakeOptimizer, "usual_lr"): ([None, (1e-6, 1e-3)], [1e-6, (1e-3, 1e-6), (0, 1.0), [1e-6, 1e-3]]),
    (FakeExporter, "export"): (["there", Path("there")], [None, "", 3]),
}
#: Those of which the result is checked where it is used, or that return nothing.
ELSEWHERE = {
    FakeCallback: set(),
    FakeQuantizer: {"loading_config", "prepare"},
    FakeAdapter: {"load_state", "save", "rehearse_saving"},
    FakeLoss: {"__call__", "parts", "rewards"},
    FakeSchedule: {"factor"},
    FakeMetric: {"__call__"},
    FakeLogger: {"start", "log", "log_text", "finish"},
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


def test_every_method_of_every_kind_is_held_to_account():
    """A new method says what it must return, or stands above with those that are checked elsewhere."""
    known = {fake: {method for each, method in METHODS if each is fake} for fake, _ in METHODS}
    for kind in KINDS:
        fake = next(each for each in {*known, *ELSEWHERE} if issubclass(each, kind.component))
        methods = set(methods_of_kind(kind.component))
        assert methods == known.get(fake, set()) | ELSEWHERE.get(fake, set()), kind.component


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
