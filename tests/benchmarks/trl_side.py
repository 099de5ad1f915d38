"""TRL's side: its DPOTrainer over a workload, in the interpreter of an environment that has TRL.

python -m tests.benchmarks.trl_side WORKLOAD.json RESULT.json [--checkpointing] [--precompute]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from tests.benchmarks.clock import StepClock, peak_memory_mb, synchronize, versions
from tests.benchmarks.workload import Workload


class InOrder(DPOTrainer):
    """Takes the pairs in file order, and knows how long its reference pass before training took."""

    reference_seconds = 0.0

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    def _precompute_ref_logps(self, *args, **kwargs):
        synchronize()
        began = time.perf_counter()
        found = super()._precompute_ref_logps(*args, **kwargs)
        synchronize()
        self.reference_seconds += time.perf_counter() - began
        return found


class Steps(TrainerCallback):
    """Feeds the clock, and notes each step's own duration, which leaves out what lies between steps."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self.began = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, *_, **__) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__) -> None:
        self.clock.step_ended()
        self.seconds.append(self.clock.ends[-1] - self.began)


def load(workload: Workload) -> Any:
    kwargs: dict[str, Any] = {"dtype": getattr(torch, workload.weights), "attn_implementation": "sdpa"}
    if workload.mode == "qlora":
        from transformers import BitsAndBytesConfig

        compute = torch.bfloat16 if workload.precision == "bf16" else torch.float32
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    return AutoModelForCausalLM.from_pretrained(workload.model, **kwargs)


def train(workload: Workload, scratch: str, checkpointing: bool, precompute: bool) -> dict[str, Any]:
    if precompute and not hasattr(DPOTrainer, "_precompute_ref_logps"):
        raise SystemExit(
            "this version of TRL computes its reference pass in a place that is not known here, so it cannot be timed"
        )
    adapter = None
    if workload.mode != "full":
        from peft import LoraConfig

        adapter = LoraConfig(
            r=workload.rank, lora_alpha=workload.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    config = DPOConfig(
        output_dir=scratch,
        per_device_train_batch_size=workload.pairs_per_step,
        num_train_epochs=workload.epochs,
        learning_rate=workload.lr,
        lr_scheduler_type="constant",
        **(workload.trl_loss or {"beta": workload.beta}),
        max_length=workload.max_length,
        max_grad_norm=1.0,
        bf16=workload.precision == "bf16",
        gradient_checkpointing=checkpointing,
        precompute_ref_log_probs=precompute,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=workload.seed,
        use_cpu=not torch.cuda.is_available(),
    )
    rows = load_dataset("json", data_files=workload.data, split="train").select(range(workload.pairs))
    trainer = InOrder(
        load(workload),
        ref_model=load(workload) if workload.mode == "full" and not precompute else None,
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(workload.model),
        peft_config=adapter,
    )
    steps = Steps(StepClock(workload.steps_per_epoch))
    trainer.add_callback(steps)
    trainer.train()
    return {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "step_ends": steps.clock.ends,
        "step_seconds": steps.seconds,
        "reference_seconds": trainer.reference_seconds,
        "live_reference": not precompute,
        "peak_memory_mb": peak_memory_mb(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Run TRL's side of a comparison.")
    parser.add_argument("workload", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--precompute", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = train(Workload.read(options.workload), scratch, options.checkpointing, options.precompute)
    options.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
