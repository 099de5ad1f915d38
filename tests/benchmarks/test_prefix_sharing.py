"""Prefix sharing's own share: rows with every prompt twice compute the same, and the formula counts them."""

import json

import pytest
import torch

from dpotrain.data.batches.packing import pack
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.training import trainer as trainer_module
from tests.benchmarks import prefix_sharing
from tests.benchmarks.unshared import prompts_twice, unshared
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build

SIZES = [(5, 9, 3), (1, 2, 4), (20, 3, 3)]


def test_rows_with_every_prompt_twice_have_the_same_log_probs_and_gradients():
    model, data = build("llama", initializer_range=0.1), random_pairs(SIZES)
    shared = pack(data, [2, 0])
    scorer = choose_scorer(model, shared, packing="on", bf16=False).scorer
    with prompts_twice():
        twice = trainer_module.pack(data, [2, 0])
    assert len(twice.input_ids) == len(shared.input_ids) + 20 + 5
    assert twice.pairs.tolist() == [2, 0]

    def sums_and_gradients(batch):
        model.zero_grad()
        sums = scorer(batch)
        (sums[:, 0] - sums[:, 1]).sum().backward()
        return sums.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])

    for one, other in zip(sums_and_gradients(shared), sums_and_gradients(twice), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_only_answers_are_scored():
    pair = unshared(random_pairs(SIZES)[0])
    assert (len(pair.prompt), len(pair.chosen), len(pair.rejected)) == (0, 14, 8)
    assert pair.chosen_scored.tolist() == [False] * 5 + [True] * 9
    batch = pack(TokenizedPairs.of([pair]), [0])
    assert batch.position_ids.tolist() == [*range(14), *range(8)]


def test_by_flops_is_the_work_that_sharing_saves():
    pair = {"policy_flops": 30, "reference_flops": 10, "policy_flops_twice": 45, "reference_flops_twice": 12}
    pairs = [dict.fromkeys(pair, 1000), pair, pair]  # the first step warms up
    assert prefix_sharing.by_flops(pairs, 1, live=True) == pytest.approx(57 / 40)
    assert prefix_sharing.by_flops(pairs, 1, live=False) == pytest.approx(45 / 30)


def test_every_length_is_measured_in_every_way(tmp_path, capsys, monkeypatch):
    ways = []

    def prepare(workload, synthetic, *, exact):
        assert exact
        prompt, chosen, rejected, spread = synthetic
        assert spread == 0
        tokens = prompt + chosen + rejected
        pair = {
            "tokens": tokens,
            "policy_flops": tokens,
            "reference_flops": 0,
            "policy_flops_twice": tokens + prompt,
            "reference_flops_twice": 0,
        }
        mean = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        return {
            "pairs": [pair] * workload.pairs,
            "mean_tokens": mean,
            "longest_pair": tokens,
            "machine": {},
            "matrix_product_flops_per_second": 1.0,
        }

    def run(workload, overrides, *, prompts_twice):
        padded = 'training.packing="off"' in overrides
        ways.append((workload.pairs_per_step, prompts_twice, padded))
        seconds = 2.0 if prompts_twice else 1.0
        return {
            "step_ends": [seconds * step for step in range(3)],
            "losses": [0.7, 0.6, 0.5 + 0.2 * (padded and broken)],
            "live_reference": True,
            "reference_seconds": 0.0,
            "peak_memory_mb": {"resident": 100.0},
        }

    monkeypatch.setattr(prefix_sharing, "prepare", prepare)
    monkeypatch.setattr(prefix_sharing, "run_dpotrain", run)
    out = tmp_path / "sharing.json"
    given = ["--prompts", "64,256", "--answers", "64", "--steps", "3", "--tokens-per-step", "400", "--padded"]
    broken = False
    assert prefix_sharing.main([*given, "--out", str(out)]) == 0
    three = [(False, False), (True, False), (False, True)]
    assert ways == [(2, *way) for way in three] + [(1, *way) for way in three]
    first, second = json.loads(out.read_text(encoding="utf-8"))["cells"]
    assert first["pairs_per_second"] == {"shared": 2.0, "twice": 1.0, "padded": 2.0}
    assert first["by_flops"] == pytest.approx(256 / 192)
    assert second["by_flops"] == pytest.approx(640 / 384)
    assert "at most 0.0e+00 apart" in capsys.readouterr().out
    broken = True
    assert prefix_sharing.main(given) == 1
    assert "not the same work" in capsys.readouterr().out
