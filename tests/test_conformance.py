"""The conformance suites find what is wrong: for each of their tests a component that must not pass it."""

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch
from pydantic import Field

from dpotrain import testing
from dpotrain.core.errors import PluginError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.plugin.api import (
    DatasetFormatter,
    DatasetSource,
    LoadRequest,
    Logger,
    Loss,
    OpenedModel,
    Optimizer,
    Recognition,
    Use,
)
from dpotrain.testing.conformance.scores import random_scores
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.quantizers.bitsandbytes import Bnb8bit
from dpotrain_plugins.transformers_loader import TransformersLoader as Loader
from tests.plugin.conftest import site
from tests.plugin.fakes import install

__all__ = ["site"]


def variant(base: type, **members: object) -> type:
    """Return a component that does some things otherwise than the sound one that it is made from."""
    return type(f"Broken{base.__name__}", (base,), members)


def refuted(suite: type, test: str, component: type, *arguments: object, **options: object) -> str:
    """Return what a suite's test says against a component."""
    made = suite()
    made.component = component
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(made, test)(component(component.Options(**options)), *arguments)
    return str(caught.value)


class Half(Loss):
    name = "half"

    def __call__(self, scores):
        return self.options.beta * (scores.rejected_logratio - scores.chosen_logratio)

    def first_loss(self):
        return 0.0


def computing(change):
    """A loss that makes something else of what :class:`Half` computes."""
    return variant(Half, __call__=lambda self, scores: change(Half.__call__(self, scores)))


@pytest.mark.parametrize(
    ("component", "test"),
    [
        (computing(torch.mean), "test_it_gives_every_pair_one_finite_number"),
        (
            variant(Half, __call__=lambda self, scores: -scores.chosen_logratio),
            "test_gradients_reach_both_completions_and_nothing_else",
        ),
        (
            computing(lambda losses: losses - losses.mean().detach()),
            "test_a_pair_s_loss_depends_on_its_own_scores_alone",
        ),
        (computing(lambda losses: losses + torch.randn_like(losses)), "test_it_is_a_function"),
        (variant(Half, first_loss=lambda self: 1.0), "test_the_first_loss_is_what_it_says"),
        (variant(Half, needs_reference=False), "test_it_says_truly_whether_it_needs_a_reference"),
        (computing(torch.exp), "test_scores_far_apart_give_no_infinities"),
    ],
)
def test_a_loss_that_breaks_a_promise_fails_the_test_of_it(component, test):
    refuted(testing.LossConformance, test, component)
    made = testing.LossConformance()
    getattr(made, test)(Half(Half.Options()))


class StuckReference(Lora):
    @contextmanager
    def reference(self, policy):
        policy.disable_adapter_layers()
        yield
        policy.enable_adapter_layers()


class Scaled(Lora):
    starts_as_base = True

    def attach(self, policy):
        policy = super().attach(policy)
        for tensor in self.state(policy).values():
            tensor.add_(0.1)
        return policy


class SaysNothing(Lora):
    def load_state(self, policy, state):
        for name, tensor in self.state(policy).items():
            tensor.copy_(state.get(name, tensor))


@pytest.mark.parametrize(
    ("component", "test"),
    [
        (
            variant(Lora, attach=lambda self, policy: Lora.attach(self, policy).bfloat16()),
            "test_it_trains_some_weights_in_float32_and_they_all_get_a_gradient",
        ),
        (
            variant(Lora, reference=lambda self, policy: nullcontext()),
            "test_training_moves_the_policy_and_not_the_reference",
        ),
        (StuckReference, "test_the_reference_ends_with_an_error_too"),
        (Scaled, "test_a_fresh_one_is_the_model_where_it_says_so"),
        (
            variant(Lora, state=lambda self, policy: copy.deepcopy(Lora.state(self, policy))),
            "test_its_state_is_the_trained_tensors_themselves",
        ),
        (SaysNothing, "test_the_state_of_another_adapter_is_refused"),
    ],
)
def test_an_adapter_that_breaks_a_promise_fails_the_test_of_it(component, test, dpotrain_model):
    refuted(testing.AdapterConformance, test, component, dpotrain_model)
    getattr(testing.AdapterConformance(), test)(Lora(Lora.Options(rank=2)), dpotrain_model)


def test_an_adapter_whose_result_is_a_pickle_fails(dpotrain_model, tmp_path):
    test = "test_the_result_loads_as_it_says_and_computes_the_same"
    pickled = variant(Lora, save=lambda self, policy, folder: (folder / "weights.bin").write_bytes(b""))
    refuted(testing.AdapterConformance, test, pickled, dpotrain_model, tmp_path)


