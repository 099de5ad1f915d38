"""TRL's side: its DPOTrainer over a workload, in the interpreter of an environment that has TRL.

python -m tests.benchmarks.trl_side WORKLOAD.json RESULT.json [--checkpointing] [--precompute] [--liger]
"""

import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.benchmarks.clock import synchronize
from tests.benchmarks.hf_side import Steps, command_line, rows, shared_settings
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


def train(
    workload: Workload, scratch: Path, checkpointing: bool, precompute: bool, liger: bool
) -> dict[str, Any]:
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
        **shared_settings(workload, scratch, checkpointing),
        **(workload.trl_loss or {"beta": workload.beta}),
        max_length=workload.max_length,
        precompute_ref_log_probs=precompute,
        use_liger_kernel=liger,
    )
    steps = Steps(workload.steps_per_epoch)
    trainer = InOrder(
        load(workload),
        ref_model=load(workload) if workload.mode == "full" and not precompute else None,
        args=config,
        train_dataset=Dataset.from_list(rows(workload)),
        processing_class=AutoTokenizer.from_pretrained(workload.model),
        peft_config=adapter,
        callbacks=[steps],
    )
    trainer.train()
    return steps.result(trainer.reference_seconds, live_reference=not precompute)


if __name__ == "__main__":
    command_line(train, "checkpointing", "precompute", "liger")
