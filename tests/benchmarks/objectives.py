"""Are the losses those of TRL? Exits with 1 where a loss or a gradient differs by more than ``--bar``.

python -m tests.benchmarks.objectives --trl-python PYTHON

Both sides are given the same random log-probs in float32, pair by pair, or several pairs at once where the loss is of
all of them. Compared are the loss, less the constant by which a paper's form differs from TRL's, and its derivatives by
the log-probs of chosen and rejected.
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
from dpotrain.engine.scoring.logprobs import completion_sums
from dpotrain.engine.scoring.scorer import tail_weights
from dpotrain.plugin.api import Loss
from dpotrain_plugins import losses
from dpotrain_plugins.losses.mix import Term
from tests.benchmarks.sides import ROOT, Side

#: Pairs of a loss that is of several.
TOGETHER = 8


@dataclass(frozen=True)
class Case:
    """A loss here, and what it is in TRL."""

    name: str
    loss: dict[str, Any]
    """``[loss]`` of a recipe."""
    trainer: str
    """"dpo", "cpo" or "orpo"."""
    theirs: dict[str, Any]
    """Keys of TRL's configuration."""
    constant: float = 0.0
    """What TRL's loss has more."""
    remark: str = ""
    pairs: int = 1
    """How many pairs one loss is of."""


def _dpo(
    use: str,
    theirs: str,
    constant: float = 0.0,
    remark: str = "",
    *,
    name: str = "",
    pairs: int = 1,
    more: dict[str, Any] | None = None,
    **options: Any,
) -> Case:
    """Return a case of TRL's DPOTrainer; ``more`` are keys of its configuration, ``options`` those of the loss."""
    renamed = {"tau": "discopop_tau"}
    keys = {
        renamed.get(key, key): value
        for key, value in options.items()
        if key in ("beta", "label_smoothing", "tau")
    }
    return Case(
        name or use, {"use": use, **options}, "dpo", {"loss_type": theirs, **keys, **(more or {})},
        constant, remark, pairs,
    )  # fmt: skip


def _diverged(use: str, theirs: str, divergence: str, kind: str, **options: Any) -> Case:
    """Return a case with another divergence than the reverse KL."""
    more = {"f_divergence_type": kind}
    if alpha := options.get("divergence_alpha"):
        more["f_alpha_divergence_coef"] = 1 - alpha
    name = divergence if use == "dpo" else f"{divergence}, {use}"
    return _dpo(use, theirs, name=name, more=more, divergence=divergence, **options)


_MPO = [
    {"use": "dpo", "beta": 0.1, "weight": 0.8},
    {"use": "bco", "beta": 0.1, "running_mean": False, "weight": 0.2},
    {"use": "sft", "per": "token"},
]

CASES = (
    _dpo("dpo", "sigmoid", beta=0.2),
    _dpo("ipo", "ipo", beta=0.2),
    _dpo("hinge", "hinge", beta=0.2),
    _dpo("robust", "robust", beta=0.2, label_smoothing=0.1),
    _dpo("exo", "exo_pair", beta=0.2, label_smoothing=0.01),
    _dpo("dpo-norm", "sigmoid_norm", beta=5.0),
    _dpo("nca", "nca_pair", beta=0.2),
    _dpo("bco", "bco_pair", remark="running_mean = false", beta=0.2, running_mean=False),
    _dpo("sppo", "sppo_hard", beta=0.5),
    _dpo("apo-zero", "apo_zero", 1.0, "TRL adds 1", beta=0.2),
    _dpo("apo-down", "apo_down", 1.0, "TRL adds 1", beta=0.2),
    _dpo("discopop", "discopop", beta=0.2, tau=0.05),
    _dpo("aot", "aot", remark=f"of {TOGETHER} pairs", pairs=TOGETHER, beta=0.2, label_smoothing=0.1),
    _dpo("aot-unpaired", "aot_unpaired", remark=f"of {TOGETHER} pairs", pairs=TOGETHER, beta=0.2),
    _dpo("sft", "sft", remark=f'per = "token", of {TOGETHER} pairs', pairs=TOGETHER, per="token"),
    Case(
        "mix",
        {"use": "mix", "terms": _MPO},
        "dpo",
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0], "beta": 0.1},
        remark=f"dpo, bco and sft, of {TOGETHER} pairs",
        pairs=TOGETHER,
    ),
    _diverged("dpo", "sigmoid", "forward-kl", "forward_kl", beta=0.1),
    _diverged("dpo", "sigmoid", "jensen-shannon", "js_divergence", beta=0.1),
    _diverged("dpo", "sigmoid", "alpha", "alpha_divergence", beta=0.1, divergence_alpha=0.3),
    _diverged("hinge", "hinge", "jensen-shannon", "js_divergence", beta=0.1),
    _diverged("robust", "robust", "jensen-shannon", "js_divergence", beta=0.1, label_smoothing=0.1),
    _diverged("exo", "exo_pair", "jensen-shannon", "js_divergence", beta=0.1, label_smoothing=0.01),
    _diverged("discopop", "discopop", "jensen-shannon", "js_divergence", beta=0.1),
    _dpo("dpo", "sigmoid", name="ld-dpo", more={"ld_alpha": 0.4}, beta=0.1, tail_weight=0.4),
    _dpo("ipo", "ipo", name="ld-dpo, ipo", more={"ld_alpha": 0.4}, beta=0.1, tail_weight=0.4),
    _dpo("dpo-norm", "sigmoid_norm", name="ld-dpo, norm", more={"ld_alpha": 0.0}, beta=5.0, tail_weight=0.0),
    _dpo("dpo", "sigmoid", name="wpo", more={"use_weighting": True}, beta=0.1, weighting="wpo"),
    _dpo("nca", "nca_pair", name="wpo, nca", more={"use_weighting": True}, beta=0.1, weighting="wpo"),
    Case(
        "simpo",
        {"use": "simpo", "beta": 2.0, "gamma": 0.5},
        "cpo",
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0},
    ),
    Case(
        "alphapo",
        {"use": "alphapo", "beta": 2.5, "gamma": 0.1, "alpha": 0.25},
        "cpo",
        {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.1, "cpo_alpha": 0.0, "alpha": 0.25},
    ),
    Case(
        "cpo",
        {"use": "cpo", "beta": 0.1, "weight": 1.0, "nll": "mean"},
        "cpo",
        {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0},
        remark='nll = "mean"; of one pair',
    ),
    Case(
        "orpo",
        {"use": "orpo", "weight": 0.2},
        "orpo",
        {"beta": 0.2},
        remark="NLL of the answer alone, of one pair",
    ),
)  # fmt: skip


