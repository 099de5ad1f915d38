"""Losses and scores for the tests of losses."""

import torch

from dpotrain.core.scores import PairScores

#: Policy of chosen and rejected, reference of chosen and rejected: log-ratios 2 and -3, whose difference is 5.
PAIR = (-10.0, -11.0, -12.0, -8.0)


def loss_of(kind, **options):
    """Return a loss with these options."""
    return kind(kind.Options(**options))


def scores_of(*pairs, tokens=(1, 1), **more):
    """Return PairScores of (policy chosen, policy rejected, reference chosen, reference rejected) tuples."""
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True)]
    lengths = [torch.full((len(pairs),), length, dtype=torch.int64) for length in tokens]
    return PairScores(*columns, *lengths, **more)


def value_of(kind, *, pair=PAIR, tokens=(1, 1), margin=None, step=0, total_steps=0, **options):
    """Return the loss of one pair as a number."""
    columns = {} if margin is None else {"margin": torch.tensor([margin])}
    scores = scores_of(pair, tokens=tokens, columns=columns, step=step, total_steps=total_steps)
    return loss_of(kind, **options)(scores).item()


def rewards_of(kind, *, pair=PAIR, tokens=(1, 1), **options):
    """Return the rewards of chosen and rejected of one pair as numbers."""
    return tuple(reward.item() for reward in loss_of(kind, **options).rewards(scores_of(pair, tokens=tokens)))
