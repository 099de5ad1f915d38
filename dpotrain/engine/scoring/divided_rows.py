"""Rows whose tokens are divided over several processes, proven on a model before it is trained that way.

Everything but attention computes token by token, so that a process needs only its own tokens there, and attention has
an exchange (:mod:`dpotrain.engine.attention.head_exchange`). That a model has nothing else that looks at neighbouring
tokens is shown by its log-probs: those of divided rows are those of whole ones.
"""

from __future__ import annotations

import torch

from dpotrain.core.errors import RunError
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.parallel.context import ContextGroup
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.scoring.dropout import dropout_off
from dpotrain.engine.scoring.probe import agree
from dpotrain.engine.scoring.scorer import Scorer, causal_lm
from dpotrain.engine.sharding.shards import computes_in_float32


def divide_rows(scorer: Scorer, context: ContextGroup, sample: PackedPairs, parallel: Parallel) -> None:
    """Have a packed scorer divide its rows over the processes of ``context`` from now on. Collective.

    Raises:
        RunError: its log-probs of ``sample``, a small micro-batch of real pairs, are then others; or the model's heads
            cannot be divided.
    """
    exact = computes_in_float32(scorer)
    low = scorer.bf16 and not exact
    device = sample.input_ids.device.type
    with dropout_off(scorer), torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=low):
        expected = scorer.log_probs(sample)
        scorer.context = context
        got = scorer.log_probs(sample)
    (differs,) = parallel.any(not agree(got, expected, exact))
    if differs:
        off = (got - expected).abs().max().item()
        raise RunError(
            f"parallel.context = {context.size}: {type(causal_lm(scorer.policy)).__name__} computes other log-probs "
            f"where its tokens are divided over processes (by up to {off:.2g} nats), so something in it besides "
            "attention looks at neighbouring tokens.\nLeave parallel.context out."
        )