def draw(pairs: int, seed: int) -> list[dict[str, Any]]:
    """Return pairs of log-probs between -4 and -0.05 a token, with a reference some nats away.

    ``squares`` are means over an answer's tokens of the log of the sum of squared probabilities.
    """
    chance = random.Random(seed)
    drawn = []
    for _ in range(pairs):
        tokens = [chance.randint(1, 60) for _ in range(2)]
        policy = [-count * chance.uniform(0.05, 4) for count in tokens]
        reference = [min(logp + chance.gauss(0, 6), -0.01) for logp in policy]
        squares = [chance.uniform(-3, 0) for _ in range(2)]
        drawn.append({"tokens": tokens, "policy": policy, "reference": reference, "squares": squares})
    return drawn


def build(table: dict[str, Any]) -> Loss:
    """Return the loss of a table of a recipe."""
    options = dict(table)
    name = options.pop("use")
    kind = next(kind for kind in losses.dpotrain_losses() if kind.name == name)
    if name == "mix":
        terms = [dict(term) for term in options["terms"]]
        weights = [term.pop("weight", 1.0) for term in terms]
        options["terms"] = [
            Term(loss=build(term), weight=weight) for term, weight in zip(terms, weights, strict=True)
        ]
    return kind(kind.Options(**options))


def ours(loss: Loss, case: Case, pairs: list[dict[str, Any]]) -> list[list[float]]:
    """Return the loss of each pair, or group of pairs, and its derivatives."""
    rows = []
    for group in _groups(pairs, case.pairs):
        policy = torch.tensor([pair["policy"] for pair in group], requires_grad=True)
        reference = torch.tensor([pair["reference"] for pair in group])
        tokens = torch.tensor([pair["tokens"] for pair in group])
        chosen, rejected = _sums(policy, tokens, loss).unbind(1)
        scores = PairScores(
            chosen,
            rejected,
            *_sums(reference, tokens, loss).unbind(1),
            *tokens.unbind(1),
            statistics={"log_squares": torch.tensor([pair["squares"] for pair in group])},
        )
        value = loss.losses(scores).mean()
        value.backward()
        assert policy.grad is not None
        rows.append([value.item() + case.constant, *policy.grad.flatten().tolist()])
    return rows


def _groups(pairs: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _sums(log_probs: torch.Tensor, tokens: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Return (pairs, 2) sums over tokens that share (pairs, 2) log-probs evenly, discounted as the scorer does."""
    if loss.options.tail_weight == 1:
        return log_probs
    each = (log_probs / tokens).flatten().repeat_interleave(tokens.flatten())
    return completion_sums(each * tail_weights(tokens, len(each), loss.options.tail_weight), tokens)


def theirs(pairs: list[dict[str, Any]], python: str) -> dict[str, Any]:
    """Return what TRL makes of the pairs, by the names of the losses here."""
    cases = [
        {"name": case.name, "trainer": case.trainer, "options": case.theirs, "pairs": case.pairs}
        for case in CASES
    ]
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
    if reason := Side("trl", options.trl_python).why_not():
        sys.exit(f"{reason}; name an interpreter that has it with --trl-python")
    pairs = draw(options.pairs, options.seed)
    result = theirs(pairs, options.trl_python)
    print(f"{options.pairs} random pairs, TRL {result['trl']}; largest difference\n")
    print("| loss | TRL | loss | derivatives | remark |\n| --- | --- | --- | --- | --- |")
    worst = 0.0
    for case in CASES:
        value, slope = differences(case, ours(build(case.loss), case, pairs), result["found"][case.name])
        worst = max(worst, value, slope)
        there = case.theirs.get("loss_type", case.trainer)
        there = ", ".join(there) if isinstance(there, list) else there
        print(f"| `{case.name}` | {there} | {value:.1e} | {slope:.1e} | {case.remark} |")
    sys.exit(worst > options.bar)


if __name__ == "__main__":
    main()
