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
