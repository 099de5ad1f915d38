"""The ``tokens`` metrics by hand, and their entropy."""

import pytest
import torch

from dpotrain.core.scores import PairScores
from dpotrain.engine.scoring.pairs import needed_statistics
from dpotrain.engine.training.metrics import means_of
from dpotrain.engine.training.recipe_metrics import RecipeMetrics
from dpotrain_plugins.losses import Dpo
from dpotrain_plugins.metrics.tokens import Tokens


def test_by_hand():
    """Chosen sums -8 and -4 over 4 and 1 tokens are -12 / 5 a token; with the reference's -6 and -4, -2 / 5."""
    scores = PairScores(
        *(torch.tensor(values) for values in ([-8.0, -4.0], [-3.0, -1.0], [-6.0, -4.0], [-2.0, -2.0])),
        torch.tensor([4, 1]), torch.tensor([1, 3]),
        statistics={"entropy": torch.tensor([[1.0, 2.0], [3.0, 5.0]])},
    )  # fmt: skip
    metric = Tokens(Tokens.Options(entropy=True))
    recipe_metrics = RecipeMetrics({metric: metric.measures})
    got = means_of(recipe_metrics.by_name(recipe_metrics.sums(scores, torch.ones(2))))
    assert got == pytest.approx(
        {
            "logps_chosen": -12 / 5, "logps_rejected": -4 / 4, "logratios_chosen": -2 / 5, "logratios_rejected": 0.0,
            "entropy_chosen": 2.0, "entropy_rejected": 3.5,
        },
        abs=1e-6,
    )  # fmt: skip


def test_the_entropy_is_computed_only_where_it_is_asked_for():
    loss = Dpo(Dpo.Options())
    assert needed_statistics(loss, [Tokens(Tokens.Options())]) == ()
    assert needed_statistics(loss, [Tokens(Tokens.Options(entropy=True))]) == ("entropy",)
