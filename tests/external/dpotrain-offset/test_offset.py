from math import exp, log1p

import pytest
import torch
from dpotrain_offset import Gap, OffsetDpo

from dpotrain.plugin.api import PairScores
from dpotrain.testing import LossConformance, MetricConformance


class TestOffsetDpo(LossConformance):
    component = OffsetDpo
    options = {"beta": 0.5, "scale": 2.0}


class TestGap(MetricConformance):
    component = Gap


def test_the_gap_is_what_a_pair_must_be_ahead_by():
    tokens, zero = torch.tensor([3, 3]), torch.zeros(2)
    scores = PairScores(
        torch.tensor([1.0, 1.0]),
        zero,
        zero,
        zero,
        tokens,
        tokens,
        columns={"score_gap": torch.tensor([0.0, 2.0])},
    )
    losses = OffsetDpo(OffsetDpo.Options(beta=0.5, scale=0.25))(scores)
    assert losses.tolist() == pytest.approx([log1p(exp(-0.5)), log1p(exp(0.0))])
