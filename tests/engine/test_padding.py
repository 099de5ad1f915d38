"""Padded scoring asks the device nothing: what depends on lengths is computed in the host's memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dpotrain.data.batches.packing import pack
from dpotrain.engine.reference.reference import PrecomputedReference
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.padding import pad
from dpotrain.engine.scoring.rope_scaling import LengthRule
from dpotrain.engine.scoring.scorer import PaddedScorer
from tests.engine.pairs import random_pairs
from tests.support import tiny_model

META = torch.device("meta")  # has shapes and no numbers, so that reading one is an error
BATCH = pack(random_pairs([(5, 9, 3), (2, 1, 17), (11, 4, 4)]), range(3))
RULES = {"one part": (), "parts by length": (LengthRule("by length", 0, per_length=True),)}


class _NoWaits(TorchDispatchMode):
    """Refuses operations whose result's shape, or Python number, a device is waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        asks = func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        repeats = func == torch.ops.aten.repeat_interleave.Tensor and not (kwargs or {}).get("output_size")
        assert not asks, func
        assert not repeats, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_the_index_is_made_on_the_host(rules):
    batch = BATCH.to(META)
    assert batch.on_host is BATCH
    parts, order = pad(batch, rules)
    expected, expected_order = pad(BATCH, rules)
    assert [each.ids.shape for each in parts] == [each.ids.shape for each in expected]
    assert all(each.places.device == META for each in parts)
    assert (order is None) == (expected_order is None) == (not rules)


@pytest.mark.parametrize("transform", [LogitTransform(), None])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_pass_asks_for_no_number(rules, transform):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")  # for others transformers looks whether anything is padded
    scorer = PaddedScorer(model, transform, False, rules)
    scorer.tail_weight = 0.5
    with _NoWaits():
        assert scorer(BATCH).shape == (3, 2)
    with _NoWaits(), pytest.raises(AssertionError, match="nonzero"):
        BATCH.targets.nonzero()


def test_stored_log_probs_are_looked_up_on_the_host():
    assert PrecomputedReference(torch.zeros(3, 2)).scores(BATCH.to(META)).device == META