class NotAtAll(Bnb8bit):
    def loading_config(self):
        return None

    def prepare(self, model):
        pass


@pytest.mark.parametrize(
    ("component", "test", "arguments"),
    [
        (NotAtAll, "test_the_model_is_smaller_and_nearly_the_same", True),
        (NotAtAll, "test_what_cannot_be_trained_is_frozen", True),
        (
            variant(NotAtAll, prepare=lambda self, model: model.requires_grad_(False).eval()),
            "test_what_cannot_be_trained_is_frozen",
            True,
        ),
        (NotAtAll, "test_a_model_with_nothing_to_quantize_is_refused", False),
    ],
)
def test_a_quantizer_that_breaks_a_promise_fails_the_test_of_it(component, test, arguments, dpotrain_model):
    refuted(testing.QuantizerConformance, test, component, *([dpotrain_model] if arguments else []))


@pytest.mark.parametrize(
    ("component", "test", "arguments"),
    [
        (
            variant(Loader, load_model=lambda self, request: Loader.load_model(self, request).eval()),
            "test_the_model_is_ready_to_be_trained",
            False,
        ),
        (
            variant(Loader, load_model=lambda self, request: Loader.load_model(self, LoadRequest())),
            "test_another_model_can_be_asked_for",
            True,
        ),
        (
            variant(Loader, fingerprint=lambda self, source=None: "always"),
            "test_another_model_can_be_asked_for",
            True,
        ),
        (
            variant(Loader, open_model=lambda self, request: _doubled(Loader.open_model(self, request))),
            "test_an_opened_model_is_the_model_once_its_weights_are_read",
            False,
        ),
    ],
)
def test_a_loader_that_breaks_a_promise_fails_the_test_of_it(
    component, test, arguments, dpotrain_model, tmp_path
):
    more = (dpotrain_model, tmp_path) if arguments else ()
    refuted(testing.ModelLoaderConformance, test, component, *more, name=str(dpotrain_model))


def _doubled(opened: OpenedModel) -> OpenedModel:
    return OpenedModel(opened.model, {name: whole[...] * 2 for name, whole in opened.weights.items()})


class Rows(list):
    columns = ("prompt",)
    fingerprint = "rows"


class Source(DatasetSource):
    name = "source"
    loads = 0

    def splits(self):
        return ["train", "test"]

    def load(self, split):
        return Rows([{"prompt": split}])


class Restless(Source):
    def load(self, split):
        type(self).loads += 1
        rows = Rows([{"prompt": split}])
        rows.fingerprint = str(self.loads)
        return rows


@pytest.mark.parametrize(
    ("component", "test"),
    [
        (variant(Source, splits=lambda self: ["train", "train"]), "test_it_names_its_splits"),
        (
            variant(Source, load=lambda self, split: Rows([{"prompt": split, "more": 1}])),
            "test_rows_are_plain_data_in_any_order",
        ),
        (Restless, "test_the_same_rows_come_every_time"),
        (Source, "test_splits_with_other_rows_have_another_fingerprint"),
        (Source, "test_a_split_that_is_not_there_is_answered_with_those_that_are"),
    ],
)
def test_a_source_that_breaks_a_promise_fails_the_test_of_it(component, test):
    refuted(testing.DatasetSourceConformance, test, component)


class Reads(DatasetFormatter):
    name = "reads"
    columns = ("prompt", "best", "worst")

    def recognises(self, row):
        return Recognition.CERTAIN if "best" in row else Recognition.NO

    def format(self, row):
        if not all(isinstance(row.get(column), str) for column in self.columns):
            raise UnusableRow("a column is no text")
        return PreferencePair(*(row[column] for column in self.columns))


def format_all(self, row):
    return PreferencePair(row["prompt"], row["best"], row["worst"])


class Changes(Reads):
    def format(self, row):
        row["prompt"] = row["prompt"].strip()
        return super().format(row)


class Raises(Reads):
    def format(self, row):
        return PreferencePair(*(row[column] for column in self.columns))

    def recognises(self, row):
        return Recognition(len(row["best"]) > 0)


class Quotes(Reads):
    def format(self, row):
        if row.get("worst") is None:
            raise UnusableRow(f"no worst answer to {row.get('prompt')}")
        return super().format(row)


