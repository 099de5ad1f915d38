"""TRL's side of ``objectives``: what its loss code makes of log-probs, in the interpreter of an environment with TRL.

python -m tests.benchmarks.trl_objectives SCORES.json RESULT.json

The trainers' own methods compute the losses; a stand-in for the model returns the log-probs that are given.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from accelerate import Accelerator
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

ACCELERATOR = Accelerator(cpu=True)


class Model(torch.nn.Module):
    """Returns log-probs of tokens as a model's output has them; the tokens of a completion share its sum evenly."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs: torch.Tensor, log_squares: torch.Tensor) -> None:
        super().__init__()
        self.log_probs = log_probs
        self.log_squares = log_squares

    def forward(self, **_: Any) -> SimpleNamespace:
        nothing = torch.zeros_like(self.log_probs)
        return SimpleNamespace(
            log_probs=self.log_probs,
            log_sum_sq_probs=self.log_squares,
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
        )


def dpo_trainer(
    pairs: Sequence[dict[str, Any]], policy: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Return the loss of DPOTrainer, with a graph to ``policy``, (pairs, 2)."""
    counts = (
        torch.tensor([pair["tokens"] for pair in pairs]).t().flatten()
    )  # TRL has all chosen answers first
    # One token of prompt, so that TRL's shift by one leaves exactly the scored tokens.
    mask = (torch.arange(int(counts.max()) + 1) <= counts.unsqueeze(1)).long()
    mask[:, 0] = 0
    shifted = mask[:, 1:].float()

    def of_tokens(sums: torch.Tensor) -> torch.Tensor:
        return (sums.t().flatten() / counts).unsqueeze(1) * shifted

    reference = torch.tensor([pair["reference"] for pair in pairs])
    squares = torch.tensor([pair["squares"] for pair in pairs]).t().reshape(-1, 1) * shifted
    model = Model(of_tokens(policy), squares)
    settings = {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "discopop_tau": 0.05,
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "use_weighting": False,
        "loss_weights": None,
    } | options
    types = settings["loss_type"] if isinstance(settings["loss_type"], list) else [settings["loss_type"]]
    trainer = SimpleNamespace(
        **{key: value for key, value in settings.items() if key not in ("loss_type", "loss_weights")},
        model=model,
        ref_model=Model(of_tokens(reference), squares),
        accelerator=ACCELERATOR,
        args=SimpleNamespace(**settings, gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        loss_types=types,
        loss_weights=settings["loss_weights"] or [1.0] * len(types),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
    }
    return DPOTrainer._compute_loss(trainer, model, inputs, False)


def cpo_trainer(
    pairs: Sequence[dict[str, Any]], policy: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Return the loss of one pair from CPOTrainer, with the NLL as it adds it, over the chosen answer's tokens."""
    (pair,), (policy,) = pairs, policy
    counts = torch.tensor(pair["tokens"])
    given = policy / counts if options["loss_type"] == "simpo" else policy
    trainer = SimpleNamespace(accelerator=ACCELERATOR, **({"label_smoothing": 0.0, "alpha": 0.0} | options))
    losses, _, _ = CPOTrainer.cpo_loss(trainer, given[:1], given[1:])
    return losses.mean() + options["cpo_alpha"] * -policy[0] / counts[0]


def orpo_trainer(
    pairs: Sequence[dict[str, Any]], policy: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Return the loss of one pair from ORPOTrainer, with the NLL over the chosen answer's tokens."""
    (pair,), (policy,) = pairs, policy
    means = policy / torch.tensor(pair["tokens"])
    trainer = SimpleNamespace(accelerator=ACCELERATOR, **options)
    return -means[0] - ORPOTrainer.odds_ratio_loss(trainer, means[:1], means[1:])[0].mean()


TRAINERS = {"dpo": dpo_trainer, "cpo": cpo_trainer, "orpo": orpo_trainer}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute TRL's losses of given log-probs.")
    parser.add_argument("scores", type=Path)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    given = json.loads(options.scores.read_text(encoding="utf-8"))
    found: dict[str, list[list[float]]] = {}
    for case in given["cases"]:
        rows = found[case["name"]] = []
        for start in range(0, len(given["pairs"]), case["pairs"]):
            pairs = given["pairs"][start : start + case["pairs"]]
            policy = torch.tensor([pair["policy"] for pair in pairs], requires_grad=True)
            loss = TRAINERS[case["trainer"]](pairs, policy, case["options"])
            loss.backward()
            rows.append([loss.item(), *policy.grad.flatten().tolist()])
    result = {"trl": trl.__version__, "found": found}
    options.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
