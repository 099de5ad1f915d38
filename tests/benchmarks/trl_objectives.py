"""TRL's side of ``objectives``: what its loss code makes of log-probs, in the interpreter of an environment with TRL.

python -m tests.benchmarks.trl_objectives SCORES.json RESULT.json

The trainers' own methods compute the losses; a stand-in for the model returns the log-probs that are given.
"""

import argparse
import json
from collections import defaultdict
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

    def __init__(self, log_probs: torch.Tensor) -> None:
        super().__init__()
        self.log_probs = log_probs

    def forward(self, **_: Any) -> SimpleNamespace:
        nothing = torch.zeros_like(self.log_probs)
        return SimpleNamespace(
            log_probs=self.log_probs,
            entropy=nothing,
            mean_logits=nothing,
            log_sum_sq_probs=nothing,
            is_top1=nothing.bool(),
        )


def dpo_trainer(scores: dict[str, list[float]], options: dict[str, Any]) -> torch.Tensor:
    """Return the loss of one pair from DPOTrainer, with a graph to ``policy``."""
    policy = scores["policy"]
    counts = scores["tokens"]
    longest = max(counts)
    # One token of prompt, so that TRL's shift by one leaves exactly the scored tokens.
    mask = torch.tensor([[0] + [1] * count + [0] * (longest - count) for count in counts])
    shifted = mask[:, 1:].float()
    log_probs = policy.unsqueeze(1) / torch.tensor(counts).unsqueeze(1) * shifted
    settings = {"beta": 0.1, "label_smoothing": 0.0, "discopop_tau": 0.05} | options
    args = SimpleNamespace(**settings, gradient_checkpointing_kwargs=None, gradient_checkpointing=False)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=ACCELERATOR,
        args=args,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[settings["loss_type"]],
        loss_weights=[1.0],
        beta=settings["beta"],
        label_smoothing=settings["label_smoothing"],
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    reference = torch.tensor(scores["reference"])
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference[:1],
        "ref_rejected_logps": reference[1:],
    }
    return DPOTrainer._compute_loss(trainer, Model(log_probs), inputs, False)


def cpo_trainer(scores: dict[str, list[float]], options: dict[str, Any]) -> torch.Tensor:
    """Return the loss of one pair from CPOTrainer, with the NLL as it adds it, over the chosen answer's tokens."""
    policy, counts = scores["policy"], torch.tensor(scores["tokens"])
    given = policy / counts if options["loss_type"] == "simpo" else policy
    trainer = SimpleNamespace(accelerator=ACCELERATOR, **({"label_smoothing": 0.0, "alpha": 0.0} | options))
    losses, _, _ = CPOTrainer.cpo_loss(trainer, given[:1], given[1:])
    return losses.mean() + options["cpo_alpha"] * -policy[0] / counts[0]


def orpo_trainer(scores: dict[str, list[float]], options: dict[str, Any]) -> torch.Tensor:
    """Return the loss of one pair from ORPOTrainer, with the NLL over the chosen answer's tokens."""
    policy, counts = scores["policy"], torch.tensor(scores["tokens"])
    means = policy / counts
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
        for pair in given["pairs"]:
            policy = torch.tensor(pair["policy"], requires_grad=True)
            loss = TRAINERS[case["trainer"]](pair | {"policy": policy}, case["options"])
            loss.backward()
            rows.append([loss.item(), *policy.grad.tolist()])
    result = {"trl": trl.__version__, "found": found}
    options.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
