"""Components that follow the run compute the same in one process and in two, and after a resumption."""

import pytest

from tests.plugin.fakes import install
from tests.run.recipes import losses, project

#: A loss whose beta rises with the step that its scores name, and falls with the margins that its run events bring.
RISING = """
from dpotrain import hookimpl
from dpotrain.plugin.api import Loss


class Rising(Loss):
    name = "rising"
    margin = 0.0

    def __call__(self, scores):
        from torch.nn.functional import softplus

        chosen = scores.policy_chosen - scores.reference_chosen
        rejected = scores.policy_rejected - scores.reference_rejected
        beta = self.options.beta * (1 + scores.step / scores.total_steps) / (1 + abs(self.margin))
        return softplus(-beta * (chosen - rejected))

    @hookimpl
    def dpotrain_run_started(self, run):
        assert len(run.held_out()) == run.eval_pairs > 0

    @hookimpl
    def dpotrain_step_ended(self, step):
        self.margin = step.metrics["rewards/margins"]

    def state_dict(self):
        return {"margin": self.margin}

    def load_state_dict(self, state):
        self.margin = state["margin"]


@hookimpl
def dpotrain_losses():
    return [Rising]
"""


@pytest.fixture(scope="module")
def rising(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    install(site, "dpotrain-rising", "1.0", rising=RISING)
    recipe = project(tmp_path_factory.mktemp("rising"))
    return recipe, {"path": [site]}


def test_a_loss_that_follows_the_step_gives_the_same_losses_in_two_processes(rising, forked, tmp_path):
    """TRAPS: a loss of a plugin that follows the step: right on one process, wrong on two."""
    recipe, found = rising
    chosen = ["loss.use=rising", "loss.beta=1.0", "checkpoints.every=3"]
    one = [*chosen, f"run.output_dir={str(tmp_path / 'one')!r}"]
    two = [*chosen, f"run.output_dir={str(tmp_path / 'two')!r}"]
    (alone,) = forked.ranks(recipe, one, ranks=1, **found)
    assert alone.code == 0, alone.output
    stopped = forked.ranks(recipe, two, acts=[[0, "signal_after", 5, "SIGTERM"]], **found)
    assert [each.code for each in stopped] == [75, 75]
    assert [each.code for each in forked.ranks(recipe, two, **found)] == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


#: A loss that sorts the log-ratios of a step's pairs, and has a state that follows the rewards of the steps before.
SORTED = """
from dpotrain import hookimpl
from dpotrain.plugin.api import Loss


class Sorted(Loss):
    name = "sorted"
    couples_pairs = True
    shift = 0.0

    def __call__(self, scores):
        from torch.nn.functional import softplus

        beta = self.options.beta
        chosen, rejected = scores.chosen_logratio.sort().values, scores.rejected_logratio.sort().values
        return softplus(-beta * (chosen - rejected)) + softplus(self.shift - beta * chosen)

    @hookimpl
    def dpotrain_step_ended(self, step):
        self.shift = (step.metrics["rewards/chosen"] + step.metrics["rewards/rejected"]) / 2

    def state_dict(self):
        return {"shift": self.shift}

    def load_state_dict(self, state):
        self.shift = state["shift"]


@hookimpl
def dpotrain_losses():
    return [Sorted]
"""


def test_a_loss_that_couples_pairs_gives_the_same_losses_however_a_step_is_cut(
    tmp_path_factory, forked, tmp_path
):
    site = tmp_path_factory.mktemp("site")
    install(site, "dpotrain-sorted", "1.0", sorted_=SORTED)
    recipe = project(tmp_path_factory.mktemp("sorted"))
    chosen = ["loss.use=sorted", "loss.beta=1.0", "checkpoints.every=3"]
    found = {"path": [site]}

    def done(name, *overrides, **named):
        ranks = forked.ranks(
            recipe, [*chosen, *overrides, f"run.output_dir={str(tmp_path / name)!r}"], **found, **named
        )
        return [each.code for each in ranks]

    assert done("one", ranks=1) == [0]
    assert done("cut", "training.tokens_per_microbatch=60", ranks=1) == [0]
    assert done("two", acts=[[0, "signal_after", 5, "SIGTERM"]]) == [75, 75]
    assert done("two") == [0, 0]
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert losses(tmp_path / "one")[0] != losses(tmp_path / "one")[-1]
