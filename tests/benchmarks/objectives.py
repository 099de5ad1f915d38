"""Are the losses those of TRL? Exits with 1 where a loss or a gradient differs by more than ``--bar``.

python -m tests.benchmarks.objectives --trl-python PYTHON

Both sides are given the same random log-probs, pair by pair, in float32. Compared are the loss, less the constant by
which a paper's form differs from TRL's, and its derivatives by the log-probs of chosen and rejected.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpotrain.core.scores import PairScores
from dpotrain_plugins import losses
from tests.benchmarks.sides import ROOT, why_no_trl


@dataclass(frozen=True)
class Case:
    """A loss here, and what it is in TRL."""

    name: str
    """Of the loss here."""
    options: dict[str, Any]
    trainer: str
    """"dpo", "cpo" or "orpo"."""
    theirs: dict[str, Any]
    constant: float = 0.0
    """What TRL's loss has more."""
    remark: str = ""


def _dpo(name: str, theirs: str, constant: float = 0.0, remark: str = "", **options: Any) -> Case:
    renamed = {"tau": "discopop_tau"}
    keys = {renamed.get(key, key): value for key, value in options.items()}
    return Case(name, options, "dpo", {"loss_type": theirs, **keys}, constant, remark)


CASES = (
    _dpo("dpo", "sigmoid", beta=0.2),
    _dpo("ipo", "ipo", beta=0.2),
    _dpo("hinge", "hinge", beta=0.2),
    _dpo("robust", "robust", beta=0.2, label_smoothing=0.1),
    _dpo("exo", "exo_pair", beta=0.2, label_smoothing=0.01),
    _dpo("dpo-norm", "sigmoid_norm", beta=5.0),
    _dpo("nca", "nca_pair", beta=0.2),
    _dpo("bco", "bco_pair", beta=0.2),
    _dpo("sppo", "sppo_hard", beta=0.5),
    _dpo("apo-zero", "apo_zero", 1.0, "TRL adds 1", beta=0.2),
    _dpo("apo-down", "apo_down", 1.0, "TRL adds 1", beta=0.2),
    _dpo("discopop", "discopop", beta=0.2, tau=0.05),
    Case("sft", {}, "dpo", {"loss_type": "sft"}, remark="of one pair; TRL's mean is over a micro-batch's tokens"),
    Case(
        "simpo",
        {"beta": 2.0, "gamma": 0.5},
        "cpo",
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0},
    ),
    Case(
        "alphapo",
        {"beta": 2.5, "gamma": 0.1, "alpha": 0.25},
        "cpo",
        {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.1, "cpo_alpha": 0.0, "alpha": 0.25},
    ),
    Case(
        "cpo",
        {"beta": 0.1, "weight": 1.0, "nll": "mean"},
        "cpo",
        {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0},
        remark='nll = "mean"; of one pair',
    ),
    Case("orpo", {"weight": 0.2}, "orpo", {"beta": 0.2}, remark="NLL of the answer alone, of one pair"),
)  # fmt: skip


def draw(pairs: int, seed: int) -> list[dict[str, Any]]:
    """Return pairs of log-probs between -4 and -0.05 a token, with a reference some nats away."""
    chance = random.Random(seed)
    drawn = []
    for _ in range(pairs):
        tokens = [chance.randint(1, 60) for _ in range(2)]
        policy = [-count * chance.uniform(0.05, 4) for count in tokens]
        reference = [min(logp + chance.gauss(0, 6), -0.01) for logp in policy]
        drawn.append({"tokens": tokens, "policy": policy, "reference": reference})
    return drawn


def ours(case: Case, pairs: list[dict[str, Any]]) -> list[list[float]]:
    """Return loss and derivatives of each pair."""
    kind = next(kind for kind in losses.LOSSES if kind.name == case.name)
    loss = kind(kind.Options(**case.options))
    rows = []
    for pair in pairs:
        policy = torch.tensor(pair["policy"], requires_grad=True)
        reference, tokens = torch.tensor(pair["reference"]), torch.tensor(pair["tokens"])
        value = loss(
            PairScores(policy[:1], policy[1:], reference[:1], reference[1:], tokens[:1], tokens[1:])
        ).sum()
        value.backward()
        assert policy.grad is not None
        rows.append([value.item() + case.constant, *policy.grad.tolist()])
    return rows


def theirs(pairs: list[dict[str, Any]], python: str) -> dict[str, Any]:
    """Return what TRL makes of the pairs, by the names of the losses here."""
    cases = [{"name": case.name, "trainer": case.trainer, "options": case.theirs} for case in CASES]
    with tempfile.TemporaryDirectory(prefix="dpotrain-benchmark-") as scratch:
        scores, result = Path(scratch) / "scores.json", Path(scratch) / "result.json"
        scores.write_text(json.dumps({"cases": cases, "pairs": pairs}), encoding="utf-8")
        command = [python, "-m", "tests.benchmarks.trl_objectives", str(scores), str(result)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit((done.stdout[-1000:] + done.stderr[-3000:]).strip())
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found


def differences(case: Case, one: list[list[float]], two: list[list[float]]) -> tuple[float, float]:
    """Return the largest difference of losses and of derivatives, relative where they are larger than 1."""
    apart = [
        [abs(a - b) / max(1.0, abs(b)) for a, b in zip(mine, other, strict=True)]
        for mine, other in zip(one, two, strict=True)
    ]
    return max(row[0] for row in apart), max(max(row[1:]) for row in apart)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Compare the losses with TRL's on the same log-probs.")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bar", type=float, default=1e-4)
    parser.add_argument("--trl-python", default=sys.executable)
    options = parser.parse_args()
    if reason := why_no_trl(options.trl_python):
        sys.exit(reason)
    pairs = draw(options.pairs, options.seed)
    result = theirs(pairs, options.trl_python)
    print(f"{options.pairs} random pairs, TRL {result['trl']}; largest difference\n")
    print("| loss | TRL | loss | derivatives | remark |\n| --- | --- | --- | --- | --- |")
    worst = 0.0
    for case in CASES:
        value, slope = differences(case, ours(case, pairs), result["found"][case.name])
        worst = max(worst, value, slope)
        there = case.theirs.get("loss_type", case.trainer)
        print(f"| `{case.name}` | {there} | {value:.1e} | {slope:.1e} | {case.remark} |")
    sys.exit(worst > options.bar)


if __name__ == "__main__":
    main()
