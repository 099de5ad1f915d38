"""Metrics are sums over pairs until a record divides them, once."""

import pytest
import torch

from dpotrain.core.scores import PairScores
from dpotrain.engine.training.metrics import SUMMED, Window, means
from dpotrain.engine.training.sums import pair_sums


def scores(policy, reference) -> PairScores:
    policy, reference = torch.tensor(policy), torch.tensor(reference)
    count = torch.ones(len(policy), dtype=torch.int64)
    return PairScores(policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1], count, count)


def sums_of(policy, reference, losses, weights=None, tokens=0):
    weights = torch.ones(len(losses)) if weights is None else torch.tensor(weights)
    made = scores(policy, reference)
    rewards = 0.5 * made.chosen_logratio, 0.5 * made.rejected_logratio
    return pair_sums(made, torch.tensor(losses), weights, rewards, tokens=tokens)


def mean(sums: torch.Tensor) -> dict[str, float]:
    return means(sums.tolist())


def test_rewards_by_hand():
    """Log-ratios are (1, -1) and (-2, 0): rewards at beta 0.5 are (0.5, -0.5) and (-1, 0), margins 1 and -1."""
    got = mean(sums_of([[-1.0, -4.0], [-5.0, -2.0]], [[-2.0, -3.0], [-3.0, -2.0]], [0.25, 0.75]))
    assert got == {
        "loss": 0.5, "rewards/chosen": -0.25, "rewards/rejected": -0.25, "rewards/accuracies": 0.5,
        "rewards/margins": 0.0, "logps/chosen": -3.0, "logps/rejected": -3.0,
    }  # fmt: skip


def test_a_tie_counts_half():
    """TRAPS: accuracy with ties counted as wrong is 0 at step 0."""
    got = mean(sums_of([[-1.0, -4.0]] * 3, [[-1.0, -4.0]] * 3, [0.7] * 3))
    assert got["rewards/accuracies"] == 0.5


def test_accuracy_is_counted_per_pair_not_on_batch_means():
    """TRAPS: one pair right by a lot and two wrong by a little are a third, not one."""
    got = mean(sums_of([[9.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[0.0, 0.0]] * 3, [0.0] * 3))
    assert got["rewards/accuracies"] == pytest.approx(1 / 3)


def test_microbatches_of_unequal_size_weigh_pairs_equally():
    """TRAPS: gradient accumulation as a mean of means."""
    one = sums_of([[0.0, 0.0]], [[0.0, 0.0]], [1.0])
    three = sums_of([[0.0, 0.0]] * 3, [[0.0, 0.0]] * 3, [5.0, 5.0, 5.0])
    assert mean(one + three)["loss"] == 4.0


def test_a_pair_without_weight_counts_nowhere():
    real = sums_of([[-1.0, -2.0]], [[-1.5, -2.5]], [0.3])
    filled = sums_of([[-1.0, -2.0], [-9.0, 9.0]], [[-1.5, -2.5], [0.0, 0.0]], [0.3, 7.0], weights=[1.0, 0.0])
    assert torch.equal(real, filled)


def test_a_window_averages_over_its_pairs_and_steps():
    window = Window()
    window.add(sums_of([[0.0, 0.0]], [[0.0, 0.0]], [1.0], tokens=10).tolist(), {}, grad_norm=2.0, seconds=1.0)
    window.add(
        sums_of([[0.0, 0.0]] * 3, [[0.0, 0.0]] * 3, [5.0] * 3, tokens=30).tolist(),
        {},
        grad_norm=4.0,
        seconds=3.0,
    )
    got = window.metrics(learning_rate=1e-3, epoch=0.5)
    assert (got["loss"], got["grad_norm"]) == (4.0, 3.0)
    assert (got["learning_rate"], got["epoch"]) == (1e-3, 0.5)
    assert (got["pairs_per_second"], got["tokens_per_second"]) == (1.0, 10.0)
    assert got["peak_memory_mb"] > 0
    assert list(got)[:4] == ["loss", "grad_norm", "learning_rate", "epoch"]


def test_sums_are_named_in_order():
    assert len(sums_of([[0.0, 0.0]], [[0.0, 0.0]], [0.0])) == len(SUMMED)