@pytest.mark.parametrize(
    ("component", "test"),
    [
        (Changes, "test_it_reads_its_rows"),
        (variant(Reads, recognises=lambda self, row: Recognition.NO), "test_it_recognises_its_rows"),
        (Quotes, "test_no_row_makes_it_fail_otherwise_than_by_unusable_row"),
        (
            variant(Reads, columns=("prompt", "best"), format=format_all),
            "test_it_reads_no_column_that_it_does_not_name",
        ),
    ],
)
def test_a_formatter_that_breaks_a_promise_fails_the_test_of_it(component, test, monkeypatch):
    row = {"prompt": " What is the capital of France?", "best": "It is Paris.", "worst": "No idea."}
    monkeypatch.setattr(testing.DatasetFormatterConformance, "rows", [row], raising=False)
    refuted(testing.DatasetFormatterConformance, test, component)
    made = testing.DatasetFormatterConformance()
    made.component = Reads
    monkeypatch.setattr(testing.DatasetFormatterConformance, "rows", [copy.deepcopy(row)])
    getattr(made, test)(Reads(Reads.Options()))


def test_a_formatter_that_raises_whatever_comes_fails(monkeypatch):
    monkeypatch.setattr(
        testing.DatasetFormatterConformance,
        "rows",
        [{"prompt": "p", "best": "b", "worst": "w"}],
        raising=False,
    )
    made = testing.DatasetFormatterConformance()
    with pytest.raises((KeyError, TypeError)):
        made.test_no_row_makes_it_fail_otherwise_than_by_unusable_row(Raises(Raises.Options()))


class Leaks(Logger):
    name = "leaks"

    def start(self, run):
        self._file = run.folder / "log.txt"

    def log(self, record):
        pass

    def finish(self, outcome):
        self._file.write_text(f"{outcome.sections} {outcome.error}")


class Shared(Logger):
    name = "shared"
    folders: list = []  # noqa: RUF012

    def start(self, run):
        assert not self.folders
        self.folders.append(run.folder)

    def log(self, record):
        assert record.metrics["loss"] == record.metrics["loss"], "nan"

    def finish(self, outcome):
        self.folders.remove(outcome.folder)


@pytest.mark.parametrize(
    ("component", "test", "arguments"),
    [
        (Leaks, "test_no_text_of_the_data_gets_out", ("finished",)),
        (Leaks, "test_no_text_of_the_data_gets_out", ("failed",)),
        (Shared, "test_two_runs_at_once_do_not_meet", ()),
        (Shared, "test_numbers_that_are_not_finite_are_taken", ()),
    ],
)
def test_a_logger_that_breaks_a_promise_fails_the_test_of_it(component, test, arguments, tmp_path):
    Shared.folders.clear()
    refuted(testing.LoggerConformance, test, component, tmp_path, *arguments)


class OfTokens(Loss):
    """Weighs pairs by a column, and squares the log-prob of each token."""

    name = "of-tokens"
    needs_reference = False
    needs_token_log_probs = True
    columns = ("weight",)

    def __call__(self, scores):
        counts = torch.stack([scores.chosen_tokens, scores.rejected_tokens], dim=1).flatten()
        of_pair = torch.arange(len(scores.chosen_tokens)).repeat_interleave(2).repeat_interleave(counts)
        sums = torch.zeros_like(scores.policy_chosen).index_add(0, of_pair, scores.policy_tokens.square())
        return scores.columns["weight"] * sums


class Descent(torch.optim.Optimizer):
    """Goes down the gradient as far as a function of the optimizer and a parameter group says."""

    def __init__(self, weights, lr, rate):
        super().__init__(weights, {"lr": lr})
        self.rate, self.steps = rate, 0

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for group in self.param_groups:
            for weight in group["params"]:
                weight -= self.rate(self, group) * weight.grad


class Plain(Optimizer):
    name = "plain"

    def build(self, weights):
        return Descent(weights.values(), self.options.lr, lambda optimizer, group: group["lr"])

    def state_bytes(self, weights):
        return 0


def descending(rate):
    """An optimizer of another rate than its groups'."""
    return variant(Plain, build=lambda self, weights: Descent(weights.values(), self.options.lr, rate))


@pytest.mark.parametrize(
    ("component", "test"),
    [
        (
            variant(Plain, build=lambda self, weights: torch.optim.SGD([*weights.values()][:1], lr=0.1)),
            "test_it_holds_every_weight_once_and_moves_it",
        ),
        (descending(lambda optimizer, group: 0.1), "test_the_engine_sets_its_rate"),
        (
            descending(lambda optimizer, group: optimizer.param_groups[0]["lr"]),
            "test_it_takes_the_groups_of_a_recipe",
        ),
        (
            descending(lambda optimizer, group: group["lr"] * optimizer.steps),
            "test_it_goes_on_from_its_state_bit_for_bit",
        ),
        (
            variant(Plain, state_bytes=lambda self, weights: 10**6),
            "test_its_state_takes_the_memory_that_it_says",
        ),
    ],
)
def test_an_optimizer_that_breaks_a_promise_fails_the_test_of_it(component, test):
    getattr(testing.OptimizerConformance(), test)(Plain(Plain.Options(lr=0.1)))
    refuted(testing.OptimizerConformance, test, component, lr=0.1)


