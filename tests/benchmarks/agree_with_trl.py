"""Do dpotrain and TRL take the same steps? Both train on the same pairs in the same order, in float32, and
the losses of every step are compared.

    python -m tests.benchmarks.agree_with_trl --model DIR --data PAIRS.jsonl --mode full --trl-python PYTHON

PAIRS.jsonl has ``prompt``, ``chosen`` and ``rejected``, each a list of messages. TRL is no dependency of this project:
``--trl-python`` names the interpreter of an environment that has it (by default this one). Prints a table and
exits with 1 where any step differs by more than ``--bar``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TRL = """
import json, sys, tempfile
import torch
from datasets import load_dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

options = json.loads(sys.argv[1])
policy = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
reference, adapter = None, None
if options["mode"] == "full":
    reference = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
else:
    from peft import LoraConfig
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")

class InOrder(DPOTrainer):
    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(dataset if dataset is not None else self.train_dataset)

with tempfile.TemporaryDirectory() as scratch:
    config = DPOConfig(
        output_dir=scratch, per_device_train_batch_size=options["pairs_per_step"], num_train_epochs=1,
        learning_rate=options["lr"], lr_scheduler_type="constant", beta=0.1, max_length=options["max_length"],
        bf16=False, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, seed=42, use_cpu=True,
        max_grad_norm=1.0,
    )
    rows = load_dataset("json", data_files=options["data"], split="train").select(range(options["pairs"]))
    trainer = InOrder(policy, ref_model=reference, args=config, train_dataset=rows,
                      processing_class=AutoTokenizer.from_pretrained(options["model"]), peft_config=adapter)
    trainer.train()
print(json.dumps([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))
"""

RECIPE = """
[run]
output_dir = {output}
[model]
use = "transformers"
name = {model}
dtype = "float32"
[data]
use = "hf-datasets"
name = {data}
format = "conversational"
shuffle = false
limit = {pairs}
max_length = {max_length}
[loss]
use = "dpo"
beta = 0.1
[training]
pairs_per_step = {pairs_per_step}
precision = "fp32"
[optimizer]
lr = {lr}
[schedule]
use = "constant"
[logging]
every = 1
{adapter}
"""

ADAPTER = '[adapter]\nuse = "lora"\nrank = 16\nalpha = 32'


def trl_losses(options: dict[str, object], python: str) -> list[float]:
    """Losses of TRL's DPOTrainer, rounded as it logs them."""
    command = [python, "-c", TRL, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"TRL failed:\n{done.stderr[-3000:]}")
    losses: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return losses


def our_losses(options: dict[str, object]) -> list[float]:
    """Losses of dpotrain in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "recipe.toml"
        values = {name: json.dumps(value) for name, value in options.items()}
        adapter = ADAPTER if options["mode"] == "lora" else ""
        output = json.dumps(str(Path(scratch) / "run"))
        recipe.write_text(RECIPE.format(**values, output=output, adapter=adapter), encoding="utf-8")
        code = "from dpotrain.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "run", str(recipe)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"dpotrain failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
        lines = (Path(scratch) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Compare the losses of dpotrain and TRL step by step.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--mode", choices=["full", "lora"], default="full")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--pairs-per-step", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--bar", type=float, default=1e-3)
    parser.add_argument("--trl-python", default=sys.executable)
    arguments = vars(parser.parse_args())
    bar, python = arguments.pop("bar"), arguments.pop("trl_python")
    ours, theirs = our_losses(arguments), trl_losses(arguments, python)
    print("step   dpotrain        TRL   difference")
    for step, (one, two) in enumerate(zip(ours, theirs, strict=True), 1):
        print(f"{step:4d} {one:10.6f} {two:10.6f}   {one - two:+.1e}")
    worst = max(abs(one - two) for one, two in zip(ours, theirs, strict=True))
    print(f"largest difference {worst:.1e}")
    sys.exit(worst > bar)


if __name__ == "__main__":
    main()
