"""A mix is the weighted sum of its terms, in losses, gradients, records and on every way of computing a step."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid

from dpotrain import hookimpl
from dpotrain.core.errors import RecipeError
from dpotrain.core.scores import PairScores
from dpotrain.plugin.api import Loss
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.report.facts import facts
from dpotrain.report.past_run import read_run
from dpotrain_plugins.losses import Dpo, Hinge, Ipo, Mix
from dpotrain_plugins.losses.mix import Term
from tests.plugin.fakes import Offers
from tests.run.recipes import Recording, losses, project, records, run


class Likelihood(Loss):
    """The negative log-prob of the chosen answer, which needs no reference."""

    name = "likelihood"
    needs_reference = False

    def __call__(self, scores):
        return -scores.policy_chosen / scores.chosen_tokens


class Sorted(Loss):
    """Couples pairs: sorted log-ratios, with a shift that follows the steps."""

    name = "sorted"
    couples_pairs = True
    shift = 0.0

    def __call__(self, scores):
        chosen, rejected = scores.chosen_logratio.sort().values, scores.rejected_logratio.sort().values
        return -logsigmoid(self.options.beta * (chosen - rejected) - self.shift)

    @hookimpl
    def dpotrain_step_ended(self, step):
        self.shift += 0.01

    def state_dict(self):
        return {"shift": self.shift}

    def load_state_dict(self, state):
        self.shift = state["shift"]


def mix(*terms):
    return Mix(Mix.Options(terms=[Term(loss=loss, weight=weight) for loss, weight in terms]))


def of(kind, **options):
    return kind(kind.Options(**options))


SCORES = PairScores(
    *(torch.tensor([value]) for value in (-10.0, -11.0, -12.0, -8.0)), torch.tensor([4]), torch.tensor([2])
)


def test_by_hand():
    """0.5 ln(1 + e^-0.5) + 2 (1 - 1) + 0.1 (2/4 + 3/2 - 5)^2: beta h is 0.5 with beta 0.1, and 1 with beta 0.2."""
    made = mix((of(Dpo), 0.5), (of(Hinge, beta=0.2), 2.0), (of(Ipo), 0.1))
    assert made.losses(SCORES).tolist() == pytest.approx(
        [0.5 * math.log1p(math.exp(-0.5)) + 0.1 * 9], abs=1e-5
    )
    assert {name: part.item() for name, part in made.parts(SCORES).items()} == pytest.approx(
        {"dpo": math.log1p(math.exp(-0.5)), "hinge": 0, "ipo": 9}, abs=1e-5
    )
    assert made.first_loss() == pytest.approx(0.5 * math.log(2) + 2 + 0.1 * 25)
    assert [each.item() for each in made.rewards(SCORES)] == pytest.approx([0.2, -0.3])


class Counting(Likelihood):
    name = "counting"
    calls = 0

    def __call__(self, scores):
        self.calls += 1
        return super().__call__(scores) - 0.1 * scores.reference_chosen


def test_a_term_is_computed_once_for_loss_and_records():
    term = of(Counting)
    made = mix((term, 2.0), (of(Dpo), 1.0))
    scores = replace(SCORES, policy_chosen=SCORES.policy_chosen.clone().requires_grad_())
    loss, parts = made.losses(scores), made.parts(scores)
    assert term.calls == 1
    assert (2 * parts["counting"] + parts["dpo"]).equal(loss)
    assert not any(part.requires_grad for part in parts.values())
    # As with a column "margin": the loss is of a shifted reference, the parts are not.
    shifted = replace(scores, reference_chosen=scores.reference_chosen + 1)
    made.losses(shifted)
    assert made.parts(scores)["counting"].equal(parts["counting"])
    assert not made.parts(shifted)["counting"].equal(parts["counting"])


def test_it_is_what_its_terms_are():
    assert not mix((of(Likelihood), 1.0)).needs_reference
    both = mix((of(Dpo), 1.0), (of(Likelihood), 1.0), (of(Dpo, beta=0.3), 1.0))
    assert both.needs_reference
    assert not both.couples_pairs
    assert both.part_names == ("dpo", "likelihood", "dpo_2")
    assert both.first_loss() is None
    assert mix((of(Sorted), 1.0), (of(Dpo), 1.0)).couples_pairs
    assert mix((of(Dpo, weighting="wpo"), 1.0)).first_loss() is None


def test_a_term_has_its_own_divergence():
    plain, bent = of(Dpo), of(Dpo, divergence="forward-kl")
    assert mix((plain, 1.0), (bent, 1.0)).losses(SCORES).tolist() == pytest.approx(
        [plain.losses(SCORES).item() + bent.losses(SCORES).item()]
    )


PLUGINS = PluginManager.from_entry_points(extra=[Offers("more", Likelihood, Sorted)])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = project(tmp_path_factory.mktemp("mix"))
    text = path.read_text()
    assert "[loss]" not in text or text.count("[loss]") == 1
    return path


def mixed(recipe, out, *overrides, second="likelihood", resume=False):
    terms = f'[{{use="dpo", beta=0.5, weight=0.5}}, {{use="{second}", weight=2.0}}]'
    chosen = ['loss.use="mix"', f"loss.terms={terms}", *overrides]
    return run(recipe, *chosen, into=out, plugins=PLUGINS, resume=resume)


def test_the_header_of_the_run_and_of_its_report_have_the_weights(recipe, tmp_path):
    reporter = Recording()
    terms = '[{use="dpo", beta=0.5, weight=0.8}, "sft", {use="mix", terms=["ipo"], weight=2.0}]'
    overrides = ['loss.use="mix"', f"loss.terms={terms}", "training.steps=1"]
    run(recipe, *overrides, into=tmp_path / "run", plugins=PLUGINS, reporter=reporter)
    said = "mix of dpo (0.8, beta 0.5), sft (1) and mix of ipo (1, beta 0.1) (2)"
    assert reporter.facts["loss"] == said
    assert facts(read_run(tmp_path / "run"))["loss"] == said


@pytest.mark.parametrize("second", ["likelihood", "sorted"])
def test_records_have_the_terms_and_steps_are_the_same_however_they_are_cut(recipe, tmp_path, second):
    mixed(recipe, tmp_path / "a", second=second)
    mixed(recipe, tmp_path / "b", "training.tokens_per_microbatch=60", second=second)
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), abs=1e-5)
    for kind in ("train", "eval"):
        for one, other in zip(records(tmp_path / "a", kind), records(tmp_path / "b", kind), strict=True):
            assert one["loss"] == pytest.approx(0.5 * one["loss/dpo"] + 2 * one[f"loss/{second}"], abs=1e-5)
            assert other["loss/dpo"] == pytest.approx(one["loss/dpo"], abs=1e-5)


def test_a_term_with_a_state_goes_on_where_it_stopped(recipe, tmp_path):
    mixed(recipe, tmp_path / "a", "training.steps=4", 'schedule.use="constant"', second="sorted")
    again = ["checkpoints.every=2", 'schedule.use="constant"']
    mixed(recipe, tmp_path / "b", "training.steps=2", *again, second="sorted")
    mixed(recipe, tmp_path / "b", "training.steps=4", *again, second="sorted", resume=True)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["loss.beta=0.3"],
            r"\[loss\] beta: .*this loss has no beta of its own; leave it out",
        ),
        (
            ['loss.divergence="forward-kl"'],
            r"\[loss\] divergence: forward-kl needs a loss of the difference .*; mix is",
        ),
        (
            ['loss.terms=[{use="dpo", tail_weight=0.5}]'],
            r"\[loss.terms.0\] tail_weight: all parts of a loss have the same",
        ),
        (["loss.terms=[]"], r"\[loss\] terms"),
    ],
)
def test_what_belongs_to_the_terms_is_refused_of_the_mix_and_the_other_way_round(
    recipe, tmp_path, overrides, message
):
    with pytest.raises(RecipeError, match=message):
        mixed(recipe, tmp_path / "a", *overrides)