def test_a_loss_that_asks_for_tokens_and_columns_is_handed_them_by_the_suite():
    suite, part = testing.LossConformance(), OfTokens(OfTokens.Options())
    tests = [
        name
        for name in vars(testing.LossConformance)
        if name.startswith("test_") and "first_loss" not in name
    ]
    for name in tests:
        getattr(suite, name)(part)
    assert len(tests) == 7


COMMAND = """
from pathlib import Path
import click
{top}

@click.command("count"{line})
@click.argument("file", type=Path)
@click.option("--words", is_flag=True{help})
def command(file, words):
    {doc}
    from dpotrain.core.errors import RunError

    if not file.exists():
        {refuse}
    click.echo(str(len(file.read_text().split() if words else file.read_text())))
"""
RIGHT = {
    "top": "",
    "line": ', short_help="Count."',
    "help": ', help="Words, not letters."',
    "doc": '"""Count the letters of FILE."""',
    "refuse": 'raise RunError(f"there is no {file}")',
}
PROMISES = [name for name in vars(testing.CommandConformance) if name.startswith("test_")]


def told_of_a_command(site, tmp_path, monkeypatch, test: str, source: str) -> str:
    """Return what a test of the suite says against a command, "" where it passes."""
    install(site, "dpotrain-count", "1.0", commands={"count": source})
    suite = testing.CommandConformance()
    suite.command, suite.wrong = "count", ["none.txt"]
    (empty := tmp_path / "empty").mkdir()
    arguments = (empty, monkeypatch) if "few_lines" in test else ()
    try:
        getattr(suite, test)(*arguments)
    except (AssertionError, PluginError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("test", PROMISES)
def test_a_command_that_keeps_its_promises_passes(site, tmp_path, monkeypatch, test):
    assert told_of_a_command(site, tmp_path, monkeypatch, test, COMMAND.format(**RIGHT)) == ""


@pytest.mark.parametrize(
    ("wrong", "test", "text"),
    [
        ({"top": "import no_such"}, "test_an_installed_plugin_brings_it", "cannot be imported"),
        (
            {"line": "", "doc": "pass"},
            "test_help_lists_it_with_a_line_of_its_own",
            "neither short_help nor a docstring",
        ),
        ({"doc": "pass"}, "test_its_own_help_explains_every_option", "has no docstring"),
        ({"help": ""}, "test_its_own_help_explains_every_option", "without help: --words"),
        ({"top": "import pyarrow"}, "test_importing_it_loads_nothing_heavy", "loads pyarrow"),
        ({"refuse": "pass"}, "test_what_it_cannot_do_is_said_in_a_few_lines", "FileNotFoundError"),
        ({"refuse": "return"}, "test_what_it_cannot_do_is_said_in_a_few_lines", "exit code 0"),
        (
            {"refuse": "file.touch(); raise RunError('no')"},
            "test_what_it_cannot_do_is_said_in_a_few_lines",
            "it left files behind",
        ),
    ],
)
def test_a_command_that_breaks_a_promise_fails_the_test_of_it(site, tmp_path, monkeypatch, wrong, test, text):
    assert text in told_of_a_command(site, tmp_path, monkeypatch, test, COMMAND.format(**{**RIGHT, **wrong}))


class Asking(Half):
    name = "asking"
    columns = ("weight",)
    needs_token_log_probs = True
    needs_statistics = ("entropy",)


class Outer(Half):
    name = "outer"

    class Options(Loss.Options):
        inner: Use[Loss] = Field(description="A loss.")


def test_scores_have_what_a_component_in_the_options_asks_for():
    outer = Outer(Outer.Options(inner=Asking(Asking.Options())))
    scores = random_scores(outer, 3)
    assert scores.columns.keys() == {"weight"}
    assert scores.statistics["entropy"].shape == (3, 2)
    assert len(scores.policy_tokens) == scores.chosen_tokens.sum() + scores.rejected_tokens.sum()
    assert 1 <= scores.step <= scores.total_steps  # a loss may divide by the steps
