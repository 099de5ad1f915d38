"""The first loss: rounding of the reference never stops a run, and a reference of other weights does."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.core.errors import RunError
from dpotrain.core.scores import PairScores
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.scoring.objective import pair_losses
from dpotrain.engine.training.first_loss import DEVIATIONS, OWN_ROUNDING, ROUNDING, FirstLoss
from dpotrain.run.building import build as building
from dpotrain_plugins.losses.dpo import Dpo
from dpotrain_plugins.losses.hinge import Hinge
from dpotrain_plugins.losses.ipo import Ipo
from dpotrain_plugins.losses.label_noise import Exo
from dpotrain_plugins.losses.over_step import Aot
from dpotrain_plugins.losses.per_answer import Bco, CalDpo
from dpotrain_plugins.losses.per_token import DpoNorm
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build, own_log_prob_sums
from tests.engine.test_trainer import BETA, SIZES, trainer_of
from tests.run.recipes import project, run

CPU = OneProcess(torch.device("cpu"))
LOSSES = {kind.name: kind for kind in (Dpo, Hinge, Ipo, Exo, Aot, Bco, CalDpo, DpoNorm)}


def scores_of(pairs: int, tokens: int, seed: int, *, rounding: float = 0.0, bias: float = 0.0) -> PairScores:
    """Scores whose reference is off by random errors, and by so many nats a token more in chosen than in rejected."""
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(max(1, tokens // 2), tokens + 1, (2, pairs), generator=draw)
    policy = -1.5 * counts + torch.randn(2, pairs, generator=draw)
    noise = rounding * counts.sqrt() * torch.randn(2, pairs, generator=draw)
    reference = policy + noise + bias * counts * torch.tensor([[0.5], [-0.5]])
    return PairScores(*policy, *reference, *counts, step=1)


def tolerance_of(loss, scores: PairScores, *, alike: bool = False, parts: int = 1) -> float:
    expected = FirstLoss(loss.first_loss(), "bf16", alike)
    pairs = len(scores.policy_chosen)
    for _ in range(parts):
        expected.look(loss, scores, torch.full((pairs,), 1 / pairs / parts), ())
    return expected.tolerance(CPU, coupled=loss.couples_pairs)


def is_refused(loss, scores: PairScores, **more) -> bool:
    tolerance = tolerance_of(loss, scores, **more)
    try:
        FirstLoss(loss.first_loss(), "bf16", True).check(
            pair_losses(loss, scores).mean().item(), tolerance, "loss"
        )
    except RunError:
        return True
    return False


seeds, betas = st.integers(0, 2**31), st.floats(0.01, 3.0)


@pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)
@given(beta=betas, pairs=st.integers(1, 40), tokens=st.integers(1, 3000), seed=seeds)
def test_rounding_never_stops_a_run(kind, beta, pairs, tokens, seed):
    loss = kind(kind.Options(beta=beta))
    assert not is_refused(loss, scores_of(pairs, tokens, seed, rounding=ROUNDING["bf16"] / 2))


@given(beta=betas, pairs=st.integers(2, 40), tokens=st.integers(30, 3000), seed=seeds)
def test_another_reference_does(beta, pairs, tokens, seed):
    loss = Dpo(Dpo.Options(beta=beta))
    for bias, alike in ((0.5, False), (0.1, True)):
        assert is_refused(loss, scores_of(pairs, tokens, seed, bias=bias), alike=alike)
        # The other way round no loss is below 0, which a few pairs at a high beta may round to.
        scores = scores_of(pairs, tokens, seed, bias=-bias)
        assert is_refused(loss, scores, alike=alike) or tolerance_of(loss, scores, alike=alike) > 0.6


@pytest.mark.parametrize("beta", [0.05, 0.5])
@pytest.mark.parametrize("pairs", [1, 4, 64])
def test_of_sigmoid_dpo_the_tolerance_is_the_formula_s(pairs, beta):
    tokens = torch.full((pairs,), 400)
    scores = PairScores(*[torch.full((pairs,), -500.0)] * 4, tokens, tokens, step=1)
    margin = ROUNDING["bf16"] * math.sqrt(2 * 400)
    random, shift = beta / 2 * margin / math.sqrt(pairs), beta**2 / 8 * margin**2
    found = tolerance_of(Dpo(Dpo.Options(beta=beta)), scores)
    assert found == pytest.approx(OWN_ROUNDING["bf16"] + DEVIATIONS * (random + shift), rel=0.35)


def test_the_tolerance_is_that_of_all_micro_batches_together():
    loss, scores = Dpo(Dpo.Options(beta=0.1)), scores_of(8, 300, 0)
    random = [tolerance_of(loss, scores, parts=parts) - OWN_ROUNDING["bf16"] for parts in (1, 4)]
    assert random[0] / random[1] == pytest.approx(2, rel=0.15)  # four times the pairs, half the deviation


def test_looking_changes_neither_the_loss_nor_random_states():
    loss, scores = Bco(Bco.Options()), scores_of(4, 50, 0)
    before, random = copy.deepcopy(vars(loss)), torch.get_rng_state()
    tolerance_of(loss, scores)
    assert vars(loss) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_a_loss_that_is_not_finite_nearby_allows_its_own_rounding_alone():
    class Log(Dpo):
        def __call__(self, scores):
            return (1 + 1e4 * scores.chosen_logratio).log()

        def first_loss(self):
            return 0.0

    assert tolerance_of(Log(Log.Options()), scores_of(4, 50, 0)) == OWN_ROUNDING["bf16"]


def test_a_stored_reference_may_round_and_a_live_one_hardly():
    data, model = random_pairs(SIZES), build("llama")
    sums = own_log_prob_sums(copy.deepcopy(model), data).detach()
    off = sums + torch.tensor([0.1, -0.1])  # of the loss of every pair 0.05 and a little

    def step(precision: str, alike: bool) -> float:
        expected = FirstLoss(math.log(2), precision, alike)
        return next(
            trainer_of(copy.deepcopy(model), data, reference=off, first_loss=expected).steps()
        ).metrics["loss"]

    assert step("bf16", False) == pytest.approx(math.log(2) + 0.2 * BETA / 2, abs=0.01)
    for precision, alike in (("bf16", True), ("fp32", False), ("fp32", True)):
        with pytest.raises(RunError, match="rounding explains"):
            step(precision, alike)


@pytest.mark.parametrize(("when", "alike"), [("live", True), ("precomputed", False)])
def test_a_run_says_how_its_reference_is_computed(when, alike, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(building, "FirstLoss", lambda *given: made.append(given) or FirstLoss(*given))
    run(project(tmp_path, adapter=True), "training.steps=1", f"reference.when={when!r}")
    assert made == [(math.log(2), "fp32", alike)]
